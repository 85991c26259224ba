"""The outbox worked off, to a receiver on loopback, by a clock that the test turns."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from gateway.config import Settings
from gateway.ledger.database import Database
from gateway.ledger.notices import Outgoing
from gateway.ledger.statements import Row
from gateway.notices import delivery as delivery_module
from gateway.notices import webhook as webhook_module
from gateway.notices.book import Notices
from gateway.notices.delivery import JITTER_MAX, RETRY_PAUSES_S, Delivery
from gateway.notices.slack import Slack
from gateway.notices.targets import Target
from gateway.notices.webhook import Webhook
from gateway.tasks import spawn
from tests.account_world import Clock, World, open_world
from tests.notices.receivers import (
    SECRET,
    Receiver,
    after,
    endless,
    head_only,
    notice,
    outbox,
    outbox_where,
    receiving,
    silence,
    status,
)


class Post:
    """The parts between a notice and its receivers, which a test can end and start anew."""

    def __init__(self, path: Path, clock: Clock, receivers: Sequence[Receiver]) -> None:
        self.clock = clock
        self._path = path
        self._receivers = receivers

    async def start(self, *, delivers: bool = True) -> None:
        self.database = await Database.open(self._path, settings=Settings(settle_timeout_s=0.2))
        self.targets: list[Target] = [Webhook(self._receivers[0].url, SECRET, wall_clock=self.clock)]
        self.targets += [Slack(receiver.url) for receiver in self._receivers[1:]]
        self.delivery = Delivery(self.database, self.targets, wall_clock=self.clock, every_s=0.01)
        self.book = Notices(self.database, self.targets, wall_clock=self.clock, on_recorded=self.delivery.wake)
        if delivers:
            self.delivery.start()

    async def stop(self) -> None:
        await self.delivery.close()
        for target in self.targets:
            await target.close()
        await self.database.close()

    async def record(self, *words: str) -> None:
        for once in words:
            assert await self.book.record(notice(once, message=once))

    def turn(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.delivery.wake()

    async def rows_with(self, **values: Any) -> list[Row]:
        """The outbox, once every row of it has these."""
        return await outbox_where(
            self.database,
            lambda rows: bool(rows) and all(row[name] == value for row in rows for name, value in values.items()),
            f"every row has {values}",
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        await world.database.close()
        yield world


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def slack() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def post(world: World, receiver: Receiver) -> AsyncIterator[Post]:
    post = Post(world.path, world.clock, [receiver])
    await post.start()
    yield post
    await post.stop()


@pytest.fixture
async def two(world: World, receiver: Receiver, slack: Receiver) -> AsyncIterator[Post]:
    post = Post(world.path, world.clock, [receiver, slack])
    await post.start()
    yield post
    await post.stop()


def messages(receiver: Receiver) -> list[str]:
    return [post.json["data"]["message"] for post in receiver.posts]


async def test_a_notice_arrives_once_and_is_marked(post: Post, receiver: Receiver) -> None:
    await post.record("a")
    (row,) = await post.rows_with(state="delivered")
    assert (row["attempts"], row["error"], row["next_at"]) == (1, "", int(post.clock() * 1000))
    assert [(sent.headers["webhook-id"], sent.json["type"]) for sent in receiver.posts] == [
        (row["notice_id"], "day_cost.above")
    ]


async def test_fifty_concurrent_records_of_one_thing_arrive_once(post: Post, receiver: Receiver) -> None:
    recorded = await asyncio.gather(*(post.book.record(notice("same", message="same")) for _ in range(50)))
    assert sum(recorded) == 1
    await post.rows_with(state="delivered")
    await post.record("next")
    await post.rows_with(state="delivered")
    assert messages(receiver) == ["same", "next"]


async def test_a_failed_one_is_tried_again_under_the_same_id_and_younger_ones_pass_it(
    post: Post, receiver: Receiver
) -> None:
    receiver.answers = [status(500)]
    await post.record("a")
    (failed,) = await post.rows_with(attempts=1)
    assert (failed["state"], failed["error"]) == ("pending", "http_500")
    await post.record("b")
    await receiver.has(2)
    assert messages(receiver) == ["a", "b"]
    post.turn(4.9)
    await post.record("c")
    await receiver.has(3)
    assert messages(receiver) == ["a", "b", "c"]
    post.turn(0.7)
    rows = await post.rows_with(state="delivered")
    assert [row["attempts"] for row in rows] == [2, 1, 1]
    assert messages(receiver) == ["a", "b", "c", "a"]
    first, again = receiver.posts[0], receiver.posts[3]
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == failed["notice_id"]
    assert first.body == again.body
    assert int(again.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 5


async def test_pauses_grow_as_documented_and_then_it_is_given_up(post: Post, receiver: Receiver) -> None:
    receiver.otherwise = status(503)
    with structlog.testing.capture_logs() as logs:
        await post.record("a")
        for attempt, pause_s in enumerate(RETRY_PAUSES_S, start=1):
            (row,) = await post.rows_with(attempts=attempt)
            in_s = row["next_at"] / 1000 - post.clock()
            assert pause_s <= in_s <= pause_s * (1 + JITTER_MAX)
            assert row["state"] == "pending"
            post.turn(in_s + 0.001)
        (row,) = await post.rows_with(attempts=9)
    assert RETRY_PAUSES_S == (5, 30, 300, 1_800, 7_200, 21_600, 43_200, 86_400)
    assert (row["state"], row["error"]) == ("given_up", "http_503")
    (given_up,) = [line for line in logs if line["event"] == "notice_given_up"]
    assert (given_up["log_level"], given_up["notice"], given_up["attempts"]) == ("error", row["notice_id"], 9)
    post.turn(10 * 86_400)
    receiver.otherwise = status(200)
    await post.record("b")
    await receiver.has(10)
    assert messages(receiver) == ["a"] * 9 + ["b"]


async def test_410_says_that_nothing_is_wanted(post: Post, receiver: Receiver) -> None:
    receiver.answers = [status(410)]
    await post.record("a")
    (row,) = await post.rows_with(state="given_up")
    assert (row["attempts"], row["error"]) == (1, "http_410")


@pytest.mark.parametrize("code", [429, 503])
async def test_a_target_that_asks_for_time_is_left_alone_with_every_notice(
    two: Post, receiver: Receiver, slack: Receiver, code: int
) -> None:
    receiver.answers = [status(code, "retry-after: 120")]
    await two.record("a")
    rows = await outbox_where(two.database, lambda rows: all(row["attempts"] for row in rows), "both were tried")
    assert 120 <= rows[1]["next_at"] / 1000 - two.clock() <= 120 * (1 + JITTER_MAX)
    two.turn(119)
    await two.record("b")
    await slack.has(2)
    assert messages(receiver) == ["a"]
    two.turn(15)
    await two.rows_with(state="delivered")
    assert messages(receiver) == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("retry_after", "least_s"),
    [
        pytest.param("999999", 3_600, id="an hour at most"),
        pytest.param("99999999999999999999", 5, id="no number of seconds"),
        pytest.param("1", 5, id="never sooner than without it"),
        pytest.param("soon", 5, id="not understood"),
        pytest.param("Fri, 01 Jan 2010 00:00:00 GMT", 5, id="a date that is past"),
        pytest.param("Fri, 01 Jan 2100 00:00:00 GMT", 3_600, id="a date far ahead"),
    ],
)
async def test_how_long_a_target_may_ask_for_is_bounded(
    post: Post, receiver: Receiver, retry_after: str, least_s: int
) -> None:
    receiver.answers = [status(429, f"retry-after: {retry_after}")]
    await post.record("a")
    (row,) = await post.rows_with(attempts=1)
    assert least_s <= row["next_at"] / 1000 - post.clock() <= least_s * (1 + JITTER_MAX)


async def test_a_receiver_that_hangs_holds_up_no_other_target(
    monkeypatch: pytest.MonkeyPatch, two: Post, receiver: Receiver, slack: Receiver
) -> None:
    monkeypatch.setattr(delivery_module, "_CLOSE_S", 0.05)
    receiver.answers = [silence]
    await two.record("a")
    await outbox_where(two.database, lambda rows: rows[0]["state"] == "delivered", "slack has it")
    await receiver.has(1)
    assert (await outbox(two.database))[1]["attempts"] == 0


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        pytest.param(silence, "pending", "timeout", id="no answer"),
        pytest.param(head_only, "delivered", "", id="the status came"),
        pytest.param(endless(200), "delivered", "", id="an endless body"),
        pytest.param(endless(500), "pending", "http_500", id="an endless error"),
        pytest.param(status(302, "location: http://127.0.0.1:9/"), "pending", "http_302", id="a redirect"),
        pytest.param(status(404), "pending", "http_404", id="a wrong address"),
        pytest.param(status(204), "delivered", "", id="no content"),
    ],
)
async def test_the_status_alone_decides_and_nothing_is_waited_for_without_end(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answer: Any, state: str, error: str
) -> None:
    monkeypatch.setattr(webhook_module, "TIMEOUT_S", 0.3)
    post = Post(world.path, world.clock, [receiver])
    await post.start()
    receiver.answers = [answer]
    await post.record("a", "b")
    rows = await post.rows_with(attempts=1)
    assert [(row["state"], row["error"]) for row in rows] == [(state, error), ("delivered", "")]
    assert messages(receiver) == ["a", "b"]
    await post.stop()


@pytest.mark.parametrize("code", [200, 500])
async def test_an_endless_body_is_not_read(post: Post, receiver: Receiver, code: int) -> None:
    receiver.answers = [endless(code)]
    await post.record("a")
    await post.rows_with(attempts=1)
    await receiver.was_cut_off()


async def test_a_redirect_is_not_followed(two: Post, receiver: Receiver, slack: Receiver) -> None:
    receiver.answers = [status(307, f"location: {slack.url}")]
    await two.record("a")
    rows = await outbox_where(two.database, lambda rows: all(row["attempts"] for row in rows), "both were tried")
    assert rows[1]["error"] == "http_307"
    assert len(slack.posts) == 1


async def test_nobody_listening_is_a_failure_like_any_other(world: World, receiver: Receiver) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()
    await server.wait_closed()
    post = Post(world.path, world.clock, [receiver])
    await post.start()
    await post.record("a")
    (row,) = await post.rows_with(attempts=1)
    assert (row["state"], row["error"]) == ("pending", "connect_failed")
    await post.stop()


async def test_what_was_pending_is_delivered_after_a_restart_and_only_once(post: Post, receiver: Receiver) -> None:
    receiver.answers = [status(500)]
    await post.record("a")
    await post.rows_with(attempts=1)
    await post.stop()
    await post.start(delivers=False)
    await post.record("b")
    assert await post.book.record(notice("b")) is False
    await post.stop()
    post.clock.now_s += 6
    await post.start()
    rows = await post.rows_with(state="delivered")
    assert [row["attempts"] for row in rows] == [2, 1]
    await post.stop()
    await post.start()
    await post.record("c")
    await post.rows_with(state="delivered")
    assert messages(receiver) == ["a", "b", "a", "c"]


async def test_an_attempt_under_way_may_end_before_the_gateway_does(post: Post, receiver: Receiver) -> None:
    may_answer = asyncio.Event()
    receiver.answers = [after(may_answer, status(200))]
    await post.record("a")
    await receiver.has(1)
    ending = spawn(post.delivery.close(), "close")
    await asyncio.sleep(0)
    assert not ending.done()
    may_answer.set()
    await ending
    (row,) = await outbox(post.database)
    assert (row["state"], row["attempts"]) == ("delivered", 1)


async def test_a_receiver_that_hangs_does_not_keep_the_gateway_from_ending(
    monkeypatch: pytest.MonkeyPatch, post: Post, receiver: Receiver
) -> None:
    monkeypatch.setattr(delivery_module, "_CLOSE_S", 0.05)
    receiver.answers = [silence]
    await post.record("a")
    await receiver.has(1)
    async with asyncio.timeout(5):
        await post.delivery.close()
    (row,) = await outbox(post.database)
    assert (row["state"], row["attempts"]) == ("pending", 0)


async def test_a_store_in_trouble_makes_nobody_hear_a_notice_twice(
    post: Post, receiver: Receiver, world: World
) -> None:
    """Somebody else holds the write lock while the answer comes: what became of it is written down when that ends."""
    may_answer = asyncio.Event()
    receiver.answers = [after(may_answer, status(200))]
    await post.record("a", "b")
    await receiver.has(1)
    with closing(sqlite3.connect(world.path, isolation_level=None)) as other, structlog.testing.capture_logs() as logs:
        other.execute("BEGIN IMMEDIATE")
        may_answer.set()
        async with asyncio.timeout(10):
            while not any(line["event"] == "notice_fate_not_recorded" for line in logs):
                await asyncio.sleep(0.01)
        assert messages(receiver) == ["a"]
        other.execute("ROLLBACK")
        rows = await post.rows_with(state="delivered")
    assert [row["attempts"] for row in rows] == [1, 1]
    assert messages(receiver) == ["a", "b"]


async def test_a_table_that_cannot_be_read_does_not_end_deliveries(
    post: Post, receiver: Receiver, world: World
) -> None:
    with closing(sqlite3.connect(world.path, isolation_level=None)) as other, structlog.testing.capture_logs() as logs:
        other.execute("ALTER TABLE notice_deliveries RENAME TO away")
        post.delivery.wake()
        async with asyncio.timeout(10):
            while not any(line["event"] == "notice_delivery_stalled" for line in logs):
                await asyncio.sleep(0.01)
        other.execute("ALTER TABLE away RENAME TO notice_deliveries")
    await post.record("a")
    await post.rows_with(state="delivered")
    assert messages(receiver) == ["a"]


class Broken:
    """A target with a fault of its own, whose text holds what must not be told."""

    name = "webhook"

    async def deliver(self, notice: Outgoing) -> None:
        raise RuntimeError("http://user:s3cr3t@example.com")

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_fault_of_a_target_is_a_failed_attempt_and_its_text_is_kept_back(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    database = await Database.open(world.path)
    delivery = Delivery(database, [Broken()], wall_clock=world.clock, every_s=0.01)
    book = Notices(database, [Broken()], wall_clock=world.clock, on_recorded=delivery.wake)
    delivery.start()
    with structlog.testing.capture_logs() as logs:
        await book.record(notice())
        (row,) = await outbox_where(database, lambda rows: rows[0]["attempts"] == 1, "it was tried")
    await delivery.close()
    await database.close()
    assert (row["state"], row["error"]) == ("pending", "internal_error")
    assert {"event": "notice_target_broken", "target": "webhook", "error": "RuntimeError", "log_level": "error"} in logs
    assert "s3cr3t" not in repr(logs) + "".join(capsys.readouterr())


async def test_without_targets_there_is_nothing_to_run(world: World) -> None:
    database = await Database.open(world.path)
    delivery = Delivery(database, [], wall_clock=world.clock)
    delivery.start()
    delivery.wake()
    await delivery.close()
    await database.close()
