"""`POST /v1/images/generations`, and what all paths for images share."""

from abc import abstractmethod

from starlette.types import Receive

from gateway.endpoints.hot import ModelEndpoint, read_body
from gateway.images import ImageRequest, read_image_request
from gateway.kept_images import KeptImages
from gateway.pipeline import Pipeline
from gateway.responder import Header


class ImageEndpoint(ModelEndpoint):
    """A path whose answers are images. `keeper` is where they are kept, None where they are not."""

    def __init__(self, pipeline: Pipeline, body_bytes_max: int, keeper: KeptImages | None = None) -> None:
        super().__init__(pipeline, body_bytes_max)
        self._keeper = keeper

    @abstractmethod
    async def read_images(self, headers: list[Header], receive: Receive) -> ImageRequest:
        """The checked request. Raises `RequestError`."""

    async def read(self, headers: list[Header], receive: Receive) -> ImageRequest:
        request = await self.read_images(headers, receive)
        request.keeper = None if self._keeper is None else self._keeper.keeper(request.body)
        return request


class ImageGenerations(ImageEndpoint):
    path = "/v1/images/generations"
    endpoint = "images"

    async def read_images(self, headers: list[Header], receive: Receive) -> ImageRequest:
        return read_image_request(await read_body(headers, receive, self._body_bytes_max))
