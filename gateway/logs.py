"""Logging: one JSON line an event on stdout, through structlog. Identifiers and counts, never content or keys.

The standard library's loggers (uvicorn, asyncio, sqlalchemy) go the same way. Lines are written as they come; a reader that
is slow is the operator's choice, and a reader that is gone must not stop the gateway.
"""

import logging
import sys
from typing import Any

import orjson
import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logging(level: str, log_format: str) -> None:
    """Set up structlog and the standard library's root logger for the life of the process."""
    number = _LEVELS[level]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if log_format == "json":
        tail: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]
        factory: Any = structlog.BytesLoggerFactory(sys.stdout.buffer)
    else:
        tail = [structlog.dev.ConsoleRenderer()]
        factory = structlog.PrintLoggerFactory(sys.stdout)
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    handler = _ToStructlog()
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.getLogger("uvicorn.access").disabled = True


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
