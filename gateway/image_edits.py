"""Editing and varying images: forms with files, or JSON with URLs, priced and metered as `gateway.images` does. Pure.

Every file of the form counts as an image that goes in: image, mask or markup. The form is written anew for the provider,
files as they came, values as they were read. JSON is what OpenAI takes for edits since 2026: `images` and `mask` with an
`image_url` each.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gateway.catalog import Model, ProviderRow
from gateway.images import ImageRequest, base_name, check_image_fields
from gateway.model_request import Outgoing
from gateway.multipart import FilePart, Form, dump_form
from gateway.request_fields import parse_body, wrong

__all__ = [
    "ImageEditRequest",
    "ImageVariationRequest",
    "read_image_edit_form",
    "read_image_edit_request",
    "read_image_variation_form",
]

_NUMBERS = frozenset({"n", "partial_images", "output_compression"})
_FLAGS = {"true": True, "false": False}
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_METADATA = re.compile(r"metadata\[([^\[\]]+)\]")
_SOURCES = frozenset("image images image_url image_urls input_image input_images".split())
"""What is edited; a mask or markup alone is nothing to draw on."""
_LISTS = _SOURCES | {"mask", "markup", "metadata"}
"""Fields whose names may have brackets: some servers read `n[]` as `n`, and a call would be held without it."""
_STREAM_FIELDS = ("stream", "partial_images")


@dataclass(slots=True)
class ImageEditRequest(ImageRequest):
    """`body` holds the values of a form by their names: a list for a name that came more than once."""

    files: tuple[FilePart, ...] = ()
    is_form: bool = False

    endpoint: ClassVar[str] = "image_edits"
    path: ClassVar[str] = "/images/edits"

    @property
    def cache_kind(self) -> Literal[""]:
        """Never: its files are no part of `body`, which is all that a kept answer is found by."""
        return ""

    def outgoing(self, model: Model, row: ProviderRow) -> Outgoing:
        """As a form where it came as one."""
        if not self.is_form:
            # Named, as `super()` knows no class that `slots` has made anew.
            return ImageRequest.outgoing(self, model, row)
        data, content_type = dump_form(_values(self.outgoing_body(model, row)), self.files)
        return Outgoing(self.path, data, content_type, is_streaming=self.is_streaming)


@dataclass(slots=True)
class ImageVariationRequest(ImageEditRequest):
    endpoint: ClassVar[str] = "image_variations"
    path: ClassVar[str] = "/images/variations"


def read_image_edit_form(form: Form) -> ImageEditRequest:
    """Check a form. Raises `RequestError` saying what to change."""
    request = ImageEditRequest(_body(form), "", files=tuple(form.files), is_form=True)
    _check(request)
    return request


def read_image_edit_request(raw: bytes) -> ImageEditRequest:
    """Parse and check a JSON body. Raises `RequestError` saying what to change."""
    request = ImageEditRequest(parse_body(raw), "")
    _check(request)
    return request


def read_image_variation_form(form: Form) -> ImageVariationRequest:
    """Check a form. Variations are never streamed. Raises `RequestError` saying what to change."""
    body = {field: value for field, value in _body(form).items() if field not in _STREAM_FIELDS}
    request = ImageVariationRequest(body, "", files=tuple(form.files), is_form=True)
    _check(request, has_prompt=False)
    return request


def _check(request: ImageEditRequest, *, has_prompt: bool = True) -> None:
    check_image_fields(request, has_prompt=has_prompt)
    for field in request.body:
        if "[" in field and base_name(field) not in _LISTS:
            raise wrong(base_name(field), "must be written without brackets")
    _require_source(request)
    request.references += len(request.files)


def _require_source(request: ImageEditRequest) -> None:
    names = {base_name(file.name) for file in request.files}
    names.update(base_name(field) for field, value in request.body.items() if value)
    if not names & _SOURCES:
        raise wrong("image", "is required", code="missing_required_parameter")


def _body(form: Form) -> dict[str, Any]:
    """The values of a form as a JSON body would have them: numbers and flags as such, labels in `metadata`.

    An empty value of a number or flag is what SDKs make of `None`, and left out.
    """
    body: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    seen: dict[str, list[str]] = {}
    for name, value in form.fields:
        if label := _METADATA.fullmatch(name):
            metadata[label[1]] = value
        else:
            seen.setdefault(name, []).append(value)
    for name, values in seen.items():
        given: Any = values[0] if len(values) == 1 else values
        if name not in _NUMBERS and name != "stream":
            body[name] = given
        elif given != "":
            body[name] = _typed(name, given)
    if metadata:
        body["metadata"] = metadata
    return body


def _typed(name: str, value: Any) -> Any:
    """The number or flag that `value` writes; itself where it writes none, for the checks that follow to refuse."""
    if not isinstance(value, str):
        return value
    if name == "stream":
        return _FLAGS.get(value.lower(), value)
    return int(value) if _INTEGER.fullmatch(value) else value


def _values(body: dict[str, Any]) -> list[tuple[str, str]]:
    """`body` as the values of a form."""
    values: list[tuple[str, str]] = []
    for name, value in body.items():
        if isinstance(value, dict):
            values += [(f"{name}[{key}]", _text(one)) for key, one in value.items()]
        else:
            values += [(name, _text(one)) for one in (value if isinstance(value, list) else [value])]
    return values


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
