"""What alembic runs: the migrations, on the connection and inside the transaction it was given; or, where there is none,
their SQL for PostgreSQL, written into a buffer."""

from alembic import context

from gateway.ledger.schema import metadata

given = context.config.attributes
if "connection" in given:
    context.configure(connection=given["connection"], target_metadata=metadata)
else:
    context.configure(
        dialect_name="postgresql", output_buffer=given["script"], target_metadata=metadata, literal_binds=True
    )
context.run_migrations()
