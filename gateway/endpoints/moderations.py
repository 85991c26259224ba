"""`POST /v1/moderations`."""

from gateway.endpoints.hot import JsonEndpoint
from gateway.moderations import read_moderations_request


class Moderations(JsonEndpoint):
    path = "/v1/moderations"
    endpoint = "moderations"
    read_request = staticmethod(read_moderations_request)
