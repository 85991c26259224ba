"""`Idempotency-Key`: a call that is sent again is answered again, and neither made nor paid twice.

A value stands for one call of one creator with one virtual key, for `ttl_s` seconds:
1. `claim` says what the value stands for. A call that runs or is over is answered from here; else the value is the caller's.
2. Its hold brings a row along, in one transaction (`gateway.ledger.transactions`); the settle of a call that failed at no
   cost takes the row away again.
3. `keep` puts the answer into the row, sealed, once the call is settled and before its last byte leaves.
4. `leave` ends the claim, whatever came of the call.

Within this process a value is looked up by one call at a time, and claimed before the next one looks: there is no instant
at which a running call is in neither the register nor the database. Between processes the row decides: it can be made once.

Nothing is stored in the clear: values and bodies only as digests under a key of the root secret, answers sealed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from weakref import WeakValueDictionary

import orjson
import structlog
from starlette.types import Receive

from gateway.body_hash import BodyHash, length_prefixed
from gateway.errors import DO_NOT_RETRY, RequestError
from gateway.ledger import idempotency as rows
from gateway.ledger.database import Database
from gateway.ledger.idempotency import Reserved, Size
from gateway.ledger.records import Reservation
from gateway.responder import Header
from gateway.sealing import Sealer
from gateway.secrets import Secrets
from gateway.tasks import spawn
from policies.types import Account

__all__ = ["VALUE_BYTES_MAX", "Claim", "Idempotency", "KeptAnswer"]

_log = structlog.get_logger()

VALUE_BYTES_MAX = 255
_PARAM = "idempotency-key"
_RETRY_AFTER_S = 1
_LABEL = b"value"
_ROWS_AT_ONCE = 500
_BYTES_AT_ONCE = 16 * 2**20
"""Of answers that go in one transaction: every page of theirs is touched, and calls wait meanwhile."""
_KEPT_WITHIN_MS = 15_000
"""After its settle, an answer is kept within this time, or it never will be."""
_LENGTH_BYTES = 4
_PREFIX = b"x-gateway-"
_KEPT = frozenset({b"content-type", b"x-should-retry"})
_NOT_KEPT = frozenset({b"x-gateway-cost-usd", b"x-gateway-cache", b"x-gateway-idempotent-replay"})
"""What these say is about the call that is answered, not about the answer."""


class KeptAnswer(NamedTuple):
    """What the first call was answered."""

    request_id: str
    status: int
    headers: list[Header]
    body: bytes

    def __repr__(self) -> str:
        """Without the body, which is a caller's own."""
        return f"KeptAnswer(request_id={self.request_id!r}, status={self.status}, bytes={len(self.body)})"


@dataclass(slots=True)
class Claim:
    """One call's right to a value while it runs in this process."""

    reservation: Reservation
    """For the call's hold."""
    request_id: str
    is_freed: bool = False
    """The value goes with the settle: there will be no answer to keep."""


