"""The embedded store of kept answers: what it gives out, its bounds, and what it does with a file that is in trouble."""

import asyncio
import os
import shutil
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.cache.base import CachedAnswer, CacheStats
from gateway.cache.sqlite import ROW_BYTES, SqliteCache
from gateway.errors import StoreError
from gateway.sealing import Sealer
from gateway.secrets import Secrets
from gateway.tasks import spawn
from tests.account_world import NOON_S, ROOT, Clock
from tests.ledger.books import unwritable

NOON_MS = int(NOON_S * 1_000)
HOUR_S = 3_600
SEAL_BYTES = 28
MIB = 2**20
FILES = ("cache.db", "cache.db-wal", "cache.db-shm")


def answer(
    body: bytes = b'{"choices":[]}', *, ttl_s: float = HOUR_S, at_s: float = NOON_S, **other: Any
) -> CachedAnswer:
    fields: dict[str, Any] = {
        "creator": "acme",
        "model": "gpt-4o-mini",
        "provider": "openai",
        "kind": "chat",
        "content_type": "application/json",
        "is_streaming": False,
        "cost_nano_usd": 1_250,
        "created_at_ms": int(at_s * 1_000),
        "expires_at_ms": int((at_s + ttl_s) * 1_000),
    }
    return CachedAnswer(body=body, **{**fields, **other})


def sized(bytes_counted: int, **other: Any) -> CachedAnswer:
    """An answer that counts exactly so much against the bound."""
    return answer(b"x" * (bytes_counted - ROW_BYTES - SEAL_BYTES), **other)


