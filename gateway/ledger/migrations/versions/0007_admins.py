"""Admins with names and roles, what they did, and the sessions of people who look at the pages.

Nothing is taken from `gateway.ledger.schema`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_REASON = "the audit log is never changed"


def upgrade() -> None:
    op.add_column("admin_keys", _text("name", default=""))
    # Until now every admin key did everything.
    op.add_column("admin_keys", _text("role", default="owner"))
    _create(
        "sessions",
        *(_text(name) for name in ("id", "kind", "key_digest")),
        *(_number(name) for name in ("created_at", "seen_at", "expires_at")),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    _create(
        "audit_log",
        *(
            _text(name)
            for name in "id request_id phase admin_key_id admin_name role action target details address".split()
        ),
        *(_number(name) for name in ("status", "created_at")),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    op.create_index("ix_audit_log_request_id", "audit_log", ["request_id"])
    _never_changed("audit_log")


def _never_changed(table: str) -> None:
    if op.get_context().dialect.name == "sqlite":
        for action in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{action} BEFORE {action.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{_REASON}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_never_changed() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REASON}' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_never_changed BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_never_changed()"
    )
    op.execute(
        f"CREATE TRIGGER {table}_never_truncated BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_never_changed()"
    )


def _create(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str, *, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=False)
