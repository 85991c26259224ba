"""A catalog and plans in which limits are easy to reckon: input is free and output costs whole cents or dollars a token.

Beside them: many calls at once, images, what a creator is shown, and the books compared with what really happened.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.rig import wire
from tests.rig.client import Answer, exchange, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key, bearer, chat_body, prompt
from tests.rig.upstream import Action, Gate, Request, Script, Send, Upstream
from tests.rig.waiting import soon

IMAGES = "/v1/images/generations"
USD = 10**9
"""A dollar, in nano-dollars."""
CENT = USD // 100

PLANS = """
[plans.base]
quota_usd_per_month = 1000000
budget_usd_per_month = "unlimited"
free_images_per_day = 0

[plans.hundred]
quota_usd_per_month = 1000000

[plans.small]
requests_per_hour = 5
quota_usd_per_month = 5
free_images_per_day = 3

[plans.large]
requests_per_hour = 100
quota_usd_per_month = 50
free_images_per_day = 3

[plans.windowed]
requests_per_minute = 20
requests_per_day = 40
tokens_per_day = 1_000_000_000
quota_usd_per_month = 1000000
budget_usd_per_month = "unlimited"

[credit_packages.pack]
credits = 100
price_usd = 9
"""


def chat_model(
    name: str,
    output_usd_per_mtok: str,
    *,
    input_usd_per_mtok: str = "0",
    tier: str = "standard",
    capabilities: str = '"tools", "json_schema", "vision"',
    output_tokens_max: int = 1000,
    context_tokens_max: int = 1_000_000,
    provider: str = "rig",
    **fields: object,
) -> str:
    """A row whose upstream name is `up-<name>`; `fields` are further lines, text in quotes."""
    further = "\n".join(f"{key} = {_toml(value)}" for key, value in fields.items())
    return f"""
[models."{name}"]
provider = "{provider}"
upstream_model = "up-{name}"
endpoints = ["chat"]
tier = "{tier}"
input_usd_per_mtok = {input_usd_per_mtok}
output_usd_per_mtok = {output_usd_per_mtok}
context_tokens_max = {context_tokens_max}
output_tokens_max = {output_tokens_max}
capabilities = [{capabilities}]
{further}
"""


def image_model(name: str, prices: Mapping[str, str], **fields: object) -> str:
    further = "\n".join(f"{key} = {_toml(value)}" for key, value in fields.items())
    table = "\n".join(f'"{variant}" = {price}' for variant, price in prices.items())
    return f"""
[models."{name}"]
provider = "rig"
upstream_model = "up-{name}"
endpoints = ["images"]
tier = "premium"
image_default = "1024x1024/standard"
{further}

[models."{name}".image_usd]
{table}
"""


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


DALLE = {"1024x1024/standard": "4", "1024x1024/hd": "10", "1024x1792/hd": "12"}

TIERED = """
[models."tiered".long_prompt]
above_input_tokens = 1_000
input_usd_per_mtok = 20
output_usd_per_mtok = 30

[models."tiered".service_tiers.flex]
input_usd_per_mtok = 5
output_usd_per_mtok = 10

[models."tiered".service_tiers.flex.long_prompt]
above_input_tokens = 1_000
input_usd_per_mtok = 10
output_usd_per_mtok = 15

[models."tiered".service_tiers.priority]
input_usd_per_mtok = 40
output_usd_per_mtok = 80
"""

MODELS = "".join(
    [
        # One dollar, ten cents and one cent a token of output.
        chat_model("dollar", "1000000", tier="premium"),
        chat_model("premium", "1000000", tier="premium", downgrade_to="middle"),
        chat_model("middle", "100000", capabilities="", downgrade_to="cent"),
        chat_model("cent", "10000", tier="economy", capabilities='"tools"'),
        chat_model("pair", "1000000", tier="premium", downgrade_to="plain"),
        chat_model("plain", "10000", tier="economy", capabilities=""),
        # A cent a token, and answers so long that one of them could cost ten thousand dollars.
        chat_model("endless", "10000", output_tokens_max=1_000_000),
        chat_model("tiered", "20", input_usd_per_mtok="10", output_tokens_max=10_000) + TIERED,
        image_model("dall-e-3", DALLE, downgrade_to="flux-schnell"),
        image_model("flux-schnell", {"*": "0.003"}),
        image_model("picture", {"*": "0.04"}, credits=2),
        image_model("masterpiece", {"*": "4"}, credits=10, downgrade_to="picture"),
    ]
)


def policy_gateway(folder: Path, upstream: Upstream, *, plans: str = PLANS, **settings: object) -> Gateway:
    return Gateway(folder, upstream, settings=settings, models=MODELS, plans=plans)


def served(gateway: Gateway) -> Iterator[Gateway]:
    """For fixtures: whatever the tests did, no hold is left, the ledger verifies, and the process ends cleanly."""
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


def limited(gateway: Gateway, plan: str = "base", /, **overrides: object) -> Key:
    """A key of a new creator with these overrides."""
    return gateway.new_key(gateway.new_creator(plan, **overrides))


def override(gateway: Gateway, key: Key, **overrides: object) -> None:
    gateway.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"overrides": overrides})


def grant(gateway: Gateway, key: Key, credits: int, payer: str = "credits", **fields: object) -> Any:
    body = {"payer": payer, "credits": credits, **fields}
    return gateway.admin_json("POST", f"/admin/creators/{key.creator}/credits", json=body)


# Answers of the provider


def says(upstream: Upstream, tokens: int, prompt_tokens: int = 10, **fields: object) -> Script:
    """A chat answer that consumed so many tokens of output; `fields` go into the answer's top level."""
    return upstream.reply({**wire.completion(usage=wire.usage(prompt_tokens, tokens)), **fields})


