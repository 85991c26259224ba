"""Limits are a ceiling under any concurrency, and what is refused costs nothing and reaches nobody."""

import asyncio
from pathlib import Path

import pytest

from tests.rig import wire
from tests.rig.catalog import PRICES, cost_nano_usd
from tests.rig.client import Answer, exchange
from tests.rig.gateway import Gateway, Key, prompt
from tests.rig.upstream import Gate, Script, Send, Stall, Upstream
from tests.rig.waiting import soon

USAGE = wire.usage(10, 1)


async def at_once(gateway: Gateway, key: Key, script: Script, times: int, **fields: object) -> list[Answer]:
    return await asyncio.gather(*(gateway.chat(key, script, **fields) for _ in range(times)))


def split(answers: list[Answer]) -> tuple[list[Answer], list[Answer]]:
    """The admitted and the refused; anything else fails the test."""
    assert {answer.status for answer in answers} <= {200, 429}, {answer.status for answer in answers}
    return [a for a in answers if a.status == 200], [a for a in answers if a.status == 429]


def limited(gateway: Gateway, **overrides: object) -> Key:
    return gateway.new_key(gateway.new_creator("open", **overrides))


# Requests an hour


@pytest.mark.parametrize("limit", [1, 20])
async def test_exactly_as_many_parallel_requests_pass_as_the_hour_allows(
    gateway: Gateway, upstream: Upstream, limit: int
) -> None:
    key = limited(gateway, requests_per_hour=limit)
    script = upstream.reply(wire.completion(usage=USAGE))
    admitted, refused = split(await at_once(gateway, key, script, 64))
    assert len(admitted) == len(script.requests) == limit
    assert len(gateway.entries(creator=key.creator)) == limit
    for answer in refused:
        assert answer.error["code"] == "rate_limit_exceeded"
        assert 3500 < float(answer.header("retry-after") or 0) <= 3600
        assert 3_500_000 < float(answer.header("retry-after-ms") or 0) <= 3_600_000
        assert answer.header("x-should-retry") == "false"
        assert answer.request_id


async def test_the_limit_belongs_to_the_creator_not_to_the_key(gateway: Gateway, upstream: Upstream) -> None:
    creator = gateway.new_creator("open", requests_per_hour=6)
    keys = [gateway.new_key(creator) for _ in range(4)]
    script = upstream.reply(wire.completion(usage=USAGE))
    answers = [answer for key in keys for answer in await at_once(gateway, key, script, 8)]
    assert len(split(answers)[0]) == 6


async def test_one_creators_limit_is_not_anothers(gateway: Gateway, upstream: Upstream) -> None:
    script = upstream.reply(wire.completion(usage=USAGE))
    for key in (limited(gateway, requests_per_hour=1), limited(gateway, requests_per_hour=1)):
        assert (await gateway.chat(key, script)).status == 200
        assert (await gateway.chat(key, script)).status == 429


async def test_headers_count_down_and_say_when_it_ends(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, requests_per_hour=3)
    script = upstream.reply(wire.completion(usage=USAGE))
    answers = [await gateway.chat(key, script) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.header("x-ratelimit-limit-requests") for answer in answers] == ["3"] * 4
    assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["2", "1", "0", "0"]
    assert all(answer.header("x-ratelimit-reset-requests") for answer in answers)
    metadata = answers[-1].error["metadata"]
    assert {"limit", "remaining", "reset_at"} <= metadata.keys()
    assert "requests_per_hour" in str(metadata)


async def test_a_request_the_upstream_refused_stays_counted(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, requests_per_hour=1)
    script = upstream.reply({"error": {"message": "no", "type": "x", "param": None, "code": None}}, 400)
    assert (await gateway.chat(key, script)).status == 400
    assert (await gateway.chat(key, script)).status == 429


async def test_listing_models_takes_nothing(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, requests_per_hour=1)
    for _ in range(3):
        assert (await gateway.get(key, "/v1/models")).status == 200
    assert (await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE)))).status == 200


