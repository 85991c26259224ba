"""A whole ledger moved from a file of SQLite into PostgreSQL. Imports asyncpg, which comes with the extra `postgres`."""
