"""`/v1/conversations`: made and read by their creator alone, and continued by its responses on any model."""

from pathlib import Path
from typing import Any

import pytest

from tests.responses.native_provider import TEXT, NativeProvider
from tests.responses.world import ResponsesWorld, events_of, responses_world, text_of


def says(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def texts_of(page: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in page["data"]]


async def new_conversation(world: ResponsesWorld, key: str, *texts: str) -> str:
    made = await world.sent(key, "POST", "/conversations", json={"items": [says(text) for text in texts]})
    return str(made["id"])


async def test_a_conversation_is_made_read_changed_and_deleted(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        made = await world.sent(key, "POST", "/conversations", json={"metadata": {"topic": "cats"}})
        assert (made["object"], made["metadata"]) == ("conversation", {"topic": "cats"})
        path = f"/conversations/{made['id']}"
        assert await world.sent(key, "GET", path) == made
        changed = await world.sent(key, "POST", path, json={"metadata": {"topic": "dogs"}})
        assert changed == {**made, "metadata": {"topic": "dogs"}}
        gone = await world.sent(key, "DELETE", path)
        assert gone == {"id": made["id"], "object": "conversation.deleted", "deleted": True}
        assert (await world.ask(key, "GET", path)).status_code == 404
        assert (await world.sent(key, "POST", "/conversations"))["metadata"] == {}
        assert world.gateway.entries("id") == []


async def test_items_are_added_listed_in_pages_read_and_deleted(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        path = f"/conversations/{await new_conversation(world, key, 'one', 'two')}"
        added = await world.sent(key, "POST", f"{path}/items", json={"items": [says("three"), says("four")]})
        assert texts_of(added) == ["three", "four"]
        page = await world.sent(key, "GET", f"{path}/items?limit=3")
        assert (texts_of(page), page["has_more"]) == (["four", "three", "two"], True)
        rest = await world.sent(key, "GET", f"{path}/items?limit=3&after={page['last_id']}")
        assert (texts_of(rest), rest["has_more"]) == (["one"], False)
        item = page["data"][1]
        assert await world.sent(key, "GET", f"{path}/items/{item['id']}") == item
        conversation = await world.sent(key, "DELETE", f"{path}/items/{item['id']}")
        assert conversation["object"] == "conversation"
        assert (await world.ask(key, "GET", f"{path}/items/{item['id']}")).status_code == 404
        assert (await world.ask(key, "DELETE", f"{path}/items/{item['id']}")).status_code == 404
        assert texts_of(await world.sent(key, "GET", f"{path}/items?order=asc")) == ["one", "two", "four"]
        await world.sent(key, "POST", f"{path}/items", json={"items": [says("five")]})
        assert texts_of(await world.sent(key, "GET", f"{path}/items?order=asc")) == ["one", "two", "four", "five"]


async def test_an_id_that_is_taken_gives_way_to_a_new_one(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        path = f"/conversations/{await new_conversation(world, key)}/items"
        twice = {"items": [{**says("a"), "id": "msg_same"}, {**says("b"), "id": "msg_same"}]}
        ids = [item["id"] for item in (await world.sent(key, "POST", path, json=twice))["data"]]
        assert ids[0] == "msg_same"
        assert ids[1].startswith("msg_")
        assert len(set(ids)) == 2
        assert texts_of(await world.sent(key, "GET", f"{path}?order=asc")) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        pytest.param("", {"items": [says("x")] * 21}, "items", id="too-many-items"),
        pytest.param("", {"items": ["x"]}, "items", id="an-item-that-is-none"),
        pytest.param("", {"items": [{"type": "item_reference", "id": "msg_1"}]}, "items", id="a-reference"),
        pytest.param("", {"items": [{**says("x"), "id": "a/b"}]}, "items[].id", id="an-id-for-no-path"),
        pytest.param("", {"metadata": {"a": 1}}, "metadata", id="metadata-that-is-no-text"),
        pytest.param("", {"metadata": {"a": "x" * 513}}, "metadata", id="a-long-text"),
        pytest.param("", {"metadata": {"a" * 65: "x"}}, "metadata", id="a-long-name"),
        pytest.param("", {"metadata": {str(n): "x" for n in range(17)}}, "metadata", id="too-many-pairs"),
        pytest.param("", {"api_base": "http://x"}, None, id="an-unknown-field"),
        pytest.param("/items", {}, "items", id="no-items"),
        pytest.param("/items", {"items": []}, "items", id="an-empty-list"),
    ],
)
async def test_what_is_no_conversation_is_refused(tmp_path: Path, path: str, body: Any, param: str | None) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key)
        where = f"/conversations/{conversation}{path}" if path else "/conversations"
        refused = await world.ask(key, "POST", where, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_another_creator_finds_no_conversation_that_is_not_its_own(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        mine, theirs = await world.gateway.new_key("acme"), await world.gateway.new_key("other")
        conversation = await new_conversation(world, mine, "secret")
        items = f"/conversations/{conversation}/items"
        item = (await world.sent(mine, "GET", items))["data"][0]["id"]
        for method, path, body in (
            ("GET", f"/conversations/{conversation}", None),
            ("POST", f"/conversations/{conversation}", {"metadata": {"a": "b"}}),
            ("DELETE", f"/conversations/{conversation}", None),
            ("GET", items, None),
            ("POST", items, {"items": [says("mine now")]}),
            ("GET", f"{items}/{item}", None),
            ("DELETE", f"{items}/{item}", None),
        ):
            refused = await world.ask(theirs, method, path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "conversation_not_found"), path
        assert (await world.respond(theirs, conversation=conversation)).code == "conversation_not_found"
        assert texts_of(await world.sent(mine, "GET", items)) == ["secret"]


async def test_responses_read_the_conversation_and_add_to_it(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key, "before")
        first = await world.respond(key, input="one", conversation=conversation)
        assert first.json["conversation"] == {"id": conversation}
        stream = await world.respond(key, input="two", conversation={"id": conversation}, stream=True, store=False)
        items = await world.sent(key, "GET", f"/conversations/{conversation}/items?order=asc")
        said = ["before", "one", "You said: one", "two", "You said: two"]
        assert [text.strip() for text in texts_of(items)] == said
        # The mock's token is four bytes of all messages: the second call had all that was said before it.
        tokens = events_of(stream.body)[-1]["response"]["usage"]["input_tokens"]
        assert tokens == -(-len("".join(said[:4])) // 4)


async def test_a_conversation_goes_to_a_native_model_as_items_and_comes_back(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key, "before")
        await world.respond(key, "talk", input="one", conversation=conversation)
        answer = await world.respond(key, "big", input="two", conversation=conversation)
        assert text_of(answer.json) == TEXT
        sent = provider.asked[-1].body
        assert "conversation" not in sent
        assert [item.get("id") for item in sent["input"]] == [None] * 4
        items = await world.sent(key, "GET", f"/conversations/{conversation}/items?order=asc")
        assert [text.strip() for text in texts_of(items)] == ["before", "one", "You said: one", "two", TEXT]
        assert items["last_id"] == answer.json["output"][0]["id"]


async def test_what_a_conversation_cannot_take_is_refused_before_it_costs(tmp_path: Path) -> None:
    async with NativeProvider() as provider, responses_world(tmp_path, provider.rows("big")) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key)
        kept = (await world.respond(key, "big")).json
        asked, booked = len(provider.asked), len(world.gateway.entries("id"))
        reference = {"type": "item_reference", "id": kept["output"][0]["id"]}
        for item in ({"type": 7}, {"content": "x"}, reference):
            refused = await world.respond(key, "big", input=[item], conversation=conversation)
            assert refused.status == 400
        assert (len(provider.asked), len(world.gateway.entries("id"))) == (asked, booked)


async def test_an_item_of_a_call_gets_an_id_that_can_be_asked_for(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key)
        await world.respond(key, input=[{**says("one"), "id": "a/../b"}], conversation=conversation)
        items = await world.sent(key, "GET", f"/conversations/{conversation}/items?order=asc")
        path = f"/conversations/{conversation}/items/{items['first_id']}"
        assert (await world.sent(key, "GET", path))["content"][0]["text"] == "one"


async def test_a_response_in_a_conversation_is_continued_by_the_conversation(tmp_path: Path) -> None:
    """Its own items alone would leave out what the conversation held before."""
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key, "before")
        kept = (await world.respond(key, conversation=conversation)).json["id"]
        refused = await world.respond(key, previous_response_id=kept)
        assert (refused.status, refused.json["error"]["param"]) == (400, "previous_response_id")


async def test_a_conversation_deleted_meanwhile_does_not_undo_the_answer(tmp_path: Path) -> None:
    async with responses_world(tmp_path) as world:
        key = await world.gateway.new_key()
        conversation = await new_conversation(world, key)
        account = await world.gateway.account(key)
        await world.store.conversations.delete(account, conversation)
        await world.store.keep(account, None, conversation, [{"id": "msg_1", "type": "message"}])
        assert (await world.ask(key, "GET", f"/conversations/{conversation}/items")).status_code == 404
