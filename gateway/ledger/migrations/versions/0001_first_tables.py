"""The first tables, and triggers that keep ledger entries as they were posted.

A migration is what was done once: it names its columns itself and takes nothing from `gateway.ledger.schema`, which
goes on changing. A test compares the two.

On PostgreSQL entries are partitioned by id, which begins with the instant of posting, and have no unique (request_id,
attempt), which would have to contain the id: that a call is booked once is known by its hold, which one transaction alone
can delete. Texts are compared byte by byte there, as SQLite and Python do, whatever the language of the database.
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAG = sa.Boolean(create_constraint=False).with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_ATTRIBUTION = (
    "account_id creator key_id feature agent tags metadata endpoint requested_model client_request_id".split()
)
_ROUTE = "served_model provider price_version payer payer_unit".split()
_BUCKETS = (
    "uncached_input cached_input cache_write audio_input image_input "
    "text_output reasoning audio_output image_output image_units"
).split()
_MONEY = "cost_nano_usd charge_nano_usd payer_amount".split()
_USAGE_DAILY_TEXTS = "period_day account_id creator key_id feature agent endpoint requested_model served_model provider kind payer".split()


def upgrade() -> None:
    _accounts()
    _calls()
    _sums()
    _never_changed("entries", "ledger entries are never changed: post a correction")


def _accounts() -> None:
    _create(
        "creators",
        *_texts("id account_id"),
        _text("name", default=""),
        _text("plan"),
        _text("overrides", default="{}"),
        _text("metadata", default="{}"),
        _flag("is_active"),
        _number("created_at"),
        _number("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_creators"),
    )
    _create(
        "virtual_keys",
        *_texts("id creator_id account_id"),
        _text("name", default=""),
        *_texts("digest last4"),
        _text("models", nullable=True),
        _text("overrides", default="{}"),
        _text("scopes", default="[]"),
        _number("created_at"),
        _number("expires_at", nullable=True),
        _number("revoked_at", nullable=True),
        _text("replaced_by", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_virtual_keys"),
        sa.UniqueConstraint("digest", name="uq_virtual_keys_digest"),
        sa.ForeignKeyConstraint(["creator_id"], ["creators.id"], name="fk_virtual_keys_creator_id_creators"),
    )
    op.create_index("ix_virtual_keys_creator_id", "virtual_keys", ["creator_id"])
    _create(
        "admin_keys",
        *_texts("id digest"),
        _number("created_at"),
        _number("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_admin_keys"),
        sa.UniqueConstraint("digest", name="uq_admin_keys_digest"),
    )


def _calls() -> None:
    _create(
        "holds",
        *_texts("id instance_id"),
        *_texts(_ATTRIBUTION),
        _number("admitted_at"),
        *_texts(_ROUTE),
        _number("amount_nano_usd"),
        *(_number(f"orphan_{bucket}") for bucket in _BUCKETS),
        _number("orphan_cost_nano_usd"),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
    )
    _create(
        "entries",
        *_texts("id request_id"),
        *_texts(_ATTRIBUTION),
        _number("admitted_at"),
        *_texts(_ROUTE),
        _number("attempt"),
        _flag("final"),
        _text("kind"),
        *_numbers(_BUCKETS),
        _text("usage_source"),
        *_numbers(_MONEY),
        *_texts("outcome flags error"),
        _number("status"),
        _flag("cached"),
        _flag("is_streaming"),
        _number("latency_ms"),
        _number("ttft_ms", nullable=True),
        *_texts("upstream_request_id free_attempts downgrade_reason period_day period_month"),
        _number("created_at"),
        _text("corrects", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
        *(
            []
            if _is_postgres()
            else [sa.UniqueConstraint("request_id", "attempt", name="uq_entries_request_id_attempt")]
        ),
        postgresql_partition_by="RANGE (id)",
    )
    if _is_postgres():
        op.execute("CREATE TABLE entries_other PARTITION OF entries DEFAULT")
        op.create_index("ix_entries_request_id", "entries", ["request_id"])
    op.create_index("ix_entries_creator_id", "entries", ["creator", "id"])


def _sums() -> None:
    _create(
        "usage_daily",
        *_texts(_USAGE_DAILY_TEXTS),
        _flag("cached"),
        _text("outcome"),
        *_numbers(["calls", "attempts", *_BUCKETS, *_MONEY, "errors"]),
        sa.PrimaryKeyConstraint(*_USAGE_DAILY_TEXTS, "cached", "outcome", name="pk_usage_daily"),
    )
    _create(
        "refusals_daily",
        *_texts("creator day reason"),
        _number("count"),
        sa.PrimaryKeyConstraint("creator", "day", "reason", name="pk_refusals_daily"),
    )
    _create(
        "month_charges",
        *_texts("creator month"),
        *_numbers("charge_nano_usd cost_nano_usd calls"),
        _text("units"),
        _number("closed_at"),
        sa.PrimaryKeyConstraint("creator", "month", name="pk_month_charges"),
    )
    _create(
        "price_rows",
        *_texts("model version row"),
        _number("first_used_at"),
        sa.PrimaryKeyConstraint("model", "version", name="pk_price_rows"),
    )
    _create("meta", *_texts("key value"), sa.PrimaryKeyConstraint("key", name="pk_meta"))


def _never_changed(table: str, reason: str) -> None:
    if not _is_postgres():
        for action in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action} BEFORE {action.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{reason}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_never_changed() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{reason}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    # Partitions made later have the first of these too, but not the other: whoever makes one makes it.
    op.execute(
        f"CREATE TRIGGER {table}_never_changed BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_never_changed()"
    )
    for each in (table, f"{table}_other"):
        op.execute(
            f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {each} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_never_changed()"
        )


def _is_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _create(name: str, *parts: Any, **options: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False, **options)


def _text(name: str, *, nullable: bool = False, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=nullable, server_default=default)


def _number(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=nullable)


def _flag(name: str) -> sa.Column[Any]:
    return sa.Column(name, _FLAG, nullable=False)


def _texts(names: str | Iterable[str]) -> list[sa.Column[Any]]:
    return [_text(name) for name in (names.split() if isinstance(names, str) else names)]


def _numbers(names: str | Iterable[str]) -> list[sa.Column[Any]]:
    return [_number(name) for name in (names.split() if isinstance(names, str) else names)]
