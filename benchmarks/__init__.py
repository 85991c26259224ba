"""The gateway measured beside nginx and LiteLLM's proxy in one run; `README.md` says how to read it."""
