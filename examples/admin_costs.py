"""The admin API with nothing but the standard library: a creator, a key, a few calls, and their costs by feature as CSV.

    GATEWAY_ADMIN_KEY=... python examples/admin_costs.py

It takes the key that was made back at its end, and can be run again. Prints:

    creator example on the plan starter
    feature,calls,cost_usd
    chat,2,0.0000054
    search,1,0.0000027
"""

import csv
import io
import json
import os
import time
import urllib.parse
import urllib.request
from typing import Any

URL = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8000")
ADMIN_KEY = os.environ["GATEWAY_ADMIN_KEY"]


def ask(method: str, path: str, key: str, body: object = None, **headers: str) -> Any:
    """The JSON of an answer, or the text of any other; an error raises."""
    request = urllib.request.Request(
        URL + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json", **headers},
    )
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
        return json.loads(text) if "json" in answer.headers["content-type"] else text


creator = f"example-{time.time_ns()}"  # ids are never used again
made = ask("POST", "/admin/creators", ADMIN_KEY, {"id": creator, "plan": "starter"})
print("creator example on the plan", made["plan"])
key = ask("POST", f"/admin/creators/{creator}/keys", ADMIN_KEY, {"name": "an example"})

for feature in ("chat", "chat", "search"):
    body = {"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]}
    ask("POST", "/v1/chat/completions", key["key"], body, **{"x-gateway-feature": feature})

query = urllib.parse.urlencode({"group_by": "feature", "creator": creator, "format": "csv"})
rows = csv.DictReader(io.StringIO(ask("GET", f"/admin/costs?{query}", ADMIN_KEY)))
columns = ("feature", "calls", "cost_usd")
print(",".join(columns))
for row in sorted(rows, key=lambda row: row["feature"]):
    print(",".join(row[column] for column in columns))

ask("DELETE", f"/admin/keys/{key['id']}", ADMIN_KEY)
