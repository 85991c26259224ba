"""Images that come as an event stream: up to three partial ones, then the image itself with the usage of the call.

The events are `image_generation.partial_image` and `.completed`, for edits `image_edit.*` (openai-python 3.52.0). The
completed one ends the stream, and is held back until the call is settled.
"""

from typing import TYPE_CHECKING, Any

from gateway.catalog import Model
from gateway.event_relay import EventRelay
from gateway.metering import Metered
from gateway.relay import Guard

if TYPE_CHECKING:
    from gateway.images import ImageRequest

__all__ = ["ImageRelay"]

_KINDS = frozenset({"image_generation", "image_edit"})


class ImageRelay(EventRelay):
    """Lifetime: one answer."""

    __slots__ = ("_model", "_partial_images", "_report", "_request", "_returned")

    def __init__(self, guard: Guard, request: "ImageRequest", model: Model) -> None:
        super().__init__(guard)
        self._request = request
        self._model = model
        self._report: object = None
        self._partial_images = 0
        self._returned = 0

    def note(self, type: str, message: dict[str, Any]) -> bool:
        if type == "error" or message.get("error"):
            self.has_error_event = True
            return False
        kind, _, stage = type.rpartition(".")
        if kind not in _KINDS:
            return False
        has_image = isinstance(content := message.get("b64_json") or message.get("url"), str) and bool(content)
        if stage == "partial_image":
            self._partial_images += has_image
            return False
        if stage != "completed":
            return False
        self._returned += has_image
        self._report = message.get("usage", self._report)
        return True

    def metered(self, *, is_partial: bool) -> Metered:
        if is_partial and not self.has_error_event:
            # The provider drew it, whoever saw the end of it.
            return self._request.meter_unanswered(self._model)._replace(images=self._returned)
        return self._request.meter_returned(
            self._returned, self._report, self._model, partial_images=self._partial_images
        )