class Store:
    """A store in a folder of its own, under a clock that tests turn; it can be opened again."""

    def __init__(self, folder: Path, *, root: bytes = ROOT, bytes_max: int = MIB, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.path = folder / "data" / "cache.db"
        self._root = root
        self._bytes_max = bytes_max
        self.cache = self._new()

    def _new(self) -> SqliteCache:
        sealer = Sealer(Secrets(self._root), "cache-answers")
        return SqliteCache(self.path, sealer, bytes_max=self._bytes_max, wall_clock=self.clock)

    async def open_again(self, *, root: bytes = ROOT, bytes_max: int | None = None) -> SqliteCache:
        await self.cache.close()
        self._root, self._bytes_max = root, bytes_max or self._bytes_max
        self.cache = self._new()
        return self.cache

    async def kept(self, *keys: str) -> set[str]:
        """Which of these keys are there. Each counts as used, in this order."""
        return {key for key in keys if await self.cache.get(key) is not None}

    def rows(self, query: str) -> list[Any]:
        """What another connection reads, or changes."""
        with closing(sqlite3.connect(self.path)) as other, other:
            return other.execute(query).fetchall()

    def bytes_on_disk(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.path.parent.iterdir())


@pytest.fixture
async def store(tmp_path):
    store = Store(tmp_path)
    yield store
    await store.cache.close()


@pytest.fixture
async def small(tmp_path):
    """Holds three answers of 1 000 bytes, as they are counted."""
    store = Store(tmp_path, bytes_max=3_000)
    yield store
    await store.cache.close()


# What is given out


@pytest.mark.parametrize(
    "kept",
    [
        answer(),
        answer(b"", cost_nano_usd=0),
        answer(b'data: {"a":1}\n\ndata: [DONE]\n\n', is_streaming=True, content_type="text/event-stream"),
        answer(bytes(range(256)) * 3_000, kind="image", creator="übung", cost_nano_usd=2**62),
    ],
    ids=["whole", "empty", "stream", "large and binary"],
)
async def test_an_answer_comes_back_as_it_was(store, kept):
    await store.cache.put("k", kept)
    assert await store.cache.get("k") == kept
    assert await store.cache.get("another") is None


async def test_the_second_answer_of_a_key_takes_the_place_of_the_first(store):
    await store.cache.put("k", sized(2_000))
    await store.cache.put("k", second := sized(1_000, creator="other"))
    assert await store.cache.get("k") == second
    assert (await store.cache.stats())[:2] == (1, 1_000)
    assert store.rows("SELECT count(*) FROM bodies") == [(1,)]


async def test_nothing_is_made_before_the_first_question(store):
    assert not store.path.parent.exists()
    assert not any(thread.name.startswith("cache") for thread in threading.enumerate())
    assert await store.cache.get("k") is None
    assert store.path.exists()


async def test_an_answer_is_given_out_until_the_instant_it_expires(store):
    await store.cache.put("k", answer(ttl_s=60))
    store.clock.now_s = NOON_S + 59.5
    assert await store.kept("k")
    store.clock.now_s = NOON_S + 60
    assert not await store.kept("k")


async def test_what_has_expired_before_it_is_kept_is_not_kept(store):
    await store.cache.put("k", answer(ttl_s=0))
    assert (await store.cache.stats())[:2] == (0, 0)


async def test_removing_what_expired_leaves_the_rest(store):
    for number in range(1_200):
        await store.cache.put(f"old {number}", answer(ttl_s=60))
    await store.cache.put("young", young := answer(ttl_s=61))
    assert await store.cache.remove_expired() == 0
    store.clock.now_s += 60
    assert await store.cache.remove_expired() == 1_200
    assert await store.cache.get("young") == young
    assert (await store.cache.stats()).evicted == 0


# The bound


async def test_what_was_unused_longest_makes_room(small):
    for key in "abc":
        await small.cache.put(key, sized(1_000))
        small.clock.now_s += 1
    assert await small.kept("a") == {"a"}
    await small.cache.put("d", sized(1_000))
    assert await small.kept("a", "b", "c", "d") == {"a", "c", "d"}
    assert (await small.cache.stats()).evicted == 1


@pytest.mark.parametrize("step_s", [0, -5], ids=["within one tick", "under a clock set back"])
async def test_the_order_of_use_holds(small, step_s):
    for key in "abc":
        await small.cache.put(key, sized(1_000))
        small.clock.now_s += step_s
    assert await small.kept("b", "a") == {"a", "b"}
    await small.cache.put("d", sized(1_000))
    await small.cache.put("e", sized(1_000))
    assert await small.kept("a", "b", "c", "d", "e") == {"a", "d", "e"}


async def test_what_expired_goes_before_what_was_unused_longest(small):
    await small.cache.put("unused", sized(1_000))
    await small.cache.put("brief", sized(1_000, ttl_s=1))
    await small.cache.put("c", sized(1_000))
    small.clock.now_s += 2
    await small.cache.put("d", sized(1_000))
    assert await small.kept("unused", "brief", "c", "d") == {"unused", "c", "d"}
    assert (await small.cache.stats()).evicted == 0


async def test_an_answer_of_just_the_bound_is_kept_and_a_larger_one_changes_nothing(small):
    await small.cache.put("a", sized(1_000))
    await small.cache.put("too large", sized(3_001))
    assert await small.kept("a", "too large") == {"a"}
    await small.cache.put("just", sized(3_000))
    assert await small.kept("a", "just") == {"just"}
    assert await small.cache.stats() == CacheStats(1, 3_000, 3_000, hits=2, misses=2, stored=2, evicted=1)


_KEYS = st.sampled_from("abcdefgh")
_STEPS = st.one_of(
    st.tuples(st.just("put"), _KEYS, st.integers(600, 2_600), st.integers(1, 30)),
    st.tuples(st.just("get"), _KEYS),
    st.tuples(st.just("wait"), st.integers(1, 20)),
    st.tuples(st.just("expire")),
    st.tuples(st.just("restart")),
)


@settings(max_examples=40)
@given(st.lists(_STEPS, min_size=20, max_size=60))
def test_the_store_keeps_what_a_plain_list_of_last_uses_would(steps):
    with TemporaryDirectory() as folder:
        asyncio.run(_same_as_a_plain_list(Path(folder), steps))


async def _same_as_a_plain_list(folder: Path, steps: list[Any]) -> None:
    store = Store(folder, bytes_max=5_000)
    plain: OrderedDict[str, CachedAnswer] = OrderedDict()

    def size_bytes() -> int:
        return sum(len(kept.body) + SEAL_BYTES + ROW_BYTES for kept in plain.values())

    def is_expired(key: str) -> bool:
        return plain[key].expires_at_ms <= int(store.clock.now_s * 1_000)

    for number, (step, *given_) in enumerate(steps):
        if step == "put":
            key, size, ttl_s = given_
            # No two expire at once: which of them went first would be anybody's guess.
            new = sized(size, ttl_s=ttl_s + number / 1_000, at_s=store.clock.now_s)
            await store.cache.put(key, new)
            plain.pop(key, None)
            while size_bytes() + size > 5_000:
                gone = [other for other in plain if is_expired(other)]
                plain.pop(min(gone, key=lambda other: plain[other].expires_at_ms) if gone else next(iter(plain)))
            plain[key] = new
        elif step == "get":
            (key,) = given_
            expected = plain[key] if key in plain and not is_expired(key) else None
            assert await store.cache.get(key) == expected
            if expected:
                plain.move_to_end(key)
        elif step == "wait":
            store.clock.now_s += given_[0]
        elif step == "expire":
            gone = [key for key in plain if is_expired(key)]
            assert await store.cache.remove_expired() == len(gone)
            for key in gone:
                del plain[key]
        else:
            await store.open_again()
        stats = await store.cache.stats()
        assert stats.size_bytes <= 5_000
        assert (stats.answers, stats.size_bytes) == (len(plain), size_bytes())
    await store.cache.close()


# Restarts, secrets and rights


async def test_a_restart_keeps_answers_and_the_order_they_were_used_in(small):
    for key in "abc":
        await small.cache.put(key, sized(1_000))
    assert await small.kept("a")
    await small.open_again()
    assert await small.cache.stats() == CacheStats(3, 3_000, 3_000, hits=0, misses=0, stored=0, evicted=0)
    await small.cache.put("d", sized(1_000))
    assert await small.kept("a", "b", "c", "d") == {"a", "c", "d"}


async def test_a_smaller_bound_holds_from_the_first_question_after_the_restart(small):
    for key in "abc":
        await small.cache.put(key, sized(1_000))
    cache = await small.open_again(bytes_max=2_500)
    assert await cache.stats() == CacheStats(2, 2_000, 2_500, hits=0, misses=0, stored=0, evicted=1)
    assert await small.kept("a", "b", "c") == {"b", "c"}


async def test_a_process_that_was_killed_leaves_its_answers(store, tmp_path):
    """The files as they are while it runs, which is how a kill leaves them."""
    await store.cache.put("k", kept := answer())
    shutil.copytree(store.path.parent, tmp_path / "left" / "data")
    left = Store(tmp_path / "left")
    assert await left.cache.get("k") == kept
    await left.cache.close()


async def test_under_another_secret_an_answer_is_a_miss_and_goes(store):
    await store.cache.put("k", answer())
    cache = await store.open_again(root=b"another-root-0123456789abcdef-----")
    assert await cache.get("k") is None
    assert (await cache.stats())[:2] == (0, 0)
    cache = await store.open_again()
    assert await cache.get("k") is None


async def test_a_body_that_was_moved_to_another_key_does_not_open(store):
    await store.cache.put("mine", answer(b"mine"))
    await store.cache.put("theirs", answer(b"theirs"))
    theirs = "(SELECT sealed FROM bodies JOIN answers USING (id) WHERE key = 'theirs')"
    store.rows(f"UPDATE bodies SET sealed = {theirs} WHERE id = (SELECT id FROM answers WHERE key = 'mine')")
    assert await store.kept("mine", "theirs") == {"theirs"}
    assert store.rows("SELECT key FROM answers") == [("theirs",)]


async def test_nothing_that_was_said_can_be_read_in_the_files(store):
    canary = b"canary-of-what-was-said"
    await store.cache.put("key-of-the-row", answer(b'{"content":"' + canary * 500 + b'"}'))
    assert await store.cache.get("key-of-the-row") is not None
    while_open = store.bytes_on_disk()
    await store.cache.close()
    for found in (while_open, store.bytes_on_disk()):
        assert b"key-of-the-row" in found
        assert canary not in found
        assert canary[:8] not in found


async def test_the_files_are_their_owners_alone(store):
    await store.cache.put("k", answer())
    modes = {file.name: file.stat().st_mode & 0o777 for file in store.path.parent.iterdir()}
    assert modes == dict.fromkeys(FILES, 0o600)
    assert store.path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_file_that_others_may_read_is_closed_to_them(store):
    store.path.parent.mkdir()
    store.path.touch(0o644)
    store.path.chmod(0o644)
    await store.cache.put("k", answer())
    assert store.path.stat().st_mode & 0o777 == 0o600


# Broken files


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE contacts (name TEXT)")


def _of_another_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("PRAGMA user_version = 99")


def _without_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DROP TABLE answers")


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 1_000)


