"""One line of the doctor's table, and the way to put them together."""

from typing import Literal, NamedTuple

__all__ = ["Area", "Finding", "Level", "bad", "ok", "warn", "without_secrets"]

Level = Literal["ok", "warn", "bad"]
"""`bad` does not work, or loses money or secrets; `warn` deserves a look."""
Area = Literal["configured", "reachable", "stored", "priced", "risky", "parts"]


class Finding(NamedTuple):
    level: Level
    area: Area
    what: str
    why: str
    advice: str = ""
    """What to do; empty where all is well."""


def ok(area: Area, what: str, why: str) -> Finding:
    return Finding("ok", area, what, why)


def warn(area: Area, what: str, why: str, advice: str) -> Finding:
    return Finding("warn", area, what, why, advice)


def bad(area: Area, what: str, why: str, advice: str) -> Finding:
    return Finding("bad", area, what, why, advice)


def without_secrets(url: str) -> str:
    """Scheme, host, port and path of a URL, where a user, a password or a query may be keys. Other text as it is."""
    from urllib.parse import urlsplit

    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that cannot be read"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{port}{parts.path}"
