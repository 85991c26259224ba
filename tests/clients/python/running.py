"""The part of a scenario process that all client libraries share: orders come in on stdin, what came of them goes out.

An order is one line of JSON: the scenario's name, the virtual key, the marker that goes into the prompt, and whatever else
the scenario takes. What comes back is one line of JSON: `{"value": ...}`, or `{"failed": ...}` with the traceback of what
the scenario did not expect. Libraries find base URL and key where their users put them, in the environment.
"""

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

Scenario = Callable[..., Any]

_scenarios: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    """Makes `function(marker, **fields)`, plain or async, one that can be ordered by its name."""
    assert function.__name__ not in _scenarios, function.__name__
    _scenarios[function.__name__] = function
    return function


def serve() -> None:
    """Plays what is ordered until stdin ends. One event loop for all: libraries keep connections between calls."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between the answers
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            _say(out, _played(json.loads(line), runner))


def caught(error: BaseException) -> dict[str, Any]:
    """What programs branch on when a client raises."""
    return {
        "class": type(error).__name__,
        "message": str(error),
        **{
            name: getattr(error, name, None)
            for name in ("status_code", "code", "type", "param", "request_id")
            if hasattr(error, name)
        },
    }


def _played(order: dict[str, Any], runner: asyncio.Runner) -> dict[str, Any]:
    key = order.pop("key")
    # The only way in that every one of these libraries has.
    os.environ.update(OPENAI_API_KEY=key, ANTHROPIC_API_KEY=key)  # noqa: TID251 - a client's process, not the gateway's
    play = _scenarios[order.pop("scenario")]
    try:
        value = play(**order)
        return {"value": runner.run(_awaited(value)) if inspect.isawaitable(value) else value}
    except Exception:
        return {"failed": traceback.format_exc()}


async def _awaited(value: Any) -> Any:
    return await value


def _say(out: Any, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()