def _cut(path: Path) -> None:
    os.truncate(path, 5_000)


def _replaced_by_foreign(path: Path) -> None:
    path.unlink()
    _foreign(path)


@pytest.mark.parametrize("spoil", [_replaced_by_foreign, _of_another_version, _without_a_table, _garbage, _cut])
async def test_a_file_that_is_of_no_use_is_replaced_and_that_is_told_once(store, spoil: Callable[[Path], None]):
    await store.cache.put("old", answer(b"x" * 20_000))
    await store.cache.close()
    spoil(store.path)
    with capture_logs() as logs:
        cache = await store.open_again()
        assert await cache.get("old") is None
        await cache.put("new", kept := answer())
        assert await cache.get("new") == kept
    assert [line["event"] for line in logs] == ["cache_replaced"]
    cache = await store.open_again()
    assert await cache.get("new") == kept


async def test_a_file_that_is_spoilt_while_it_is_open_is_replaced(tmp_path):
    store = Store(tmp_path, bytes_max=64 * MIB)
    kept = {f"k{number}": answer(bytes([number]) * 200_000) for number in range(40)}
    for key, each in kept.items():
        await store.cache.put(key, each)
    # In place: the same file, of which SQLite has some pages in memory.
    with store.path.open("r+b") as file:
        file.write(os.urandom(store.path.stat().st_size))
    assert {await store.cache.get(key) in (None, each) for key, each in kept.items()} == {True}
    await store.cache.put("new", new := answer())
    assert await store.cache.get("new") == new
    cache = await store.open_again()
    for key, each in kept.items():
        assert await cache.get(key) in (None, each)
    await cache.put("newest", new)
    assert await cache.get("newest") == new
    await cache.close()


