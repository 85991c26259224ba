"""The environment of the test run: what a gateway process inherits, and the knobs of the suite."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

_KEPT_OUT = ("GATEWAY_", "OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "FAL_", "OLLAMA_", "PYTHONDONTWRITEBYTECODE")
"""The last one would have each of hundreds of processes compile the gateway anew, which doubles the time of its start."""


def inherited() -> dict[str, str]:
    """The environment without settings and provider keys of whoever runs the tests, and with compiled modules kept."""
    everything = os.environ  # noqa: TID251 - a child process needs PATH and what coverage put there
    return {name: value for name, value in everything.items() if not name.startswith(_KEPT_OUT)}


def crash_seeds() -> int:
    """How many times the crash test kills a gateway: `CRASH_SEEDS`, 2 by default."""
    return int(inherited().get("CRASH_SEEDS", "2"))


def many_processes_rounds() -> int:
    """How often the outages under several processes are repeated: `MANY_PROCESSES_ROUNDS`, once by default."""
    return int(inherited().get("MANY_PROCESSES_ROUNDS", "1"))


def has_all_outages() -> bool:
    """Whether rows are tested too that differ from others by the delay only: `OUTAGES=all`."""
    return inherited().get("OUTAGES") == "all"
