"""`POST /v1/images/generations`."""

from gateway.endpoints.hot import ModelEndpoint
from gateway.images import read_image_request


class ImageGenerations(ModelEndpoint):
    path = "/v1/images/generations"
    endpoint = "images"
    read_request = staticmethod(read_image_request)