@pytest.mark.parametrize("gone", [FILES, FILES[:1], ()], ids=["with its log", "without its log", "folder and all"])
async def test_a_file_that_is_deleted_under_way_is_made_anew(store, gone):
    await store.cache.put("k", answer())
    for name in gone:
        store.path.with_name(name).unlink()
    if not gone:
        shutil.rmtree(store.path.parent)
    assert await store.cache.get("k") is None
    assert (await store.cache.stats())[:2] == (0, 0)
    await store.cache.put("k", kept := answer(b"second"))
    cache = await store.open_again()
    assert await cache.get("k") == kept


# Trouble


async def test_a_path_that_cannot_be_used_is_an_empty_store_and_is_told_of_once_a_minute(store):
    store.path.mkdir(parents=True)

    async def ask_all() -> None:
        await store.cache.put("k", answer())
        assert await store.cache.get("k") is None
        assert await store.cache.remove_expired() == 0

    with capture_logs() as logs:
        await ask_all()
        store.clock.now_s += 59
        await ask_all()
        assert len(logs) == 1
        store.clock.now_s += 1
        await ask_all()
    assert [line["event"] for line in logs] == ["cache_in_trouble"] * 2
    for asked in (store.cache.stats(), store.cache.remove(), store.cache.remove(creator="acme")):
        with pytest.raises(StoreError):
            await asked
    store.path.rmdir()
    await store.cache.put("k", answer())
    assert await store.kept("k")


async def test_a_unwritable_keeps_nothing_new_and_loses_nothing_old(store):
    await store.cache.put("old", kept := answer())
    with unwritable():
        await store.cache.put("new", answer(b"x" * 100_000))
        assert await store.cache.get("old") == kept
        assert await store.cache.get("new") is None
    assert (await store.cache.stats())[:2] == (1, len(kept.body) + SEAL_BYTES + ROW_BYTES)
    await store.cache.put("new", answer(b"x" * 100_000))
    assert await store.kept("old", "new") == {"old", "new"}


async def test_under_another_programs_lock_answers_are_still_read(store):
    await store.cache.put("k", kept := answer())
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await store.cache.put("new", answer())
        assert await store.cache.get("k") == kept
        assert await store.cache.get("new") is None
        with pytest.raises(StoreError):
            await store.cache.remove(creator="acme")
        assert await store.cache.remove_expired() == 0
    assert await store.cache.remove(creator="acme") == 1


@pytest.mark.parametrize("wrong", [{"cost_nano_usd": 2**63}, {"creator": "\ud800"}], ids=["number", "text"])
async def test_what_no_column_takes_is_not_kept_and_takes_nothing_with_it(store, wrong):
    await store.cache.put("k", kept := answer())
    await store.cache.put("k", answer(**wrong))
    assert await store.cache.get("k") == kept
    assert (await store.cache.stats()).answers == 1


async def test_nobody_waits_for_a_disk_that_hangs(tmp_path):
    is_free, is_asked = threading.Event(), threading.Event()

    def clock() -> float:
        """Hangs the store's thread where it reads the time."""
        if threading.current_thread().name.startswith("cache"):
            is_asked.set()
            is_free.wait(30)
        return NOON_S

    sealer = Sealer(Secrets(ROOT), "cache-answers")
    cache = SqliteCache(tmp_path / "cache.db", sealer, bytes_max=MIB, wall_clock=clock, patience_s=0.05)
    async with asyncio.timeout(20):
        with capture_logs() as logs:
            assert await cache.get("k") is None
            assert is_asked.is_set()
            await cache.put("k", answer())
            with pytest.raises(StoreError):
                await cache.stats()
        assert [line["event"] for line in logs] == ["cache_in_trouble"]
        is_free.set()
        while await _stats(cache) is None:
            await asyncio.sleep(0)
        await cache.close()


