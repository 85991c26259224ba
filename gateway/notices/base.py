"""What a notice is, and who takes it."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, Protocol

__all__ = ["Kind", "Notice", "NoticeBook"]

Kind = Literal[
    "quota.80_percent",
    "quota.95_percent",
    "quota.exhausted",
    "budget.80_percent",
    "budget.95_percent",
    "budget.exhausted",
    "budget.downgraded",
    "credits.exhausted",
    "key.expiring",
    "key.paused",
    "creator.throttled",
    "anomaly.request_rate",
    "anomaly.cost",
    "day_cost.above",
    "error_rate.above",
    "test",
]
"""The `type` of a webhook, dotted as Standard Webhooks proposes."""


class Notice(NamedTuple):
    """Something to be told once."""

    kind: Kind
    once: str
    """Kind, subject and period: what was recorded under the same words is not told again."""
    message: str
    """One sentence for people. Names creators by id; never holds a key or a prompt."""
    data: Mapping[str, Any]
    """The figures, as JSON has them: money as integer `..._nano_usd` and as decimal strings `..._usd`."""
    creator: str = ""
    """Empty where it concerns nobody in particular."""


class NoticeBook(Protocol):
    async def record(self, notice: Notice, *, unless: Collection[str] = ()) -> bool:
        """Durably, with its place in the outbox; False if it was recorded before. Raises `StoreError`.

        `unless`: nothing is recorded either where one of these once-words was.
        """
        ...
