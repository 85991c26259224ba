"""What creators are called, for pages whose figures know them by id only."""

from collections.abc import Iterable, Mapping

from gateway.dashboard.api import Api

__all__ = ["names_of"]

_AT_ONCE = 200
"""Ids in one query: far below what an address may have."""


async def names_of(api: Api, creators: Iterable[str]) -> Mapping[str, str]:
    """Id -> name, of those that have one. Deleted creators have none."""
    ids = sorted({creator for creator in creators if creator})
    found: dict[str, str] = {}
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        answer = await api.get("/admin/creators", ids=",".join(part), limit=len(part))
        found |= {row["id"]: row["name"] for row in answer["data"] if row["name"]}
    return found
