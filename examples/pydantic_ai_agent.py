"""pydantic-ai: an agent over chat.

    pip install 'pydantic-ai-slim[openai]'
    GATEWAY_KEY=sk-gw-... python examples/pydantic_ai_agent.py

Prints:

    You said: Where shall I go?
"""

import os

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
provider = OpenAIProvider(base_url=url, api_key=os.environ["GATEWAY_KEY"])
agent = Agent(OpenAIChatModel("mock-1", provider=provider), instructions="Be brief.")
print(agent.run_sync("Where shall I go?").output)
