"""The ledger in PostgreSQL. The only modules that import asyncpg, which comes with the extra `postgres`."""
