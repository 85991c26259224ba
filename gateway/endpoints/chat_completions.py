"""`POST /v1/chat/completions`."""

from gateway.chat import read_chat_request
from gateway.endpoints.hot import JsonEndpoint


class ChatCompletions(JsonEndpoint):
    path = "/v1/chat/completions"
    endpoint = "chat"
    read_request = staticmethod(read_chat_request)
