"""What things are called in Redis.

Everything that one call touches shares a hash tag, the account in braces, so that it lies in one slot of a cluster. The
tag is read off the counter's own name, which every process does alike: `quota:c/ada/2025-01` belongs to ada. The limits
of a virtual key (`k/...`) do not name their account; `account_of` tells it. Without that they have a tag of their own,
which is as good on every server that is no cluster.

What is counted is named after the epoch as well: a new one begins with no counters, whatever an old one left behind.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

__all__ = ["Names"]

_NOBODY = "-"
"""Counters that belong to nobody: none of the gateway's own."""


class Names:
    """`prefix` keeps gateways apart that share a server. `account_of`: the public id of a virtual key -> its account,
    which must be the same always and in every process."""

    def __init__(self, prefix: str, account_of: Callable[[str], str] | None = None) -> None:
        self._prefix = prefix
        self._account_of = account_of
        self.epoch = f"{prefix}epoch"
        """The epoch whose counters count; missing while there are none that may be trusted."""
        self.server = f"{prefix}server"
        """A hash: the server on which that epoch was made, when (Unix time), and its name."""
        self.sweep = f"{prefix}sweep"
        """There as long as nobody has to look for what dead processes left."""
        self.rebuild = f"{prefix}rebuild"
        """The epoch that is being made; whoever set it makes it."""
        self.database = f"{prefix}database"
        """The id of the database that fills the counters."""
        # What follows is asked for several times a call.
        self.tag = lru_cache(maxsize=65_536)(self._tag)
        self.counter = lru_cache(maxsize=65_536)(self._counter)

    def process(self, process: str) -> str:
        """There as long as the process was seen lately; empty: what all such names begin with."""
        return f"{self._prefix}process:{process}"

    def all_holds(self, epoch: str) -> str:
        """A pattern of the hashes of open holds, of every account."""
        return f"{self._prefix}{{*}}:{epoch}:@holds"

    def open_holds(self, epoch: str) -> str:
        """A hash of the holds that are open while `epoch` is made: what they took, by their ids."""
        return f"{self._prefix}rebuild:{epoch}"

    def holds(self, tag: str, epoch: str) -> str:
        """A hash of an account's open holds."""
        return f"{self._prefix}{{{tag}}}:{epoch}:@holds"

    def tag_among(self, keys: Iterable[str]) -> str:
        """Whose call it is that counts on `keys`: that of the first creator's counter, else of the first."""
        first = None
        for key in keys:
            if ":c/" in key:
                return self.tag(key)
            first = first or key
        return self.tag(first) if first is not None else _NOBODY

    def all_of(self, epoch: str) -> str:
        """A pattern of everything that was counted in `epoch`."""
        return f"{self._prefix}{{*}}:{epoch}:*"

    def _counter(self, key: str, epoch: str) -> str:
        return f"{self._prefix}{{{self.tag(key)}}}:{epoch}:{key}"

    def _tag(self, key: str) -> str:
        owner, _, rest = key.partition(":")[2].partition("/")
        owner_id = rest.partition("/")[0]
        if owner == "c" and owner_id:
            return owner_id
        if owner == "k" and owner_id:
            return self._account_of(owner_id) if self._account_of else owner_id
        return _NOBODY
