"""Sessions are in the database: every process knows them, on either store, and knows when they are over."""

from gateway.accounts import Accounts
from gateway.auth import AdminAuthenticator, Authenticator
from gateway.dashboard.sessions import IDLE_S, LIFETIME_S, SessionBook
from gateway.ledger.database import Database
from gateway.plans import load_plans
from gateway.secrets import Secrets
from tests.account_world import ROOT
from tests.ledger.books import BOTH, Place, count

STORES = BOTH
PER_KEY = 50


class Process:
    """What one process knows, on the clock of them all."""

    now = 1_780_000_000.0

    def __init__(self, database: Database) -> None:
        plans, secrets = load_plans(), Secrets(ROOT)
        authenticator = Authenticator(database, plans, secrets, max_age_s=0, wall_clock=lambda: Process.now)
        self.accounts = Accounts(database, plans, secrets, authenticator, wall_clock=lambda: Process.now)
        admins = AdminAuthenticator(database, secrets, None)
        self.book = SessionBook(database, secrets, authenticator, admins, wall_clock=lambda: Process.now)

    async def sign_in(self, key: str) -> str:
        return await self.book.open(*await self.book.recognise(key))


async def test_what_one_process_opened_another_finds_and_ends(database: Database) -> None:
    here, there = Process(database), Process(database)
    owner, spare = [await here.accounts.create_admin_key(name=name) for name in ("Eve", "Una")]
    await here.accounts.create_creator("ada")
    virtual = await here.accounts.create_key("ada")
    tokens = [await here.sign_in(key["key"]) for key in (owner, spare, virtual)]
    found = [await there.book.find(token) for token in tokens]
    assert [viewer and viewer.name for viewer in found] == ["Eve", "Una", "ada"]
    await there.accounts.revoke_admin_key(owner["id"])
    await there.accounts.revoke_key(virtual["id"])
    await there.book.close_token(tokens[1])
    assert [await here.book.find(token) for token in tokens] == [None, None, None]


async def test_sessions_end_unused_and_of_age_and_the_next_sign_in_deletes_them(
    database: Database, path: Place, monkeypatch
) -> None:
    process = Process(database)
    key = (await process.accounts.create_admin_key(name="Eve"))["key"]
    began_at = Process.now
    idle, used = await process.sign_in(key), await process.sign_in(key)
    for hour in range(1, LIFETIME_S // 3_600):
        monkeypatch.setattr(Process, "now", began_at + 3_600 * hour)
        assert await process.book.find(used) is not None
    assert IDLE_S < LIFETIME_S - 3_600
    assert await process.book.find(idle) is None
    monkeypatch.setattr(Process, "now", began_at + LIFETIME_S)
    assert await process.book.find(used) is None
    await process.sign_in(key)
    assert count(path, "sessions") == 1


async def test_of_one_key_only_the_newest_sessions_stay(database: Database, path: Place) -> None:
    process = Process(database)
    await process.accounts.create_creator("ada")
    first, other = [(await process.accounts.create_key("ada"))["key"] for _ in range(2)]
    kept = await process.sign_in(other)
    viewer, digest = await process.book.recognise(first)
    for _ in range(PER_KEY + 3):
        await process.book.open(viewer, digest)
    assert count(path, "sessions") == PER_KEY + 1
    assert await process.book.find(kept) is not None


async def test_a_text_that_no_store_could_hold_is_no_session_and_no_key(database: Database) -> None:
    process = Process(database)
    for text in ("\x00", "a\x00b", "\ud800", "'; DROP TABLE sessions; --", "%", "x" * 5_000):
        assert await process.book.find(text) is None
