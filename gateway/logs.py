"""Logging: one JSON line an event on stdout, through structlog. Identifiers and counts, never content or keys.

The standard library's loggers (uvicorn, asyncio, sqlalchemy) go the same way. Lines below the level `warning` are written
together, at the latest 50 ms after they were said: a write for each would cost more than making the line.

Of several workers each says in every line which one it is. They write to one pipe, so no write is larger than what goes
into a pipe in one piece.
"""

import asyncio
import atexit
import logging
import select
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Any

import orjson
import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FLUSH_AFTER_S = 0.05
_HELD_BYTES_MAX = 32_768


_direct: "_Lines | None" = None
"""Where `log_request` may write by itself: JSON is wanted, and lines of level `info` are."""
_worker: int | None = None


def configure_logging(level: str, log_format: str, *, worker: int | None = None) -> None:
    """Set up structlog and the standard library's root logger for the life of the process.

    `worker` is this process's number, where several write to the same place.
    """
    global _direct, _worker
    number = _LEVELS[level]
    _direct = None
    _worker = worker
    if log_format == "json":
        lines = _Lines(sys.stdout.buffer, write_bytes_max=None if worker is None else select.PIPE_BUF)
        atexit.register(lines.flush)
        _direct = lines if number <= logging.INFO else None
        tail: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
        factory: Any = lambda *_: lines  # noqa: E731
    else:
        tail = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        factory = structlog.PrintLoggerFactory(sys.stdout)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if worker is None else [_name_worker]),
            *tail,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_ToStructlog()], level=max(number, logging.WARNING), force=True)


def log_request(event: str, fields: dict[str, Any]) -> None:
    """The line of a request, of level `info`. The same as structlog makes, for a fifth of the price: it is said for each."""
    if _direct is None:
        structlog.get_logger().info(event, **fields)
        return
    fields["event"] = event
    fields["level"] = "info"
    fields["timestamp"] = datetime.now(UTC)
    if _worker is not None:
        fields["worker"] = _worker
    _direct.info(orjson.dumps(fields, option=orjson.OPT_UTC_Z))


class _Lines:
    """Lines on their way out. Safe for the ledger's thread: what it says is urgent, and urgent lines do not wait.

    `write_bytes_max`: lines that are longer together are written one after the other. None: there is no bound.
    """

    def __init__(self, out: IO[bytes], *, write_bytes_max: int | None = None) -> None:
        self._out = out
        self._write_bytes_max = write_bytes_max
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def info(self, line: bytes) -> None:
        self._held.append(line)
        self._held_bytes += len(line)
        if self._held_bytes > _HELD_BYTES_MAX:
            self.flush()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self.flush)
            except RuntimeError:  # no loop in this thread: before the start, after the end, or the ledger's
                self.flush()

    debug = info

    def error(self, line: bytes) -> None:
        self.info(line)
        self.flush()

    warning = warn = exception = critical = fatal = failure = msg = log = error

    def flush(self) -> None:
        self._timer = None
        self._held_bytes = 0
        # A deque gives each line to one taker only, whichever thread flushes.
        lines = []
        with suppress(IndexError):
            while True:
                lines.append(self._held.popleft())
        if lines:
            try:
                for piece in [lines] if self._write_bytes_max is None else _pieces(lines, self._write_bytes_max):
                    self._out.write(b"\n".join(piece) + b"\n")
                    self._out.flush()
            except (OSError, ValueError):
                # The reader is gone, slow or out of disk. These lines are lost; the calls of paying creators go on, and
                # so does the ledger's thread, which may be telling us why.
                return


def _pieces(lines: list[bytes], bytes_max: int) -> Iterator[list[bytes]]:
    """Whole lines, as many together as `bytes_max` allows; one that is longer by itself is alone."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if piece and size > bytes_max:
            yield piece
            piece, size = [], len(line) + 1
        piece.append(line)
    yield piece


def _name_worker(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["worker"] = _worker
    return event


class _ToStructlog(logging.Handler):
    """A standard library record as one of our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger()
            log.log(record.levelno, record.name, message=record.getMessage(), exc_info=record.exc_info)
        except Exception:
            self.handleError(record)


def _dumps(event: Any, **_: Any) -> bytes:
    return orjson.dumps(event, default=str)
