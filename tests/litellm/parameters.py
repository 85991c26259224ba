"""The recorded list of everything a call of litellm takes, and how such lists are read off a function."""

import inspect
from collections.abc import Callable
from typing import Any

from tests.rig.environment import REPOSITORY

FILE = REPOSITORY / "tests" / "fixtures" / "litellm_parameters.txt"


def recorded_parameters() -> list[str]:
    """Names, one a line; lines with `#` say which version they are of and when they were read."""
    return [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]


def parameter_names(function: Callable[..., Any]) -> set[str]:
    """Of the function itself, not of what wraps it."""
    return set(inspect.signature(inspect.unwrap(function)).parameters)
