"""What more endpoints brought: pieces that need not be images, responses and conversations, images that are kept.

Renames columns in place and adds tables: no entry is written again. As before, nothing is taken from
`gateway.ledger.schema`.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for table, old, new in (
        ("holds", "orphan_image_units", "orphan_pieces"),
        ("entries", "image_units", "pieces"),
        ("usage_daily", "image_units", "pieces"),
    ):
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    _create(
        "responses",
        *(_text(name) for name in ("id", "account_id", "creator", "model", "provider", "status")),
        *(_text(name, default="") for name in ("previous_id", "conversation_id")),
        *(_number(name) for name in ("context_tokens", "created_at")),
        *(_text(name) for name in ("body", "input")),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
    )
    op.create_index("ix_responses_creator_id", "responses", ["creator", "id"])
    _create(
        "conversations",
        *(_text(name) for name in ("id", "account_id", "creator")),
        _text("metadata", default="{}"),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_creator_id", "conversations", ["creator", "id"])
    _create(
        "conversation_items",
        _text("conversation_id"),
        _number("position"),
        *(_text(name) for name in ("id", "body")),
        sa.PrimaryKeyConstraint("conversation_id", "position", name="pk_conversation_items"),
        sa.UniqueConstraint("conversation_id", "id", name="uq_conversation_items_conversation_id_id"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="fk_conversation_items_conversation_id_conversations",
            ondelete="CASCADE",
        ),
    )
    _create(
        "generations",
        *(_text(name) for name in ("id", "account_id", "creator", "request_id")),
        _number("position"),
        *(_text(name) for name in ("endpoint", "model", "provider", "prompt")),
        *(_text(name, default="") for name in ("revised_prompt", "variant", "asset_id")),
        sa.Column("is_selected", _FLAG, nullable=False),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
        sa.UniqueConstraint("request_id", "position", name="uq_generations_request_id_position"),
    )
    op.create_index("ix_generations_creator_id", "generations", ["creator", "id"])
    _create(
        "assets",
        *(_text(name) for name in ("id", "account_id", "creator", "content_type")),
        _number("size_bytes"),
        _text("sha256"),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_assets"),
    )
    op.create_index("ix_assets_creator", "assets", ["creator"])


def _create(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str, *, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False, server_default=default)


def _number(name: str) -> sa.Column[Any]:
    return sa.Column(name, _NUMBER, nullable=False)
