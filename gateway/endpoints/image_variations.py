"""`POST /v1/images/variations`: a form with a file."""

from starlette.types import Receive

from gateway.endpoints.images import ImageEndpoint
from gateway.image_edits import read_image_variation_form
from gateway.images import ImageRequest
from gateway.multipart import read_form
from gateway.responder import Header


class ImageVariations(ImageEndpoint):
    path = "/v1/images/variations"
    endpoint = "image_variations"

    async def read_images(self, headers: list[Header], receive: Receive) -> ImageRequest:
        return read_image_variation_form(await read_form(headers, receive, bytes_max=self._body_bytes_max))
