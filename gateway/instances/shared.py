"""The processes of a gateway on one PostgreSQL: who is alive, who leads, what was announced, how calls are counted.

Twice a second, over a connection of its own, this process writes that it is alive and reads who else is. By the clock of
the database, so that those of the machines need not agree:
- A process is alive until ten seconds after it was last seen. A leader calls another one dead only when it has itself been
  seen without a gap for as long, or an outage of the database would make all of them dead at once.
- The leader's lease lasts ten seconds as well, and is renewed with every beat.

What was announced while the connection was lost was missed: whoever remembers anything is told so when it is back.

Steps between the ways of counting (see `base`) are taken by what was read *after* what this process says was committed:
of two that decide at the same moment, one sees the other. Whoever may have been taken for dead joins anew, as the others
may have agreed without it; and where the database's clock was set forward, which makes the living look dead for a
moment, no step is taken until they had the time to be seen again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import structlog
from sqlalchemy import ColumnElement, Select, literal_column, select

from gateway.errors import ConfigError
from gateway.instances.base import Counting, Handler
from gateway.ledger.postgres.faults import translated
from gateway.ledger.postgres.link import CHANNEL, Link, connect, end
from gateway.ledger.reloads import RELOADS_KEY
from gateway.ledger.schema import instances
from gateway.tasks import spawn

__all__ = ["SharedInstances"]

_log = structlog.get_logger()

_BEAT_S = 0.5
_HURRIED_BEAT_S = 0.1
"""While calls wait for an agreement."""
_ANSWER_TIMEOUT_S = 1.0
_LEASE_S = 10.0
_MARGIN = 0.2
"""The part of the lease by which this process believes itself to be dead sooner than others do."""
_CLOCK_STEP_S = 2.0
_FORGOTTEN_S = 86_400
_NOW_MS = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

_BEAT = f"""
WITH clock AS MATERIALIZED (SELECT {_NOW_MS} AS ms),
beat AS (
    INSERT INTO instances (id, started_at, seen_at, counting, round, agreed, wants_local)
    SELECT $1, ms, ms, $2, $6, $7, $3 FROM clock
    ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, counting = excluded.counting, round = excluded.round,
        agreed = excluded.agreed, wants_local = excluded.wants_local
),
lease AS (
    INSERT INTO leases (name, holder, until_at)
    SELECT 'leader', $1, ms + $5 FROM clock WHERE $4
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until_at = excluded.until_at
        WHERE leases.holder = $1 OR leases.until_at < excluded.until_at - $5
    RETURNING 1
)
SELECT clock.ms, instances.id, instances.counting, instances.round, instances.agreed, instances.wants_local,
    EXISTS (SELECT FROM lease) AS leads,
    coalesce((SELECT until_at FROM leases WHERE name = 'leader' AND holder <> $1), 0) AS other_leads_until,
    coalesce((SELECT value FROM meta WHERE key = '{RELOADS_KEY}'), '0') AS reloads
