"""JSON values against callers' schemas, checked in a few processes beside this one, with a deadline.

A process is started when it is first needed and killed when a check takes longer than its deadline; the next check gets a
new one.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson
import structlog

from gateway.errors import StoreError
from gateway.schema_worker import FLAW_CHARS_MAX, FLAWS_MAX, READY

__all__ = ["CheckTooLong", "SchemaChecker", "UnsoundSchema"]

_log = structlog.get_logger()

_CHECK_S = 1.0
_START_S = 20.0
_WAIT_S = 10.0
_LINE_BYTES_MAX = 2**20
"""An answer is a few flaws of bounded length for each value."""
_VALUES_MAX = _LINE_BYTES_MAX // (8 * FLAWS_MAX * FLAW_CHARS_MAX)
"""Of one job: a character of a flaw is up to eight bytes in its line."""


class UnsoundSchema(Exception):
    """It is no JSON Schema, or refers to something outside itself."""


class CheckTooLong(Exception):
    """It took longer than anybody may wait for it, or more memory than it may have."""


class _Turn:
    """One creator's place in the queue; gone when nobody waits there."""

    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class SchemaChecker:
    """Lifetime: the process, on one event loop. Starts nothing before the first check."""

    def __init__(self, *, workers_max: int = 2, check_s: float = _CHECK_S) -> None:
        self._check_s = check_s
        self._free = asyncio.Semaphore(workers_max)
        self._idle: list[asyncio.subprocess.Process] = []
        self._turns: dict[str, _Turn] = {}
        self._is_closed = False

    async def flaws(self, creator: str, schema: Any, values: Sequence[Any] = ()) -> list[list[str]]:
        """What is wrong with each of `values`, at most a few words each.

        A creator's checks wait for one another, whatever they are worth, so that nobody's keep the others out. Raises
        `UnsoundSchema`, `CheckTooLong`; `StoreError` 503 where none could begin in time.
        """
        job = orjson.dumps({"schema": schema, "values": values[:_VALUES_MAX]}) + b"\n"
        turn = self._turns.setdefault(creator, _Turn())
        turn.waiting += 1
        try:
            async with asyncio.timeout(_WAIT_S) as waiting, turn.lock, self._free:
                waiting.reschedule(None)
                answer = orjson.loads(await self._asked(job))
        except TimeoutError:
            raise _busy() from None
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                self._turns.pop(creator, None)
        if answer.get("unsound"):
            raise UnsoundSchema
        found: list[list[str]] = answer["flaws"]
        return found

    async def close(self) -> None:
        self._is_closed = True
        while self._idle:
            await _end(self._idle.pop())

    async def _asked(self, job: bytes) -> bytes:
        worker = self._idle.pop() if self._idle else await _start()
        try:
            async with asyncio.timeout(self._check_s):
                assert worker.stdin is not None  # noqa: S101 -- it was started with pipes
                assert worker.stdout is not None  # noqa: S101 -- likewise
                worker.stdin.write(job)
                await worker.stdin.drain()
                line = await worker.stdout.readline()
        except (TimeoutError, ConnectionError, ValueError):
            line = b""
        except BaseException:
            await _end(worker)
            raise
        if not line.endswith(b"\n"):
            _log.warning("schema_check_ended", note="a schema took too long or too much memory to check")
            await _end(worker)
            raise CheckTooLong
        if self._is_closed:
            await _end(worker)
        else:
            self._idle.append(worker)
        return line


def _busy() -> StoreError:
    return StoreError(
        "Too many answers wait to be checked against their schemas; try again in a moment.",
        code="overloaded",
        headers={"retry-after": "1"},
    )


async def _start() -> asyncio.subprocess.Process:
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.schema_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_LINE_BYTES_MAX,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it needs no secret of ours
    )
    assert worker.stdout is not None  # noqa: S101 -- it was started with pipes
    try:
        async with asyncio.timeout(_START_S):
            if await worker.stdout.readline() == READY:
                return worker
    except BaseException:
        await _end(worker)
        raise
    await _end(worker)
    raise RuntimeError("the process that checks schemas did not start")


async def _end(worker: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()
