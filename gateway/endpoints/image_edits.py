"""`POST /v1/images/edits`: a form with files, or JSON."""

from starlette.types import Receive

from gateway.endpoints.hot import read_body
from gateway.endpoints.images import ImageEndpoint
from gateway.image_edits import read_image_edit_form, read_image_edit_request
from gateway.images import ImageRequest
from gateway.multipart import read_form
from gateway.responder import Header


class ImageEdits(ImageEndpoint):
    path = "/v1/images/edits"
    endpoint = "image_edits"

    async def read_images(self, headers: list[Header], receive: Receive) -> ImageRequest:
        kind = dict(headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind == b"application/json":
            return read_image_edit_request(await read_body(headers, receive, self._body_bytes_max))
        return read_image_edit_form(await read_form(headers, receive, bytes_max=self._body_bytes_max))
