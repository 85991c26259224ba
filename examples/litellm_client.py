"""litellm as a client: `openai/` and the gateway's name for the model.

    pip install 'litellm>=1.84'
    GATEWAY_KEY=sk-gw-... python examples/litellm_client.py

Prints:

    You said: Hello
"""

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it fetches a price list while it is imported
import litellm

answer = litellm.completion(
    model="openai/mock-1",
    messages=[{"role": "user", "content": "Hello"}],
    api_base=os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ["GATEWAY_KEY"],
    extra_headers={"x-gateway-feature": "chat"},
)
print(answer.choices[0].message.content)
