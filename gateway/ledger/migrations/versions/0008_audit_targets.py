"""An index of what admins did something to: asked for by target, the audit log is looked through without its details.

Nothing is taken from `gateway.ledger.schema`.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_audit_log_target_request_id", "audit_log", ["target", "request_id"])
