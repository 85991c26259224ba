"""`POST /v1/audio/speech`."""

from gateway.endpoints.hot import JsonEndpoint
from gateway.speech import read_speech_request


class Speech(JsonEndpoint):
    path = "/v1/audio/speech"
    endpoint = "speech"
    read_request = staticmethod(read_speech_request)
