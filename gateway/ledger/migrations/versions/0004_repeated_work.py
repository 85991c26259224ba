"""What repeated work and notices brought: what cached answers saved, kept answers of idempotent calls, notices with their
outbox, sums by the hour, anomalies and what was done about them.

Columns are added and tables made: no entry is written again. Nothing is taken from `gateway.ledger.schema`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for table in ("entries", "usage_daily"):
        op.add_column(table, _number("saved_nano_usd", default=0))
    op.add_column("virtual_keys", sa.Column("paused_at", _NUMBER, nullable=True))
    _create(
        "idempotency",
        *(_text(name) for name in ("id", "fingerprint", "request_id", "account_id", "creator")),
        *(_number(name) for name in ("created_at", "expires_at")),
        _text("state"),
        *(_number(name, default=0) for name in ("status", "size_bytes")),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_expires_at", "idempotency", ["expires_at"])
    op.create_index("ix_idempotency_creator", "idempotency", ["creator"])
    is_kept = sa.text("size_bytes > 0")
    op.create_index(
        "ix_idempotency_kept", "idempotency", ["size_bytes"], sqlite_where=is_kept, postgresql_where=is_kept
    )
    _create(
        "notices",
        *(_text(name) for name in ("id", "kind", "once")),
        _text("creator", default=""),
        *(_text(name) for name in ("message", "data")),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
        sa.UniqueConstraint("once", name="uq_notices_once"),
    )
    op.create_index("ix_notices_creator_id", "notices", ["creator", "id"])
    _create(
        "notice_deliveries",
        *(_text(name) for name in ("notice_id", "target", "state")),
        _number("attempts", default=0),
        _number("next_at"),
        _text("error", default=""),
        sa.PrimaryKeyConstraint("notice_id", "target", name="pk_notice_deliveries"),
        sa.ForeignKeyConstraint(
            ["notice_id"], ["notices.id"], name="fk_notice_deliveries_notice_id_notices", ondelete="CASCADE"
        ),
    )
    is_pending = sa.text("state = 'pending'")
    op.create_index(
        "ix_notice_deliveries_pending",
        "notice_deliveries",
        ["next_at"],
        sqlite_where=is_pending,
        postgresql_where=is_pending,
    )
    _create(
        "usage_hourly",
        *(_text(name) for name in ("hour", "creator", "feature", "key_id")),
        *(_number(name) for name in ("calls", "cost_nano_usd")),
        sa.PrimaryKeyConstraint("hour", "creator", "feature", "key_id", name="pk_usage_hourly"),
    )
    op.create_index("ix_usage_hourly_creator_feature_hour", "usage_hourly", ["creator", "feature", "hour"])
    _create(
        "anomalies",
        *(_text(name) for name in ("id", "creator", "feature", "metric", "hour")),
        *(_number(name) for name in ("value", "median", "deviation", "often", "threshold", "hours")),
        _text("action"),
        _text("details", default="{}"),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_anomalies"),
        sa.UniqueConstraint("creator", "feature", "metric", "hour", name="uq_anomalies_creator_feature_metric_hour"),
    )
    op.create_index("ix_anomalies_creator_id", "anomalies", ["creator", "id"])
    _create(
        "throttles",
        _text("creator"),
        *(_number(name) for name in ("requests_per_minute", "until_at")),
        _text("anomaly_id", default=""),
        sa.PrimaryKeyConstraint("creator", name="pk_throttles"),
    )


def _create(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str, *, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _number(name: str, *, default: int | None = None) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=False, server_default=None if default is None else sa.text(str(default)))
