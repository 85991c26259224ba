"""`/v1/responses` from the creator's side: calls native and bridged, what is kept of them, and whose it is."""

from pathlib import Path

import orjson
import pytest
from starlette.types import Message

from gateway.endpoints.responses import Responses
from gateway.errors import RequestError
from tests.ledger.books import count
from tests.responses.native_provider import TEXT, TOKENS_IN, TOKENS_OUT, NativeProvider
from tests.responses.world import events_of, responses_world, text_of

NATIVE_COST = (TOKENS_IN * 1_000) + (TOKENS_OUT * 10_000)
"""Nano-dollars at 1 and 10 USD a million; cached input has no rate of its own in these rows."""


async def test_a_chat_model_answers_a_response_and_is_billed_for_its_chat(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        answer = await world.respond(key, input="hello you")
        assert answer.status == 200
        assert answer.json["object"] == "response"
        assert answer.json["status"] == "completed"
        assert text_of(answer.json) == "You said: hello you"
        usage = answer.json["usage"]
        cost = usage["input_tokens"] * 1_000 + usage["output_tokens"] * 10_000
        entry = ("responses", "talk", "provider", cost, "ok")
        assert world.gateway.entries("endpoint, served_model, usage_source, cost_nano_usd, outcome") == [entry]
        assert world.gateway.differences() == []


async def test_a_bridged_stream_ends_with_the_response_that_is_kept(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        answer = await world.respond(key, input="hello you", stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.body)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[0]["type"] == "response.created"
        assert events[-1]["type"] == "response.completed"
        last = events[-1]["response"]
        assert last["id"] == events[0]["response"]["id"]
        assert await world.sent(key, "GET", f"/responses/{last['id']}") == last
        cost = last["usage"]["input_tokens"] * 1_000 + last["usage"]["output_tokens"] * 10_000
        assert world.gateway.entries("cost_nano_usd, usage_source") == [(cost, "provider")]


async def test_a_bridged_stream_that_breaks_is_told_by_an_error_event_and_kept_by_nobody(tmp_path: Path) -> None:
    models = (
        '[models."dying"]\nprovider = "mock"\nupstream_model = "f0d0n8-die"\nendpoints = ["chat"]\n'
        'display_name = "x"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 10\n'
    )
    async with responses_world(tmp_path, models) as world:
        key = await world.gateway.new_key()
        answer = await world.respond(key, "dying", input="hello you", stream=True)
        *before, last = events_of(answer.body)
        assert b"event: error\n" in answer.body
        assert (last["type"], last["code"]) == ("error", "upstream_died")
        assert last["sequence_number"] == before[-1]["sequence_number"] + 1
        ((source, outcome, output),) = world.gateway.entries("usage_source, outcome, text_output")
        assert (source, outcome) == ("estimated", "upstream_died")
        said = "".join(event["delta"] for event in before if event["type"] == "response.output_text.delta")
        words = sum(event["type"] == "response.output_text.delta" for event in before)
        assert output == max(words, -(-len(said) // 4)) > 0
        assert (await world.ask(key, "GET", f"/responses/{before[0]['response']['id']}")).status_code == 404


async def test_a_follow_up_sends_what_was_asked_and_answered_before(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        first = (await world.respond(key, input="one")).json
        second = (await world.respond(key, input="two", previous_response_id=first["id"])).json
        third = (await world.respond(key, input="three", previous_response_id=second["id"])).json
        assert third["previous_response_id"] == second["id"]
        tokens = [response["usage"]["input_tokens"] for response in (first, second, third)]
        # The mock's token is four bytes of all messages: each call has every word before it.
        words = ["one", "You said: one", "two", "You said: two", "three"]
        assert tokens == [-(-len("".join(words[:upto])) // 4) for upto in (1, 3, 5)]


async def test_a_follow_up_of_a_deleted_or_unknown_response_is_refused_in_openais_words(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        first = (await world.respond(key, input="one")).json
        second = (await world.respond(key, input="two", previous_response_id=first["id"])).json
        assert (await world.sent(key, "DELETE", f"/responses/{first['id']}"))["deleted"] is True
        for previous, missing in ((first["id"], first["id"]), (second["id"], first["id"]), ("resp_x", "resp_x")):
            refused = await world.respond(key, previous_response_id=previous)
            error = refused.json["error"]
            assert (refused.status, error["code"]) == (400, "previous_response_not_found")
            assert (error["param"], error["message"]) == (
                "previous_response_id",
                f"Previous response with id '{missing}' not found.",
            )
        assert len(world.gateway.entries("id")) == 2


async def test_another_creator_finds_no_response_that_is_not_its_own(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        mine, theirs = await world.gateway.new_key("acme"), await world.gateway.new_key("other")
        kept = (await world.respond(mine, input="secret")).json["id"]
        unknown = await world.ask(theirs, "GET", "/responses/resp_unknown")
        for method, path in (
            ("GET", f"/responses/{kept}"),
            ("DELETE", f"/responses/{kept}"),
            ("POST", f"/responses/{kept}/cancel"),
            ("GET", f"/responses/{kept}/input_items"),
        ):
            refused = await world.ask(theirs, method, path)
            assert refused.status_code == unknown.status_code == 404
            said = refused.json()["error"]["message"].replace(kept, "resp_unknown")
            assert said == unknown.json()["error"]["message"]
        assert (await world.respond(theirs, previous_response_id=kept)).code == "previous_response_not_found"
        reference = [
            {"type": "item_reference", "id": (await world.sent(mine, "GET", f"/responses/{kept}"))["output"][0]["id"]}
        ]
        assert (await world.respond(theirs, input=reference)).code == "item_not_found"
        assert (await world.respond(mine, input=[*reference, {"role": "user", "content": "more"}])).status == 200


async def test_a_response_that_is_not_stored_is_not_there(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        answer = (await world.respond(key, store=False)).json
        assert answer["store"] is False
        assert (await world.ask(key, "GET", f"/responses/{answer['id']}")).status_code == 404
        assert (await world.respond(key, previous_response_id=answer["id"])).code == "previous_response_not_found"


async def test_input_items_are_listed_in_pages_either_way(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        asked = [{"role": "user", "content": f"word {number}"} for number in range(5)]
        path = f"/responses/{(await world.respond(key, input=asked)).json['id']}/input_items"
        forward = (await world.sent(key, "GET", f"{path}?order=asc"))["data"]
        assert [item["content"][0]["text"] for item in forward] == [f"word {number}" for number in range(5)]
        newest = await world.sent(key, "GET", f"{path}?limit=2")
        assert newest["data"] == forward[:2:-1]
        assert (newest["first_id"], newest["last_id"], newest["has_more"]) == (forward[4]["id"], forward[3]["id"], True)
        rest = await world.sent(key, "GET", f"{path}?limit=3&after={newest['last_id']}")
        assert (rest["data"], rest["has_more"]) == (forward[2::-1], False)
        for query in ("limit=0", "limit=101", "order=up", "after=msg_unknown", "after=a/b"):
            assert (await world.ask(key, "GET", f"{path}?{query}")).status_code == 400


async def test_nothing_that_was_answered_can_be_cancelled_or_streamed_again(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        path = f"/responses/{(await world.respond(key)).json['id']}"
        refused = await world.ask(key, "POST", f"{path}/cancel")
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "Cannot cancel a synchronous response."
        assert (await world.ask(key, "GET", f"{path}?stream=true")).status_code == 400
        assert (await world.ask(key, "GET", f"{path}?include[]=reasoning.encrypted_content")).status_code == 200


async def test_input_tokens_are_estimated_with_what_came_before_and_cost_nothing(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        alone = {"model": "talk", "input": "x" * 400}
        counted = await world.sent(key, "POST", "/responses/input_tokens", json=alone)
        assert (counted["object"], counted["input_tokens"]) == ("response.input_tokens", 100)
        previous = (await world.respond(key, input="y" * 400)).json["id"]
        more = {**alone, "previous_response_id": previous}
        after = (await world.sent(key, "POST", "/responses/input_tokens", json=more))["input_tokens"]
        assert after == -(-(800 + len("You said: ") + 400) // 4)
        assert len(world.gateway.entries("id")) == 1


async def test_a_native_response_passes_as_it_came_and_is_asked_for_at_its_provider(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        body = {"reasoning": {"effort": "low"}, "unknown_field": [1, 2.5]}
        answer = await world.respond(key, "big", **body)
        assert text_of(answer.json) == TEXT
        (asked,) = provider.asked
        assert (asked.method, asked.target) == ("POST", "/responses")
        assert asked.body == {"model": "big-upstream", "input": "hi", **body}
        facts = "cost_nano_usd, uncached_input, cached_input, text_output, reasoning"
        assert world.gateway.entries(facts) == [(NATIVE_COST, TOKENS_IN - 8, 8, TOKENS_OUT - 2, 2)]
        path = f"/responses/{answer.json['id']}"
        assert await world.sent(key, "GET", path) == answer.json
        items = await world.sent(key, "GET", f"{path}/input_items?limit=3&after=msg_1")
        assert items["data"] == [{"id": "msg_theirs"}]
        assert provider.asked[-1].target == f"{path}/input_items?limit=3&order=desc&after=msg_1"
        assert (await world.sent(key, "DELETE", path))["deleted"] is True
        assert provider.kept == {}
        asked_before = len(provider.asked)
        assert (await world.ask(key, "GET", path)).status_code == 404
        assert len(provider.asked) == asked_before
        assert len(world.gateway.entries("id")) == 1


async def test_a_native_response_is_nobodys_but_its_creators(tmp_path: Path) -> None:
    """All creators share the provider's key: only the row tells whose a response is."""
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        mine, theirs = await world.gateway.new_key("acme"), await world.gateway.new_key("other")
        kept = (await world.respond(mine, "big")).json
        asked_before = len(provider.asked)
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            assert (await world.ask(theirs, method, f"/responses/{kept['id']}{path}")).status_code == 404
        refused = await world.respond(theirs, "big", previous_response_id=kept["id"])
        assert refused.code == "previous_response_not_found"
        reference = [{"type": "item_reference", "id": kept["output"][0]["id"]}]
        assert (await world.respond(theirs, "big", input=reference)).code == "item_not_found"
        assert len(provider.asked) == asked_before
        assert (await world.respond(mine, "big", input=reference)).status == 200
        assert provider.asked[-1].body["input"] == reference


async def test_a_response_gone_at_its_provider_can_be_deleted_and_its_refusals_keep_no_secret(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        path = f"/responses/{(await world.respond(key, 'big')).json['id']}"
        provider.kept.clear()
        provider.secret = "sk-" + "a" * 40
        gone = await world.ask(key, "GET", path)
        assert gone.status_code == 404
        assert "not found" in gone.json()["error"]["message"]
        assert provider.secret not in gone.text
        assert (await world.sent(key, "DELETE", path))["deleted"] is True


async def test_a_native_stream_keeps_what_its_last_event_says(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big", "big-cut")) as world:
        key = await world.gateway.new_key()
        for model, status in (("big", "completed"), ("big-cut", "incomplete")):
            answer = await world.respond(key, model, stream=True)
            last = events_of(answer.body)[-1]
            assert last["type"] == f"response.{status}"
            assert (await world.sent(key, "GET", f"/responses/{last['response']['id']}"))["status"] == status
        assert world.gateway.entries("cost_nano_usd, usage_source, outcome") == [(NATIVE_COST, "provider", "ok")] * 2


async def test_a_failed_native_stream_is_passed_on_charged_as_reported_and_not_kept(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big-fails")) as world:
        key = await world.gateway.new_key()
        answer = await world.respond(key, "big-fails", stream=True)
        last = events_of(answer.body)[-1]
        assert last["type"] == "response.failed"
        assert world.gateway.entries("cost_nano_usd, outcome") == [(NATIVE_COST, "upstream_error")]
        assert (await world.ask(key, "GET", f"/responses/{last['response']['id']}")).status_code == 404


async def test_a_native_stream_that_dies_is_told_by_an_error_event_and_charged_for_its_words(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big-dies")) as world:
        key = await world.gateway.new_key()
        answer = await world.respond(key, "big-dies", stream=True)
        events = events_of(answer.body)
        assert [event["type"] for event in events[-2:]] == ["response.output_text.delta", "error"]
        assert events[-1]["sequence_number"] == 3
        assert world.gateway.entries("text_output, usage_source, outcome") == [(2, "estimated", "upstream_died")]


async def test_a_native_follow_up_names_the_previous_response_and_holds_its_context(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        first = (await world.respond(key, "big")).json["id"]
        await world.respond(key, "big", previous_response_id=first)
        assert provider.asked[-1].body["previous_response_id"] == first
        assert provider.asked[-1].body["input"] == "hi"
        # The last figure of the estimate is the hold: the worst case.
        holds = [orjson.loads(decision)["estimate"][-1] for (decision,) in world.gateway.entries("decision")]
        assert holds[1] - holds[0] == (TOKENS_IN + TOKENS_OUT) * 1_000


async def test_references_hold_the_context_of_each_response_they_lead_to_once(tmp_path: Path) -> None:
    """How large an item is that the provider keeps is not known; that of its response is, and is no less."""
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        made = [(await world.respond(key, "big")).json["output"][0]["id"] for _ in range(2)]
        references = [{"type": "item_reference", "id": item} for item in (*made, made[0])]
        others = [{"type": "compaction", "id": item} for item in (*made, made[0])]
        assert (await world.respond(key, "big", input=references)).status == 200
        assert (await world.respond(key, "big", input=others)).status == 200
        *_, with_context, without = world.gateway.entries("decision")
        holds = [orjson.loads(decision)["estimate"][-1] for (decision,) in (with_context, without)]
        assert holds[0] - holds[1] == 2 * (TOKENS_IN + TOKENS_OUT) * 1_000


async def test_a_native_model_continues_what_the_gateway_keeps_as_items(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        first = (await world.respond(key, "talk", input="one")).json
        second = await world.respond(key, "big", input="two", previous_response_id=first["id"])
        sent = provider.asked[-1].body
        assert "previous_response_id" not in sent
        assert [(item["role"], "id" in item) for item in sent["input"]] == [
            ("user", False),
            ("assistant", False),
            ("user", False),
        ]
        assert sent["input"][1]["content"][0]["text"] == "You said: one"
        # From here on the provider has all of it.
        await world.respond(key, "big", input="three", previous_response_id=second.json["id"])
        assert provider.asked[-1].body["previous_response_id"] == second.json["id"]


@pytest.mark.parametrize("input", ["more", None], ids=["with-input", "without"])
async def test_what_another_provider_keeps_cannot_be_continued(tmp_path: Path, input: str | None) -> None:
    async with NativeProvider() as provider, NativeProvider() as second:
        rows = provider.rows("big") + second.rows("else", provider="elsewhere")
        async with responses_world(tmp_path, rows) as world:
            key = await world.gateway.new_key()
            first = (await world.respond(key, "big")).json
            for model in ("talk", "else"):
                refused = await world.respond(key, model, input=input, previous_response_id=first["id"])
                assert (refused.status, refused.code) == (400, "previous_response_elsewhere")
                reference = [{"type": "item_reference", "id": first["output"][0]["id"]}]
                assert (await world.respond(key, model, input=reference)).code == "previous_response_elsewhere"
            assert second.asked == []
            assert len(world.gateway.entries("id")) == 1


async def test_nothing_of_a_deleted_creator_is_kept(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        mine, theirs = await world.gateway.new_key("acme"), await world.gateway.new_key("other")
        kept = (await world.respond(mine)).json["id"]
        others = (await world.respond(theirs)).json["id"]
        await world.sent(mine, "POST", "/conversations", json={"items": [{"role": "user", "content": "x"}]})
        await world.store.forget("acme")
        assert (await world.ask(mine, "GET", f"/responses/{kept}")).status_code == 404
        assert (await world.ask(theirs, "GET", f"/responses/{others}")).status_code == 200
        path = world.gateway.path
        assert [count(path, table) for table in ("responses", "conversations", "conversation_items")] == [1, 0, 0]


async def test_the_hot_path_reads_a_body_within_its_bound(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        endpoint = Responses(world.gateway.services.pipeline, 64, world.store)

        async def receive() -> Message:
            return {"type": "http.request", "body": b'{"model": "talk", "input": "hi", "user": "u"}'}

        request = await endpoint.read([], receive)
        assert (request.endpoint, request.model, request.keeps_state) == ("responses", "talk", True)
        with pytest.raises(RequestError) as refused:
            await endpoint.read([(b"content-length", b"65")], receive)
        assert refused.value.status == 413
