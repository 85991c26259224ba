"""What several processes on one database need: who is alive, and who does what is to be done once.

Nothing is taken from `gateway.ledger.schema`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    _create(
        "instances",
        _text("id"),
        *(_number(name) for name in ("started_at", "seen_at")),
        _text("counting"),
        _number("round", default=0),
        _text("agreed", default=""),
        _number("wants_local", default=0),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
    _create(
        "leases",
        *(_text(name) for name in ("name", "holder")),
        _number("until_at"),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def _create(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str, *, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _number(name: str, *, default: int | None = None) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=False, server_default=None if default is None else sa.text(str(default)))
