"""What is left of months whose entries were dropped; and on SQLite, which entries can be deleted at all.

PostgreSQL empties the table of a month instead, and deletes no entry.

Nothing is taken from `gateway.ledger.schema`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# Calls of a closed month that has its row, paid by no credits and never corrected; and only inside a transaction that
# says so in `meta`, and takes it back before it ends, so that no other connection ever sees it.
_NO_DELETE = """
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
WHEN OLD.kind <> 'usage'
    OR OLD.payer IN ('credits', 'promo_credits')
    OR NOT EXISTS (SELECT 1 FROM meta WHERE key = 'dropping')
    OR NOT EXISTS (SELECT 1 FROM meta WHERE key = 'month_closed:' || OLD.period_month)
    OR NOT EXISTS (SELECT 1 FROM dropped_months WHERE month = OLD.period_month)
    OR EXISTS (SELECT 1 FROM entries AS correction WHERE correction.corrects = OLD.id)
BEGIN SELECT RAISE(ABORT, 'ledger entries are never changed: post a correction'); END
"""


def upgrade() -> None:
    _create(
        "dropped_months",
        *(_text(name) for name in ("month", "rollups_sha256")),
        _number("begun_at"),
        _number("swept_at", nullable=True),
        sa.PrimaryKeyConstraint("month", name="pk_dropped_months"),
    )
    _create(
        "dropped_sums",
        *(_text(name) for name in ("month", "creator", "payer")),
        *(_number(name) for name in ("entries", "calls", "cost_nano_usd", "charge_nano_usd", "payer_amount")),
        sa.PrimaryKeyConstraint("month", "creator", "payer", name="pk_dropped_sums"),
    )
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER entries_no_delete")
        op.execute(_NO_DELETE)


def _create(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False)


def _number(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=nullable)
