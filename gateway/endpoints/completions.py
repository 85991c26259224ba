"""`POST /v1/completions`."""

from gateway.completions import read_completion_request
from gateway.endpoints.hot import JsonEndpoint


class Completions(JsonEndpoint):
    path = "/v1/completions"
    endpoint = "completions"
    read_request = staticmethod(read_completion_request)