class Idempotency:
    """Lifetime: the process. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        secrets: Secrets,
        *,
        ttl_s: int,
        answer_bytes_max: int,
        bytes_max: int,
        wall_clock: Callable[[], float],
        is_alive: Callable[[str], bool],
        has_others: Callable[[], bool] = lambda: False,
    ) -> None:
        """`answer_bytes_max` bounds one kept body, `bytes_max` all kept answers together; `is_alive` says whether the
        call with this request id is in flight in this process, `has_others` whether there are other processes."""
        self._database = database
        self._hasher = secrets.hasher("idempotency-keys")
        self._sealer = Sealer(secrets, "idempotency-answers")
        self._ttl_s = ttl_s
        self.answer_bytes_max = answer_bytes_max
        self._bytes_max = bytes_max
        self._wall_clock = wall_clock
        self._is_alive = is_alive
        self._has_others = has_others
        self._added = 0
        """Bytes of answers kept by this process so far."""
        self._looked_at, self._added_when_looked = 0, 0
        """Bytes that were kept when it was last looked, and `_added` then."""
        self._is_purging = False
        self._running: dict[str, Claim] = {}
        """By the id of the value."""
        self._looking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def body_hash(self, receive: Receive, content_type: bytes) -> BodyHash:
        """What reads a call's body for its fingerprint."""
        return BodyHash(receive, content_type, self._hasher)

    # One call

    async def claim(self, account: Account, request_id: str, value: bytes, fingerprint: str) -> Claim | KeptAnswer:
        """The call's right to `value`, to be given back by `leave`; or the answer of the call that had it before.

        Raises `RequestError`: 400 for a value that is empty or longer than 255 bytes, 422 when it stands for another
        request, 409 while its call runs and where its answer cannot be given again; and `StoreError`.
        """
        if not 1 <= len(value) <= VALUE_BYTES_MAX:
            raise RequestError(
                f"`Idempotency-Key` must be 1 to {VALUE_BYTES_MAX} bytes long.", param=_PARAM, code="invalid_value"
            )
        value_id = self._hasher(length_prefixed(_LABEL, account.key_id.encode(), account.creator.encode(), value)).hex()
        lock = self._looking.setdefault(value_id, asyncio.Lock())
        async with lock:
            self._refuse_if_running(value_id, fingerprint)
            kept = await self._look_up(value_id, fingerprint)
            if kept is not None:
                return kept
            expires_at = datetime.fromtimestamp(self._wall_clock() + self._ttl_s, UTC)
            claim = Claim(Reservation(value_id, fingerprint, expires_at), request_id)
            self._running[value_id] = claim
            return claim

    async def keep(self, claim: Claim, status: int, headers: Sequence[Header], body: bytes | None) -> None:
        """Keep what the client is told, durably. `body` None: it was larger than `answer_bytes_max`.

        Raises nothing but cancellation: the call is paid for. What could not be kept is logged, and reads as
        unavailable from then on. Does nothing for a value that was freed.
        """
        if claim.is_freed:
            return
        try:
            is_kept = await self._record(claim, status, headers, body)
        except Exception as exc:  # whatever it is, the answer must reach its client
            _log.error("idempotent_answer_not_kept", request_id=claim.request_id, error=repr(exc))
            return
        if not is_kept:
            _log.warning(
                "idempotent_answer_not_kept", request_id=claim.request_id, error="its row is gone, or complete"
            )

    def _note_added(self, size_bytes: int) -> None:
        """Makes room when there may be too much, without keeping the answer waiting."""
        self._added += size_bytes
        if self._known_bytes() > self._bytes_max and not self._is_purging:
            self._is_purging = True
            spawn(self._make_room(), "make-room-for-answers")

    async def _make_room(self) -> None:
        try:
            # Whatever is there when it looks goes; what came meanwhile is looked at again.
            while self._known_bytes() > self._bytes_max:
                await self.purge()
        finally:
            self._is_purging = False

    def _known_bytes(self) -> int:
        """At least what is kept, but for what an earlier process kept before the first look."""
        return self._looked_at + self._added - self._added_when_looked

    def leave(self, claim: Claim) -> None:
        """The call has ended in this process. Does nothing the second time."""
        value_id = claim.reservation.id
        if self._running.get(value_id) is claim:
            del self._running[value_id]

    def conflict(self) -> RequestError:
        """For a call whose hold was refused because another process was first (`gateway.ledger.faults.Conflict`)."""
        return _in_progress()

    def _refuse_if_running(self, value_id: str, fingerprint: str) -> None:
        running = self._running.get(value_id)
        if running is not None:
            raise _in_progress() if running.reservation.fingerprint == fingerprint else _reused()

    async def _look_up(self, value_id: str, fingerprint: str) -> KeptAnswer | None:
        """The answer in the database; None where the value stands for nothing, not even an expired row."""
        row = await rows.reserved_by_id(self._database, value_id)
        if row is None:
            return None
        now_ms = self._now_ms()
        if row.expires_at <= now_ms:
            # The row of the new hold would run into it.
            await rows.remove_expired(self._database, [value_id], now_ms)
            return None
        if row.fingerprint != fingerprint:
            raise _reused()
        if row.state == "open" and await self._runs(row):
            raise _in_progress()
        kept = self._opened(value_id, row)
        if kept is None:
            raise _unavailable(row.request_id)
        return kept

    async def _runs(self, row: Reserved) -> bool:
        """Whether its answer may still come: from another process, a moment after it was settled."""
        if row.has_hold or self._is_alive(row.request_id):
            return True
        since_ms = self._now_ms() + self._database.clock_ahead_ms - _KEPT_WITHIN_MS
        return self._has_others() and await rows.was_settled_since(self._database, row.request_id, since_ms)

    async def _record(self, claim: Claim, status: int, headers: Sequence[Header], body: bytes | None) -> bool:
        value_id, request_id = claim.reservation.id, claim.request_id
        if body is None or len(body) > self.answer_bytes_max:
            return await rows.record_too_large(self._database, value_id, request_id, status=status)
        answer = self._sealer.seal(_packed(headers, body), value_id)
        is_kept = await rows.record_answer(self._database, value_id, request_id, status=status, answer=answer)
        self._note_added(len(answer))
        return is_kept

    def _opened(self, value_id: str, row: Reserved) -> KeptAnswer | None:
        """None where there is no answer, or it was sealed under another root secret."""
        packed = None if row.answer is None else self._sealer.open(row.answer, value_id)
        return None if packed is None else KeptAnswer(row.request_id, row.status, *_unpacked(packed))

    # All of them

    async def purge(self) -> None:
        """Remove what has expired, and the oldest answers until all of them fit `bytes_max`. Raises `StoreError`."""
        now_ms = self._now_ms()
        while expired := await rows.some_expired(self._database, now_ms, _ROWS_AT_ONCE):
            await rows.remove_expired(self._database, _ids(_bounded(expired)), now_ms)
        added = self._added  # what comes from here on may be in the sum or not, and counts beside it
        total = await rows.kept_bytes(self._database)
        excess = total - self._bytes_max
        while excess > 0 and (kept := await rows.oldest_kept(self._database, _ROWS_AT_ONCE)):
            dropped = _bounded(kept, min(excess, _BYTES_AT_ONCE))
            await rows.drop_answers(self._database, _ids(dropped))
            excess -= sum(row.bytes for row in dropped)
        self._looked_at, self._added_when_looked = min(total, excess + self._bytes_max), added

    async def forget(self, creator: str) -> None:
        """Remove everything kept for a creator. Raises `StoreError`."""
        while kept := await rows.some_of_creator(self._database, creator, _ROWS_AT_ONCE):
            await rows.remove_of_creator(self._database, _ids(_bounded(kept)), creator)

    def _now_ms(self) -> int:
        return int(self._wall_clock() * 1000)


