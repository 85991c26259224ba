"""What is kept of responses, over a real database: whose it is, how it is continued, and its bounds."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.errors import NotFound, RequestError
from gateway.ledger.database import Database
from gateway.responses import conversations
from gateway.responses.state import Before, KeptResponse, ResponseStore
from policies.types import Account, Plan
from tests.clocked_gateway import _empty_database
from tests.ledger.books import count, rows

ACME = Account("acme", "acme", "k1", Plan("open"))
OTHER = Account("other", "other", "k2", Plan("open"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.db"
    path.write_bytes(_empty_database())
    return path


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = await Database.open(path)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> ResponseStore:
    return ResponseStore(database, wall_clock=lambda: 1_800_000_000.0)


def message(text: str, id: str = "") -> dict[str, Any]:
    return {"id": id or f"msg_{text}", "type": "message", "role": "user", "content": text}


def kept(id: str, **fields: Any) -> KeptResponse:
    known: dict[str, Any] = {
        "model": "talk",
        "provider": "",
        "status": "completed",
        "previous_id": "",
        "conversation_id": "",
        "context_tokens": 7,
        "body": {"id": id, "output": [message(f"out-{id}")]},
        "input": [message(f"in-{id}")],
    }
    return KeptResponse(id=id, **{**known, **fields})


def native(id: str, **fields: Any) -> KeptResponse:
    return kept(id, provider="native", body={"output": [{"id": f"msg_out-{id}"}]}, input=(), **fields)


async def test_a_chain_is_continued_oldest_first(store: ResponseStore) -> None:
    for made, previous in (("resp_1", ""), ("resp_2", "resp_1"), ("resp_3", "resp_2")):
        await store.keep(ACME, kept(made, previous_id=previous))
    before = await store.before(ACME, "resp_3")
    said = [f"{what}-resp_{number}" for number in (1, 2, 3) for what in ("in", "out")]
    assert [item["content"] for item in before.items] == said
    assert (before.provider, before.context_tokens) == ("", 0)


async def test_what_a_provider_keeps_is_continued_there_whatever_came_before_it(store: ResponseStore) -> None:
    await store.keep(ACME, kept("resp_1"))
    await store.keep(ACME, native("resp_2", previous_id="resp_1", context_tokens=90))
    assert await store.before(ACME, "resp_2") == Before((), "native", 90)


@pytest.mark.parametrize("broken", ["resp_1", "resp_2"])
async def test_a_chain_with_a_missing_link_is_not_continued(store: ResponseStore, broken: str) -> None:
    for made, previous in (("resp_1", ""), ("resp_2", "resp_1"), ("resp_3", "resp_2")):
        await store.keep(ACME, kept(made, previous_id=previous))
    await store.delete(ACME, broken)
    with pytest.raises(RequestError) as refused:
        await store.before(ACME, "resp_3")
    assert refused.value.code == "previous_response_not_found"
    assert broken in refused.value.message


async def test_a_chain_that_leads_to_somebody_else_ends_there(store: ResponseStore) -> None:
    await store.keep(OTHER, kept("resp_1"))
    await store.keep(ACME, kept("resp_2", previous_id="resp_1"))
    with pytest.raises(RequestError) as refused:
        await store.before(ACME, "resp_2")
    assert refused.value.code == "previous_response_not_found"


async def test_a_chain_that_leads_back_to_itself_is_refused(store: ResponseStore) -> None:
    """No call can make one, a provider that chooses ids might."""
    await store.keep(ACME, kept("resp_1", previous_id="resp_2"))
    await store.keep(ACME, kept("resp_2", previous_id="resp_1"))
    with pytest.raises(RequestError) as refused:
        await store.before(ACME, "resp_1")
    assert refused.value.code == "context_length_exceeded"


async def test_what_is_too_large_to_be_read_again_is_refused(database: Database) -> None:
    store = ResponseStore(database, context_bytes_max=2_000)
    await store.keep(ACME, kept("resp_1", input=[message("x" * 1_000, "msg_x")]))
    assert len((await store.before(ACME, "resp_1")).items) == 2
    await store.keep(ACME, kept("resp_2", previous_id="resp_1", input=[message("x" * 1_000, "msg_x")]))
    with pytest.raises(RequestError) as refused:
        await store.before(ACME, "resp_2")
    assert refused.value.code == "context_length_exceeded"


async def test_an_id_given_twice_replaces_the_creators_own_and_nobody_elses(store: ResponseStore, path: Path) -> None:
    await store.keep(ACME, native("resp_1", context_tokens=1))
    await store.keep(ACME, native("resp_1", context_tokens=2))
    with capture_logs() as logs:
        await store.keep(OTHER, native("resp_1", context_tokens=3))
    assert [log["event"] for log in logs] == ["response_id_taken"]
    assert rows(path, "SELECT creator, context_tokens FROM responses") == [("acme", 2)]


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(OTHER, id="another-creator"),
        pytest.param(Account("acme", "team", "k3", Plan("open")), id="another-account"),
    ],
)
async def test_nobody_else_reads_deletes_or_refers_to_it(store: ResponseStore, stranger: Account) -> None:
    await store.keep(ACME, kept("resp_1"))
    for forbidden in (store.response(stranger, "resp_1"), store.delete(stranger, "resp_1")):
        with pytest.raises(NotFound):
            await forbidden
    with pytest.raises(RequestError):
        await store.before(stranger, "resp_1")
    assert await store.referred(stranger, ["msg_out-resp_1"]) == {}
    assert (await store.response(ACME, "resp_1"))["id"] == "resp_1"


async def test_items_referred_to_are_found_here_or_at_their_provider(store: ResponseStore) -> None:
    await store.keep(ACME, kept("resp_1"))
    await store.keep(ACME, native("resp_2", context_tokens=40))
    found = await store.referred(ACME, ["msg_out-resp_1", "msg_out-resp_2", "msg_in-resp_1", "msg_out-resp_"])
    assert set(found) == {"msg_out-resp_1", "msg_out-resp_2"}
    here, there = found["msg_out-resp_1"], found["msg_out-resp_2"]
    assert here.item == message("out-resp_1")
    assert (there.item, there.provider, there.response_id, there.context_tokens) == (None, "native", "resp_2", 40)


async def test_many_references_are_found_at_once(store: ResponseStore) -> None:
    ids = [f"msg_{number}" for number in range(120)]
    await store.keep(ACME, kept("resp_1", body={"output": [message("x", each) for each in ids]}))
    assert set(await store.referred(ACME, ids)) == set(ids)


async def test_response_and_conversation_are_written_together(store: ResponseStore, path: Path) -> None:
    conversation = (await store.conversations.create(ACME, [], {}))["id"]
    await store.keep(ACME, kept("resp_1", conversation_id=conversation), conversation, [message("a"), message("b")])
    assert [item["content"] for item in await store.conversations.context(ACME, conversation)] == ["a", "b"]
    assert count(path, "responses") == 1


async def test_nothing_is_written_into_somebody_elses_conversation(store: ResponseStore) -> None:
    conversation = (await store.conversations.create(OTHER, [], {}))["id"]
    await store.keep(ACME, None, conversation, [message("a")])
    assert await store.conversations.context(OTHER, conversation) == []


async def test_a_conversation_takes_no_more_than_it_may_hold_and_answers_beyond_it_end_it(database: Database) -> None:
    store = ResponseStore(database, context_bytes_max=2_000)
    conversation = (await store.conversations.create(ACME, [message("x" * 1_000, "msg_x")], {}))["id"]
    with pytest.raises(RequestError) as refused:
        await store.conversations.add(ACME, conversation, [message("y" * 1_000, "msg_y")])
    assert refused.value.code == "context_length_exceeded"
    assert len(await store.conversations.context(ACME, conversation)) == 1
    await store.keep(ACME, None, conversation, [message("y" * 1_000, "msg_y")])  # was answered, and is not lost
    with pytest.raises(RequestError) as refused:
        await store.conversations.context(ACME, conversation)
    assert refused.value.code == "context_length_exceeded"


async def test_a_conversation_does_not_begin_larger_than_it_may_be(database: Database, path: Path) -> None:
    store = ResponseStore(database, context_bytes_max=500)
    with pytest.raises(RequestError) as refused:
        await store.conversations.create(ACME, [message("x" * 1_000, "msg_x")], {})
    assert refused.value.code == "context_length_exceeded"
    assert count(path, "conversations") == 0


async def test_a_creator_has_so_many_conversations_and_no_more(
    store: ResponseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "_CONVERSATIONS_MAX", 1)
    await store.conversations.create(ACME, [], {})
    await store.conversations.create(OTHER, [], {})
    with pytest.raises(RequestError) as refused:
        await store.conversations.create(ACME, [], {})
    assert refused.value.code == "too_many_conversations"


async def test_items_of_a_deleted_conversation_go_with_it(store: ResponseStore, path: Path) -> None:
    conversation = (await store.conversations.create(ACME, [message("a"), message("b")], {}))["id"]
    await store.conversations.delete(ACME, conversation)
    assert count(path, "conversation_items") == 0


async def test_a_forgotten_creator_leaves_nothing_and_others_stay(store: ResponseStore, path: Path) -> None:
    for account in (ACME, OTHER):
        await store.keep(account, kept(f"resp_{account.creator}"))
        await store.conversations.create(account, [message("a")], {})
    await store.forget("acme")
    await store.forget("acme")
    for table in ("responses", "conversations"):
        assert rows(path, f"SELECT creator FROM {table}") == [("other",)]
    assert count(path, "conversation_items") == 1


async def test_nothing_is_kept_for_a_creator_deleted_meanwhile(store: ResponseStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO creators (id, account_id, plan, is_active, created_at, deleted_at) VALUES (?, ?, ?, 0, 1, 2)",
            ("acme", "acme", "open"),
        )
    await store.keep(ACME, kept("resp_1"))
    with pytest.raises(RequestError):
        await store.conversations.create(ACME, [], {})
    assert [count(path, table) for table in ("responses", "conversations")] == [0, 0]
