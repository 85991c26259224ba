"""Background tasks that are kept alive and never fail in silence."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger()
_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Run `work` beside the caller; what it raises is logged, and the task is held until it ends."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (exc := task.exception()) is not None:
        _log.error("background_task_failed", task=task.get_name(), exc_info=exc)


def look_at(future: "asyncio.Future[Any]") -> None:
    """A callback for what nobody may come to wait for: an error that is not looked at would be logged as forgotten."""
    if not future.cancelled():
        future.exception()
