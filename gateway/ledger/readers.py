"""What reads beside the writer: connections that cannot write, whichever the store."""

from collections.abc import AsyncIterator
from typing import Any, Protocol

from sqlalchemy import Select

from gateway.ledger.statements import Row

__all__ = ["READ_TIMEOUT_S", "Readers"]

READ_TIMEOUT_S = 30.0


class Readers(Protocol):
    """Belongs to one event loop. Every method raises `StoreError` when the store fails."""

    async def fetch_all(self, query: Select[Any], timeout_s: float) -> list[Row]:
        """Every row; `StoreError` with the code `query_timeout` when it takes longer."""
        ...

    def stream(self, query: Select[Any], chunk_rows: int) -> AsyncIterator[list[Row]]:
        """Rows in lists, all from one instant."""
        ...

    async def close(self) -> None:
        """What is read meanwhile may fail. May be called twice."""
        ...
