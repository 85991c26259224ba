"""openai-agents: an agent over the Responses API, every call booked under its name.

    pip install openai-agents
    GATEWAY_KEY=sk-gw-... python examples/agents_run.py

Prints:

    You said: Where shall I go?
    1 request, 12 tokens
"""

import os

from agents import Agent, OpenAIResponsesModel, RunConfig, Runner
from openai import AsyncOpenAI

client = AsyncOpenAI(
    base_url=os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ["GATEWAY_KEY"],
    default_headers={"x-gateway-agent": "guide"},
)
agent = Agent(name="Guide", model=OpenAIResponsesModel("mock-1", client))
# It would send traces to OpenAI, with another key.
result = Runner.run_sync(agent, "Where shall I go?", run_config=RunConfig(tracing_disabled=True))
usage = result.context_wrapper.usage
print(result.final_output)
print(usage.requests, "request,", usage.total_tokens, "tokens")
