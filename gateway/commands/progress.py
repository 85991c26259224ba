"""How far long work is: a bar on the standard error, for somebody who looks on.

Never in a pipe, a log or beside `--json`; what a command prints in the end is the same with and without it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["Told", "is_looked_at", "shown_progress", "shown_work"]

Told = Callable[[int, int], None]
"""Called with what is done and what there is to do, in the same unit; 0 to do where nobody knows how much it is."""

_REFRESHES_PER_S = 2
"""Each one takes a few milliseconds from the work, of which a bar may cost 2 %."""


def is_looked_at(*, is_quiet: bool) -> bool:
    """Whether there is a terminal to draw on. `is_quiet`: the command was asked for JSON."""
    return not is_quiet and sys.stderr.isatty()


@contextmanager
def shown_progress(doing: str, *, is_quiet: bool, then: str | None = None) -> "Iterator[Told | None]":
    """What to call with how far it is; None where nobody looks. `then` is shown once all is done and something is left to do."""
    if not is_looked_at(is_quiet=is_quiet):
        yield None
        return
    with _bars() as bars:
        task = bars.add_task(doing, total=None)

        def tell(done: int, total: int) -> None:
            if not total:
                bars.update(task, description=f"{doing}: {done}")
                return
            bars.update(task, completed=done, total=total, description=doing if done < total else then or doing)

        yield tell


@contextmanager
def shown_work(doing: str, *, is_quiet: bool) -> Iterator[None]:
    """For one step that nobody can look into: a bar that moves until it is over."""
    with shown_progress(doing, is_quiet=is_quiet):
        yield


def _bars() -> "Bars":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, refresh_per_second=_REFRESHES_PER_S)