async def _stats(cache: SqliteCache) -> CacheStats | None:
    try:
        return await cache.stats()
    except StoreError:
        return None


# Many at once, and the end


async def test_fifty_callers_at_once_get_their_own_answers(store):
    async def ask(number: int) -> None:
        key, kept = f"k{number}", answer(str(number).encode() * 300, creator=f"c{number}")
        assert await store.cache.get(key) is None
        await store.cache.put(key, kept)
        assert await store.cache.get(key) == kept

    async with asyncio.timeout(30):
        await asyncio.gather(*(ask(number) for number in range(50)))
    stats = await store.cache.stats()
    assert (stats.answers, stats.hits, stats.misses, stats.stored) == (50, 50, 50, 50)


async def test_a_caller_who_leaves_takes_nothing_along(store):
    asked = [spawn(store.cache.put(f"k{number}", answer()), "put") for number in range(20)]
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await store.cache.put("k", answer())
    stats = await store.cache.stats()
    assert await store.kept("k")
    assert stats.size_bytes == stats.answers * (len(answer().body) + SEAL_BYTES + ROW_BYTES)


async def test_closing_waits_for_what_was_asked_before(store):
    asked = [spawn(store.cache.put(f"k{number}", answer(b"x" * 10_000)), "put") for number in range(10)]
    await asyncio.sleep(0)
    await store.cache.close()
    await asyncio.gather(*asked)
    assert await store.cache.get("k0") is None
    cache = await store.open_again()
    assert (await cache.stats()).answers == 10


async def test_after_the_end_there_is_nothing_and_nothing_is_kept(store):
    await store.cache.put("k", answer())
    await store.cache.close()
    await store.cache.close()
    await store.cache.put("new", answer())
    assert not await store.kept("k", "new")
    assert await store.cache.remove_expired() == 0
    for asked in (store.cache.stats(), store.cache.remove(), store.cache.remove(model="gpt-4o-mini")):
        with pytest.raises(StoreError):
            await asked
    assert not any(thread.name.startswith("cache") for thread in threading.enumerate())
    await store.open_again()
    assert await store.kept("k", "new") == {"k"}


async def test_a_store_that_was_never_asked_ends_without_a_file(store):
    await store.cache.close()
    assert not store.path.exists()


# Taken out on request


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({"creator": "acme"}, {"other small", "other large"}),
        ({"model": "small"}, {"acme large", "other large"}),
        ({"creator": "acme", "model": "small"}, {"acme large", "other small", "other large"}),
        ({"creator": "nobody"}, {"acme small", "acme large", "other small", "other large"}),
        ({}, set()),
    ],
)
async def test_what_matches_all_that_is_given_is_removed(store, asked, left):
    keys = [f"{creator} {model}" for creator in ("acme", "other") for model in ("small", "large")]
    for key in keys:
        creator, model = key.split()
        await store.cache.put(key, sized(1_000, creator=creator, model=model))
    assert await store.cache.remove(**asked) == len(keys) - len(left)
    stats = await store.cache.stats()
    assert (stats.answers, stats.size_bytes, stats.evicted) == (len(left), 1_000 * len(left), 0)
    assert await store.kept(*keys) == left


async def test_a_removal_of_many_reaches_all_of_them(store):
    for number in range(1_300):
        await store.cache.put(f"k{number}", answer(creator="acme" if number % 2 else "other"))
    assert await store.cache.remove(creator="acme") == 650
    assert await store.cache.remove(creator="acme") == 0
    assert store.rows("SELECT DISTINCT creator FROM answers") == [("other",)]
    assert store.rows("SELECT count(*) FROM bodies") == [(650,)]


@pytest.mark.parametrize("asked", [{}, {"creator": "acme"}], ids=["all", "a creator"])
async def test_a_removal_gives_the_disk_its_room_back(tmp_path, asked):
    store = Store(tmp_path, bytes_max=64 * MIB)
    for number in range(100):
        await store.cache.put(f"k{number}", answer(b"x" * 300_000))
    assert store.path.stat().st_size > 20 * MIB
    assert await store.cache.remove(**asked) == 100
    assert len(store.bytes_on_disk()) < 18 * MIB, "the log may still be as large as it may become"
    await store.cache.put("k", kept := answer())
    assert await store.cache.get("k") == kept
    await store.cache.close()
    assert len(store.bytes_on_disk()) < 100_000
