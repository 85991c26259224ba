"""What tests bring along before they run, client environments and servers alike: how it is decided, made and reported."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.rig.environment import REPOSITORY, inherited

__all__ = ["NotMade", "are_chosen", "run"]

_WITHIN_S = 900.0


class NotMade(Exception):
    """Something is missing, or could not be made; the message says why and what to do."""


def are_chosen(pytest_arguments: Sequence[str], users: Sequence[Path]) -> bool:
    """Whether tests below the folders `users` may run: nothing named on the command line chooses every test."""
    paths = [REPOSITORY / argument.partition("::")[0] for argument in pytest_arguments if argument[:1] != "-"]
    chosen = [path.resolve() for path in paths if path.exists()]
    return not chosen or any(
        user.is_relative_to(path) or path.is_relative_to(user) for path in chosen for user in users
    )


def run(command: list[str], cwd: Path = REPOSITORY) -> None:
    """Raises `NotMade` with the end of what the command said, unless it ends well within 15 minutes."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=inherited(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as timeout:
        raise NotMade(f"{' '.join(command)} took longer than {_WITHIN_S:g} s") from timeout
    if done.returncode:
        raise NotMade(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-4000:]}")
