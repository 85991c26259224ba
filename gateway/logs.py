"""Logging: one JSON line an event on stdout, through structlog. Identifiers and counts, never content or keys.

The standard library's loggers (uvicorn, asyncio, sqlalchemy) go the same way. Lines below the level `warning` are written
together, at the latest 50 ms after they were said: a write for each would cost more than making the line.
"""

import asyncio
import atexit
import logging
import sys
from collections import deque
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


def configure_logging(level: str, log_format: str) -> None:
    """Set up structlog and the standard library's root logger for the life of the process."""
    global _direct
    number = _LEVELS[level]
    _direct = None
    if log_format == "json":
        lines = _Lines(sys.stdout.buffer)
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
    _direct.info(orjson.dumps(fields, option=orjson.OPT_UTC_Z))


class _Lines:
    """Lines on their way out. Safe for the ledger's thread: what it says is urgent, and urgent lines do not wait."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
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
                self._out.write(b"\n".join(lines) + b"\n")
                self._out.flush()
            except (OSError, ValueError):
                # The reader is gone, slow or out of disk. These lines are lost; the calls of paying creators go on, and
                # so does the ledger's thread, which may be telling us why.
                return


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
