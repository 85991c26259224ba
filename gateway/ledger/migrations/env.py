"""What alembic runs: the migrations, on the connection and inside the transaction it was given."""

from alembic import context

from gateway.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
