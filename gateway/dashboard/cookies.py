"""The cookies a browser sent, read by hand.

Other programs on the same host send cookies along that no parser of the standard library takes, and with one such line
it would give up all the others too.
"""

from starlette.types import Scope

__all__ = ["cookie_of"]


def cookie_of(scope: Scope, name: str) -> str:
    """The first value that is not empty; empty where there is none."""
    lines: list[bytes] = [value for header, value in scope["headers"] if header == b"cookie"]
    for pair in b";".join(lines).decode("latin-1").split(";"):
        known, _, value = pair.strip(" \t").partition("=")
        if known == name and value:
            return value
    return ""
