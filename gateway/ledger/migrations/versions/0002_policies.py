"""What policies brought: prices of one's own and decisions on holds and entries, credits granted, postings made once.

Only adds columns, tables and indexes: no entry is written again. Two of the indexes make SQLite read all entries once
(about a second for a million), though they hold nothing that version 0001 could write. As in 0001, nothing is taken from
`gateway.ledger.schema`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_IS_CREDITS = "payer IN ('credits', 'promo_credits')"

# Keys that were rotated before: the last key of a chain counts on its first one's counters, and so does each between.
_LIMITS_OF_SUCCESSORS = """
WITH RECURSIVE chain(id, first) AS (
    SELECT replaced_by, id FROM virtual_keys WHERE replaced_by IS NOT NULL
    AND id NOT IN (SELECT replaced_by FROM virtual_keys WHERE replaced_by IS NOT NULL)
    UNION ALL
    SELECT virtual_keys.replaced_by, chain.first FROM chain JOIN virtual_keys ON virtual_keys.id = chain.id
    WHERE virtual_keys.replaced_by IS NOT NULL
)
UPDATE virtual_keys SET limits_id = (SELECT first FROM chain WHERE chain.id = virtual_keys.id)
WHERE id IN (SELECT id FROM chain)
"""


def upgrade() -> None:
    for name in ("variant", "charge_price_version", "decision"):
        op.add_column("entries", _text(name, default=""))
    op.add_column("holds", sa.Column("orphan_charge_nano_usd", _NUMBER, nullable=False, server_default=sa.text("0")))
    for name in ("charge_price_version", "downgrade_reason", "decision"):
        op.add_column("holds", _text(name, default=""))
    # Until now every hold was the quota's, at the catalog's price.
    op.execute("UPDATE holds SET orphan_charge_nano_usd = orphan_cost_nano_usd WHERE payer = 'quota'")
    op.add_column("virtual_keys", _text("default_plan", nullable=True))
    op.add_column("virtual_keys", _text("limits_id", nullable=True))
    op.execute(_LIMITS_OF_SUCCESSORS)
    _partial_index("ix_entries_corrects", "entries", ["corrects"], "corrects IS NOT NULL")
    _partial_index("ix_entries_credits", "entries", ["creator", "id"], _IS_CREDITS)
    _partial_index("ix_usage_daily_credits", "usage_daily", ["payer", "creator"], _IS_CREDITS)
    op.create_index("ix_usage_daily_creator_period_day", "usage_daily", ["creator", "period_day"])
    _create(
        "credit_grants",
        *(_text(name) for name in ("entry_id", "creator", "payer")),
        _number("credits"),
        _number("expires_at", nullable=True),
        _number("created_at"),
        _text("expired_entry_id", nullable=True),
        sa.PrimaryKeyConstraint("entry_id", name="pk_credit_grants"),
    )
    op.create_index("ix_credit_grants_creator", "credit_grants", ["creator"])
    _create(
        "postings",
        *(_text(name) for name in ("creator", "idempotency_key", "digest", "entry_id")),
        _number("created_at"),
        sa.PrimaryKeyConstraint("creator", "idempotency_key", name="pk_postings"),
    )


def _partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _create(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=nullable, server_default=default)


def _number(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=nullable)
