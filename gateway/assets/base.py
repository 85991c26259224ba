"""The contract of an asset store: bytes under an id, written once, read in pieces, removed.

Ids are those of `gateway.ledger.ids`, so they can be part of a path. A store knows nothing of creators: whose an asset is,
what type it has and whether it still exists is what the table `assets` says.
"""

from typing import Protocol

__all__ = ["AssetError", "AssetMissing", "AssetStore"]


class AssetError(Exception):
    """The store failed. The message is for logs: our own words, no secret, nothing the other side said."""


class AssetMissing(AssetError):
    """There is nothing under this id."""


class AssetStore(Protocol):
    """Opens no connection before it is first used. Every method raises `AssetError`."""

    async def put(self, id: str, content_type: str, data: bytes) -> None:
        """Returns when `data` is there whole, and as durable as the store is."""
        ...

    async def read(self, id: str, start: int, length: int) -> bytes:
        """Up to `length` bytes from `start`; fewer only at the end. Raises `AssetMissing`.

        Nothing stays open between two reads, so a reader who leaves in the middle leaves nothing behind.
        """
        ...

    async def delete(self, id: str) -> None:
        """Does nothing where there is nothing."""
        ...

    async def close(self) -> None: ...
