"""`POST /v1/embeddings`."""

from gateway.embeddings import read_embeddings_request
from gateway.endpoints.hot import JsonEndpoint


class Embeddings(JsonEndpoint):
    path = "/v1/embeddings"
    endpoint = "embeddings"
    read_request = staticmethod(read_embeddings_request)
