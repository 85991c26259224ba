"""Real Redis and PostgreSQL servers for tests: brought by `provision`, run by `redis_server` and `postgres_server`."""
