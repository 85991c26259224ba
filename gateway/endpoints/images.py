"""`POST /v1/images/generations`."""

from gateway.endpoints.hot import JsonEndpoint
from gateway.images import read_image_request


class ImageGenerations(JsonEndpoint):
    path = "/v1/images/generations"
    endpoint = "images"
    read_request = staticmethod(read_image_request)
