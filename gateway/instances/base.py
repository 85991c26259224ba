"""What one process of a gateway knows of the others.

They share a database and talk through it alone: each says there twice a second that it is alive, one of them leads (does
what must be done once), and what one changes is announced to the others as it is committed.

How calls are counted is agreed between them, since a limit that some count in Redis and others do not is no limit:

1. `shared`: everybody counts in Redis.
2. One cannot reach Redis and says so (`wants_local`). Everybody stops taking, and says that: `paused`.
3. All who are alive have said it: `local`. Everybody counts for itself.
4. Nobody wants to count locally any more: all stop again, say so, and are `shared` when all have said it.
"""

from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from sqlalchemy import Select, literal, select

__all__ = ["AloneInstance", "Counting", "Handler", "Instances"]

Counting = Literal["shared", "paused", "local"]
Handler = Callable[[str], Awaitable[None]]
"""What is done about an announcement; told the part after its first word."""


class Instances(Protocol):
    """Lifetime: the process. Belongs to its event loop."""

    @property
    def instance_id(self) -> str: ...

    @property
    def count(self) -> int:
        """Processes that are alive, this one among them: at least 1."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this one does what is to be done once. For moments two may believe it."""
        ...

    @property
    def has_lapsed(self) -> bool:
        """Whether others may believe that this process is dead: then it must take nothing for its own."""
        ...

    @property
    def is_heard(self) -> bool:
        """Whether the database answered within the last second: else announcements may have been missed."""
        ...

    @property
    def counting(self) -> Counting: ...

    @property
    def round(self) -> int:
        """Which agreement to count locally `counting` speaks of: another number each time that all have stopped for one,
        the same in all of them. Whoever joins later makes everybody agree anew."""
        ...

    wants_local: bool
    """Set by who counts: Redis cannot be used."""
    has_stopped: Callable[[], bool]
    """Set by who counts. A pause is told to the others only when this says that nothing is taken any more, and that all
    that was is in the ledger: they read it there."""

    def may_bury(self) -> bool:
        """Whether those who are not in `alive` are dead for sure, and this one has to end what they left."""
        ...

    def alive(self) -> Select[tuple[str]]:
        """Reads the ids of all that are alive. In the statement that looks for others' remains: who writes something has
        been seen before."""
        ...

    def on(self, word: str, handler: Handler) -> None:
        """`handler` is told what other processes announce as `word rest`."""
        ...


class AloneInstance:
    """The only process: it leads, and agrees with itself."""

    count = 1
    is_leader = True
    is_heard = True
    has_lapsed = False
    round = 0

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        self.wants_local = False
        self.has_stopped: Callable[[], bool] = lambda: True

    @property
    def counting(self) -> Counting:
        return "local" if self.wants_local else "shared"

    def may_bury(self) -> bool:
        return False  # what an earlier process left has ended before this one began

    def alive(self) -> Select[tuple[str]]:
        return select(literal(self.instance_id))

    def on(self, word: str, handler: Handler) -> None:
        """Nobody announces anything."""

    async def aclose(self) -> None:
        """There is nobody to say farewell to."""
