"""`POST /v1/chat/completions`."""

from gateway.chat import read_chat_request
from gateway.endpoints.hot import ModelEndpoint


class ChatCompletions(ModelEndpoint):
    path = "/v1/chat/completions"
    endpoint = "chat"
    read_request = staticmethod(read_chat_request)