async def test_a_plans_limits_apply_and_an_upgrade_counts_at_once(gateway: Gateway, upstream: Upstream) -> None:
    key = gateway.new_key(plan="narrow")
    script = upstream.reply(wire.completion(usage=USAGE))
    assert len(split(await at_once(gateway, key, script, 25, max_tokens=10))[0]) == 20
    gateway.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"plan": "open"})
    assert (await gateway.chat(key, script)).status == 200
    gateway.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"plan": "narrow"})
    assert (await gateway.chat(key, script)).status == 429


# Money a month: `rig-dear` costs a dollar per output token and a millionth per input token


async def test_of_64_parallel_calls_that_need_60_percent_each_exactly_one_passes(
    gateway: Gateway, upstream: Upstream
) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    gate = Gate()
    script = upstream.script(gate, Send(wire.reply(wire.completion(usage=wire.usage(10, 1)))))
    request = gateway.chat_request(key, script, model="rig-dear", max_tokens=6)
    calls = [asyncio.get_running_loop().create_task(exchange(gateway.port, request)) for _ in range(64)]
    await soon(lambda: gate.is_reached.is_set() and sum(call.done() for call in calls) == 63, "63 refusals")
    gate.open()
    admitted, refused = split(await asyncio.gather(*calls))
    assert (len(admitted), len(refused), len(script.requests)) == (1, 63, 1)
    for answer in refused:
        assert answer.error["code"] in {"rate_limit_exceeded", "insufficient_quota"}
        assert answer.error["metadata"]
        assert 0 < float(answer.header("retry-after") or 0) <= 60, "money held by a call in flight comes back soon"
    assert gateway.entry(key)["cost_nano_usd"] == cost_nano_usd(10, 1, model="rig-dear")
    again = await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE)), model="rig-dear", max_tokens=6)
    assert again.status == 200