def _ids(sizes: Sequence[Size]) -> list[str]:
    return [row.id for row in sizes]


def _bounded(sizes: Sequence[Size], bytes_enough: int = _BYTES_AT_ONCE) -> Sequence[Size]:
    """The first of them that together have at least so many bytes; all, if they have less."""
    total = 0
    for index, row in enumerate(sizes):
        total += row.bytes
        if total >= bytes_enough:
            return sizes[: index + 1]
    return sizes


def _is_kept(name: bytes) -> bool:
    return name in _KEPT or (name.startswith(_PREFIX) and name not in _NOT_KEPT)


def _packed(headers: Sequence[Header], body: bytes) -> bytes:
    lowered = ((name.lower(), value) for name, value in headers)
    head = orjson.dumps(
        [(name.decode("latin-1"), value.decode("latin-1")) for name, value in lowered if _is_kept(name)]
    )
    return b"".join((len(head).to_bytes(_LENGTH_BYTES, "big"), head, body))


def _unpacked(packed: bytes) -> tuple[list[Header], bytes]:
    end = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "big")
    head = orjson.loads(packed[_LENGTH_BYTES:end])
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head], packed[end:]


def _reused() -> RequestError:
    return RequestError(
        "This `Idempotency-Key` was used before for another request: send the same request again, or take a new key.",
        status=422,
        code="idempotency_key_reused",
        param=_PARAM,
    )


def _in_progress() -> RequestError:
    return RequestError(
        "The call with this `Idempotency-Key` is still running; ask again in a moment.",
        status=409,
        code="idempotency_in_progress",
        param=_PARAM,
        headers={"retry-after": str(_RETRY_AFTER_S), "retry-after-ms": str(_RETRY_AFTER_S * 1000)},
    )


def _unavailable(request_id: str) -> RequestError:
    return RequestError(
        "The call with this `Idempotency-Key` was made, and its answer cannot be given again: take a new key to make "
        "the call anew.",
        status=409,
        code="idempotency_result_unavailable",
        param=_PARAM,
        metadata={"request_id": request_id},
        headers=DO_NOT_RETRY,
    )