def held_back(upstream: Upstream, body: object) -> tuple[Script, Gate]:
    """The answer `body`, to every request, from the moment the gate is opened."""
    gate = Gate()
    return upstream.script(gate, Send(wire.reply(body))), gate


def pictures(count: int) -> dict[str, Any]:
    return {"created": wire.CREATED, "data": [{"url": f"http://images.test/{number}.png"} for number in range(count)]}


def paints(upstream: Upstream) -> Script:
    """As many images as each request asks for."""

    def answer(request: Request) -> list[Action]:
        return [Send(wire.reply(pictures(request.json.get("n", 1))))]

    return upstream.answer_with(answer)


# Calls


def image_body(script: Script | None, **fields: object) -> dict[str, object]:
    body = {"model": "picture", "prompt": prompt(script), **fields}
    return {name: value for name, value in body.items() if value is not None}


async def paint(gateway: Gateway, key: Key, script: Script | None, headers: Any = (), **fields: object) -> Answer:
    return await gateway.post(key, image_body(script, **fields), headers, IMAGES)


async def call(gateway: Gateway, key: Key, script: Script | None, headers: Any = (), **fields: object) -> Answer:
    """A chat call with headers of its own."""
    return await gateway.post(key, chat_body(script, **fields), headers)


def chat_request(key: Key, script: Script, headers: Any = (), **fields: object) -> bytes:
    return request_bytes("POST", CHAT, key=bearer(key), body=chat_body(script, **fields), headers=headers)


def image_request(key: Key, script: Script, headers: Any = (), **fields: object) -> bytes:
    return request_bytes("POST", IMAGES, key=bearer(key), body=image_body(script, **fields), headers=headers)


def start(gateway: Gateway, request: bytes, times: int) -> list["asyncio.Task[Answer]"]:
    """So many calls under way."""
    return [asyncio.get_running_loop().create_task(exchange(gateway.port, request)) for _ in range(times)]


async def at_once(gateway: Gateway, request: bytes, times: int) -> list[Answer]:
    return await asyncio.gather(*start(gateway, request, times))


def statuses(answers: list[Answer]) -> dict[int, int]:
    return dict(Counter(answer.status for answer in answers))


def split(answers: list[Answer]) -> tuple[list[Answer], list[Answer]]:
    """The admitted and the refused; anything else fails the test."""
    assert {answer.status for answer in answers} <= {200, 429}, statuses(answers)
    return [a for a in answers if a.status == 200], [a for a in answers if a.status == 429]


def served_by(answers: list[Answer]) -> dict[str | None, int]:
    assert {answer.status for answer in answers} == {200}, statuses(answers)
    return dict(Counter(answer.header("x-gateway-model") for answer in answers))


# What there is to see


async def me(gateway: Gateway, key: Key, path: str = "") -> Any:
    answer = await gateway.get(key, "/v1/me" + path)
    assert answer.status == 200, answer
    return answer.json


async def shown_limit(gateway: Gateway, key: Key, name: str) -> dict[str, Any]:
    (found,) = [limit for limit in (await me(gateway, key))["limits"] if limit["name"] == name]
    return dict(found)


def usage_entries(gateway: Gateway, key: Key) -> list[dict[str, Any]]:
    return gateway.entries(creator=key.creator, kind="usage")


async def assert_books_agree(
    gateway: Gateway, key: Key, *, admitted: int, requests_lost_max: int = 0
) -> list[dict[str, Any]]:
    """So many calls are in the ledger, nothing is held, and `/v1/me` shows the ledger's sums. The entries, newest first.

    `requests_lost_max`: so many requests may be counted of calls that were not admitted.
    """
    await soon(lambda: len(usage_entries(gateway, key)) >= admitted, f"{admitted} entries")
    entries = usage_entries(gateway, key)
    assert len(entries) == admitted
    seen = await me(gateway, key)
    assert [limit["name"] for limit in seen["limits"] if limit["held"]] == []
    assert seen["month"]["calls"] == admitted
    assert seen["month"]["cost_nano_usd"] == sum(entry["cost_nano_usd"] for entry in entries)
    assert seen["month"]["charge_nano_usd"] == sum(entry["charge_nano_usd"] for entry in entries)
    used = {limit["name"]: limit["used"] for limit in seen["limits"]}
    assert used["quota_usd_per_month"] == seen["month"]["charge_nano_usd"]
    assert used["budget_usd_per_month"] == seen["month"]["cost_nano_usd"]
    if "requests_per_hour" in used:
        assert admitted <= used["requests_per_hour"] <= admitted + requests_lost_max
    return entries