FROM clock LEFT JOIN instances ON instances.id <> $1 AND instances.seen_at > clock.ms - $5
"""  # noqa: S608 -- constants of this module
_LEAVE = ("DELETE FROM instances WHERE id = $1", "DELETE FROM leases WHERE holder = $1")
_END_PREDECESSOR = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE application_name = $1 AND usename = current_user AND pid <> pg_backend_pid()"
)
"""A beat that was given up here may still arrive, and must not say again what has been taken back since."""
_FORGET = f"DELETE FROM instances WHERE seen_at < {_NOW_MS} - {_FORGOTTEN_S * 1000}"  # noqa: S608

_Step = Literal["shared", "to_local", "local", "to_shared"]
"""Where this process is; both in between are `paused`."""
_COUNTS: dict[str, Counting] = {"shared": "shared", "local": "local"}
_STOPPING = "stopping"
"""What it says while something may still be taken in the way it counted before."""


class _Said(NamedTuple):
    """What a process says of itself."""

    counting: str
    round: int
    agreed: str
    """Ids of all who had stopped for this round, in order, or, where it waits for them, of all it knows; else empty."""


class _Other(NamedTuple):
    id: str
    said: _Said
    wants_local: bool


class SharedInstances:
    """`gateway.instances.base.Instances` for several processes. Lifetime: from `start` to `aclose`."""

    def __init__(self, url: str, instance_id: str, *, lease_s: float = _LEASE_S) -> None:
        """`lease_s`: how long after it was last seen a process counts as alive; the same for all."""
        self.instance_id = instance_id
        self._lease_s = lease_s
        self.wants_local = False
        self.has_stopped: Callable[[], bool] = lambda: True
        self.round = 0
        self.reloads = 0
        """How often plans and prices were read again, by whichever process; as of the last beat."""
        self.on_heard: Callable[[bool], None] = lambda is_heard: None
        """Told when the database begins and ceases to answer. After it began, what was announced before may have been missed."""
        self.on_reloads: Callable[[], None] = lambda: None
        """Told when `reloads` has grown."""
        self._url = url
        self._link: Link | None = None
        self._handlers: defaultdict[str, list[Handler]] = defaultdict(list)
        self._others: Sequence[_Other] = ()
        self._step: _Step = "to_shared"
        """Not `shared` from the start: others may be counting locally."""
        self._agreed = ""
        self._said: _Said | None = None
        """What was committed last."""
        self._is_heard = False
        self._leads = False
        self._other_leads = False
        self._beaten_at = -float("inf")
        """When the last beat that was answered began; monotonic, as all instants here."""
        self._steady_since = float("inf")
        self._clock_ahead_ms = 0.0
        """Of the database, as of the last beat."""
        self._blind_until = -float("inf")
        """Others may be alive and not seen."""
        self._beating: asyncio.Task[None] | None = None
        self._is_urgent = asyncio.Event()

    # What it knows

    @property
    def count(self) -> int:
        return 1 + len(self._others)

    @property
    def is_leader(self) -> bool:
        return self._leads and not self.has_lapsed

    @property
    def is_heard(self) -> bool:
        return self._is_heard

    @property
    def has_lapsed(self) -> bool:
        """Whether others may believe that this process is dead."""
        return time.monotonic() - self._beaten_at > self._lease_s * (1 - _MARGIN)

    @property
    def counting(self) -> Counting:
        return "paused" if self.has_lapsed else _COUNTS.get(self._step, "paused")

    def may_bury(self) -> bool:
        """Whether those who are not in `alive` can be called dead: only a leader that missed nothing knows."""
        return self.is_leader and self._is_heard and time.monotonic() - self._steady_since > self._lease_s

    def alive(self) -> Select[tuple[str]]:
        """By the clock of the database as it went on since the last beat: one that was set forward just now kills nobody."""
        went_on_to_ms = int(time.monotonic() * 1000 + self._clock_ahead_ms)
        since: ColumnElement[int] = literal_column(f"least({_NOW_MS}, {went_on_to_ms}) - {int(self._lease_s * 1000)}")
        return select(instances.c.id).where(instances.c.seen_at > since)

    def on(self, word: str, handler: Handler) -> None:
        self._handlers[word].append(handler)

    # Its life

    async def start(self) -> None:
        """Returns when it is known who else is there. Raises `ConfigError` when the database cannot be asked."""
        try:
            for _ in range(2):  # what was said has to be committed before others are looked at
                await self._beat()
        except Exception as exc:
            await self._lose()
            raise ConfigError(f"the database of GATEWAY_DATABASE_URL cannot be used ({translated(exc)})") from None
        self._beating = spawn(self._go_on(), "tell-that-it-lives")

    async def aclose(self) -> None:
        """Others need not wait until it counts as dead. Call it when every hold has ended."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})
        if self._link is not None and self._is_heard:
            try:
                for statement in _LEAVE:
                    await self._link.execute(statement, self.instance_id)
            except Exception as exc:
                _log.warning("instance_not_removed", error=str(translated(exc)))
            await end(self._link)
        await self._lose()

    def hurry(self) -> None:
        """Something changed that others should hear of at once."""
        self._is_urgent.set()

    async def _go_on(self) -> None:
        while True:
            is_waiting = self._step not in _COUNTS and self._is_heard
            with suppress(TimeoutError):
                async with asyncio.timeout(_HURRIED_BEAT_S if is_waiting else _BEAT_S):
                    await self._is_urgent.wait()
            self._is_urgent.clear()
            try:
                await self._beat()
            except Exception as exc:
                if self._is_heard:
                    _log.warning("instances_not_heard", error=str(translated(exc)))
                await self._lose()

    # Beats

    async def _beat(self) -> None:
        if self._link is not None and self._link.is_closed():
            await self._lose()  # what was announced since was missed, however short that was
        if self._link is None:
            self._link = await self._connected()
        began_at = time.monotonic()
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            said = self._saying()
            rows = await self._link.fetch(
                _BEAT,
                self.instance_id,
                said.counting,
                int(self.wants_local),
                not self._other_leads,
                int(self._lease_s * 1000),
                said.round,
                said.agreed,
            )
        had_lapsed = self.has_lapsed
        self._note(rows, began_at)
        self._agree(said, had_lapsed=had_lapsed)

    def _saying(self) -> _Said:
        if self._step not in _COUNTS and not self.has_stopped():
            return _Said(_STOPPING, self.round, "")
        known = {"local": self._agreed, "to_local": self._known()}
        return _Said(self._step, self.round, known.get(self._step, ""))

    def _known(self) -> str:
        return " ".join(sorted([self.instance_id, *(other.id for other in self._others)]))

    def _note(self, rows: Sequence[Any], began_at: float) -> None:
        now = time.monotonic()
        first = rows[0]
        ahead_ms = first["ms"] - now * 1000
        has_stepped = abs(ahead_ms - self._clock_ahead_ms) > _CLOCK_STEP_S * 1000
        if has_stepped or not self._is_heard or began_at - self._beaten_at > 2 * _ANSWER_TIMEOUT_S:
            self._steady_since = now  # others may have had no chance to be seen yet
        if has_stepped and ahead_ms > self._clock_ahead_ms and self._beaten_at > -float("inf"):
            self._blind_until = now + self._lease_s
        self._clock_ahead_ms = ahead_ms
        self._beaten_at = began_at
        self._others = [
            _Other(row["id"], _Said(row["counting"], row["round"], row["agreed"]), bool(row["wants_local"]))
            for row in rows
            if row["id"] is not None
        ]
        if first["leads"] != self._leads:
            _log.info("leads" if first["leads"] else "leads_no_more")
        self._leads = first["leads"]
        self._other_leads = first["other_leads_until"] > first["ms"] and not self._leads
        if not self._is_heard:
            self._is_heard = True
            self.on_heard(True)
        if int(first["reloads"]) > self.reloads:
            self.reloads = int(first["reloads"])
            self.on_reloads()

    def _agree(self, said: _Said, *, had_lapsed: bool) -> None:
        """`said` has been committed, after what was read with it. `had_lapsed`: until then others may not have seen it."""
        if had_lapsed:
            self._said = None
            if self._step != "to_shared":
                self._go("to_shared")
        before, self._said = self._said, said
        if not self._turn_round() and before == said:  # committed before what was read now
            self._step_on()

    def _turn_round(self) -> bool:
        """To where somebody wants to be, or to a round that others have begun. Whether that is news."""
        others = self._others
        if not (self.wants_local or any(other.wants_local for other in others)):
            if self._step in ("shared", "to_shared"):
                return False
            self._go("to_shared")
            return True
        latest = max((other.said.round for other in others), default=0)
        has_gone_on = any(
            other.said.counting == "local"
            and other.said.round == latest
            and self.instance_id not in other.said.agreed.split()
            for other in others
        )
        if self._step in ("shared", "to_shared"):
            is_begun = latest > self.round and not has_gone_on and any(o.said.counting == "to_local" for o in others)
            self.round = latest if is_begun else max(latest, self.round) + 1
        elif has_gone_on and latest >= self.round:
            self.round = latest + 1  # without this process: it joined later
        elif latest > self.round:
            self.round = latest
        else:
            return False
        self._go("to_local")
        return True

    def _step_on(self) -> None:
        """Where all others have stopped, too; and to count locally, where they know of this one: who does not may have gone
        on without it, and not have said so yet."""
        said = self._said
        if said is None or said.counting != self._step or said.round != self.round:
            return
        if time.monotonic() < self._blind_until:
            return
        if self._step == "to_local":
            if said.agreed == self._known() and all(map(self._has_stopped_too, self._others)):
                self._agreed = said.agreed
                self._go("local")
        elif self._step == "to_shared" and all(o.said.counting in ("to_shared", "shared") for o in self._others):
            self._go("shared")

    def _has_stopped_too(self, other: _Other) -> bool:
        said = other.said
        is_there = said.counting in ("to_local", "local") and said.round == self.round
        return is_there and self.instance_id in said.agreed.split()

    def _go(self, step: _Step) -> None:
        _log.info("counting", how=step, round=self.round, instances=self.count)
        self._step = step
        self._is_urgent.set()

    # The connection

    async def _connected(self) -> Link:
        name = f"gateway instance {self.instance_id[:32]}"
        link = await connect(
            self._url,
            name=name,
            statement_timeout_s=_ANSWER_TIMEOUT_S,
            answer_timeout_s=_ANSWER_TIMEOUT_S,
            target="read-write",
            settings={"synchronous_commit": "off"},  # what a crash of the server forgets is said again
        )
        try:
            await link.add_listener(CHANNEL, self._hear)
            await link.execute(_END_PREDECESSOR, name)
            await link.execute(_FORGET)
        except BaseException:
            link.terminate()
            raise
        return link

    async def _lose(self) -> None:
        link, self._link = self._link, None
        if self._is_heard:
            self._is_heard = False
            self.on_heard(False)
        if link is not None:
            link.terminate()
            await asyncio.sleep(0)  # only then is the socket closed

    def _hear(self, link: Link, pid: int, channel: str, payload: str) -> None:
        sender, _, said = payload.partition(" ")
        if sender == self.instance_id:
            return
        word, _, rest = said.partition(" ")
        for handler in self._handlers[word]:
            spawn(_handled(handler, word, rest), f"announced-{word}")


async def _handled(handler: Handler, word: str, rest: str) -> None:
    try:
        await handler(rest)
    except Exception:
        _log.exception("announcement_failed", word=word)
