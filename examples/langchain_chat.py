"""LangChain: a prompt and a model in a chain, whole and as a stream.

    pip install langchain-openai
    GATEWAY_KEY=sk-gw-... python examples/langchain_chat.py

Prints:

    You said: Tell me about Ulm.
    You said: Tell me about Graz.
"""

import os

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

chat = ChatOpenAI(
    model="mock-1",
    base_url=os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ["GATEWAY_KEY"],
    default_headers={"x-gateway-agent": "guide"},
)
chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "Tell me about {city}.")]) | chat
print(chain.invoke({"city": "Ulm"}).content)
for piece in chain.stream({"city": "Graz"}):
    print(piece.content, end="")
print()