async def test_money_that_is_spent_is_gone_and_waiting_is_no_use(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    spent = upstream.reply(wire.completion(usage=wire.usage(10, 6)))
    assert (await gateway.chat(key, spent, model="rig-dear", max_tokens=6)).status == 200
    script = upstream.reply(wire.completion(usage=USAGE))
    answer = await gateway.chat(key, script, model="rig-dear", max_tokens=6)
    assert answer.status == 429
    assert answer.error["code"] == "insufficient_quota"
    assert answer.header("x-should-retry") == "false"
    assert script.requests == []
    assert len(gateway.entries(creator=key.creator)) == 1
    smaller = await gateway.chat(key, script, model="rig-dear", max_tokens=3)
    assert smaller.status == 200, "what still fits still passes"


async def test_a_call_above_the_whole_quota_never_passes(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    script = upstream.reply(wire.completion(usage=USAGE))
    answer = await gateway.chat(key, script, model="rig-dear", max_tokens=11)
    assert answer.status == 429
    assert answer.header("x-should-retry") == "false"
    assert answer.header("retry-after") is None
    assert answer.error["code"] in {"insufficient_quota", "request_too_large"}
    assert script.requests == []


async def test_choices_multiply_the_worst_case(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.chat(key, script, model="rig-dear", max_tokens=4, n=3)).status == 429
    assert (await gateway.chat(key, script, model="rig-dear", max_tokens=4, n=2)).status == 200


async def test_best_of_is_refused_or_multiplies_the_worst_case(gateway: Gateway, upstream: Upstream) -> None:
    """Some servers of this dialect work on every candidate, and all of them cost."""
    key = limited(gateway, quota_usd_per_month=10)
    script = upstream.reply(wire.completion(usage=USAGE))
    answer = await gateway.chat(key, script, model="rig-dear", max_tokens=4, best_of=3)
    assert answer.status in {400, 429}
    assert script.requests == []


async def test_the_larger_of_two_output_bounds_counts(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    script = upstream.reply(wire.completion(usage=USAGE))
    for low, high in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        answer = await gateway.chat(key, script, model="rig-dear", **{low: 1, high: 11})
        assert answer.status in {400, 429}
    assert script.requests == []


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_output_bound_count(gateway: Gateway, upstream: Upstream, field: str) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.chat(key, script, model="rig-dear", **{field: 11})).status == 429
    assert (await gateway.chat(key, script, model="rig-dear", **{field: 9})).status == 200
    assert script.request.json[field] == 9


async def test_a_refused_upstream_call_gives_its_money_back(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    error = {"error": {"message": "no", "type": "x", "param": None, "code": None}}
    for _ in range(3):
        refused = await gateway.chat(key, upstream.reply(error, 500), model="rig-dear", max_tokens=9)
        assert refused.status == 500
    fine = await gateway.chat(key, upstream.reply(wire.completion(usage=USAGE)), model="rig-dear", max_tokens=9)
    assert fine.status == 200


async def test_cheap_calls_are_charged_what_they_used_not_what_they_held(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=10)
    script = upstream.reply(wire.completion(usage=wire.usage(10, 1)))
    statuses = [(await gateway.chat(key, script, model="rig-dear", max_tokens=5)).status for _ in range(8)]
    # Five fit while at least five dollars are left: after n calls 10 - n are, and a few millionths less.
    assert statuses == [200] * 5 + [429] * 3


async def test_a_raised_quota_counts_at_once(gateway: Gateway, upstream: Upstream) -> None:
    key = limited(gateway, quota_usd_per_month=1)
    script = upstream.reply(wire.completion(usage=USAGE))
    assert (await gateway.chat(key, script, model="rig-dear", max_tokens=3)).status == 429
    gateway.admin_json("PATCH", f"/admin/creators/{key.creator}", json={"overrides": {"quota_usd_per_month": "5"}})
    assert (await gateway.chat(key, script, model="rig-dear", max_tokens=3)).status == 200


# After a crash


async def test_limits_are_as_they_were_after_a_kill(tmp_path: Path, upstream: Upstream) -> None:
    """Windows and money are rebuilt from entries and holds; the call that was open when the process died counts."""
    gateway = Gateway(tmp_path, upstream).start()
    try:
        windowed = limited(gateway, requests_per_hour=10)
        monied = limited(gateway, quota_usd_per_month=10)
        script = upstream.reply(wire.completion(usage=wire.usage(10, 4)))
        for _ in range(5):
            assert (await gateway.chat(windowed, script)).status == 200
        assert (await gateway.chat(monied, script, model="rig-dear", max_tokens=4)).status == 200
        endless = upstream.script(Send(wire.stream_head() + wire.framed(wire.text_events("a")[0])), Stall())
        open_streams = [
            await gateway.open_stream(windowed, endless),
            await gateway.open_stream(monied, endless, model="rig-dear", max_tokens=2),
        ]
        gateway.kill9()
        for stream in open_streams:
            assert not (await stream.read_rest()).is_complete
            await stream.close()
        gateway.start()

        assert len(split(await at_once(gateway, windowed, script, 20))[0]) == 4
        crashed = [entry for entry in gateway.entries(creator=monied.creator) if entry["outcome"] == "crashed"]
        assert len(crashed) == 1
        assert crashed[0]["usage_source"] == "estimated"
        assert 0 < crashed[0]["cost_nano_usd"] <= (2 + len(prompt(endless)) * 10**-3) * 10**9
        # 10 - 4 - at most 2.0001 are left: 4 no longer fit, 3 do.
        assert (await gateway.chat(monied, script, model="rig-dear", max_tokens=4)).status == 429
        assert (await gateway.chat(monied, script, model="rig-dear", max_tokens=3)).status == 200
        gateway.audit()
    finally:
        gateway.close()


def test_the_dear_model_costs_what_these_tests_assume() -> None:
    assert PRICES["rig-dear"]["output"] == "1000000"
    assert cost_nano_usd(0, 1, model="rig-dear") == 10**9
