"""OpenAI's SDK for Python: an image, and who paid for it. On the plan `free`, three images a day cost nothing.

    pip install openai
    GATEWAY_KEY=sk-gw-... python examples/openai_images.py

Prints:

    a PNG
    free images left today: 2
"""

import base64
import os
from typing import Any

from openai import OpenAI

url = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000") + "/v1"
client = OpenAI(base_url=url, api_key=os.environ["GATEWAY_KEY"])
answer = client.images.generate(model="mock-image", prompt="A red bicycle", response_format="b64_json")
image = base64.b64decode(answer.data[0].b64_json)
print("a PNG" if image.startswith(b"\x89PNG") else "something else")

me = client.get("/me", cast_to=dict[str, Any])  # what a key may ask about itself
print("free images left today:", me["free_images_today"]["left"])
