"""The gateway's tests. `rig` holds what the black-box ones need; `python -m tests.run` runs everything with coverage."""
