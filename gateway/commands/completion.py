"""What the shell offers after Tab for creators, models and plans.

Whoever presses Tab waits for it, and cannot use an error: so the files are read as they are, without the settings and the
catalog's checks (which take longer to import than all of this), no connection is opened, and what cannot be read offers
nothing. Creators of a database on PostgreSQL are therefore not offered.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["creators", "models", "plans"]

_OFFERED_MAX = 200
_LAST_CHARACTER = "\U0010ffff"
_BUSY_TIMEOUT_S = 0.1
_SQLITE = "sqlite:///"
_WORD = re.compile(r"[A-Za-z0-9._:@/+-]{1,200}")
"""What a shell takes for a plain word: a name with another character could be a pattern or a command to it."""
_QUERY = "SELECT id FROM creators WHERE deleted_at IS NULL AND id >= ? AND id < ? ORDER BY id LIMIT ?"


def creators(incomplete: str) -> list[str]:
    """Ids of creators that begin so, the first 200."""
    import sqlite3
    from contextlib import closing
    from urllib.parse import quote

    path = _database()
    if path is None:
        return []
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
            rows = connection.execute(_QUERY, (incomplete, incomplete + _LAST_CHARACTER, _OFFERED_MAX)).fetchall()
    except sqlite3.Error:
        return []
    return _words((str(row[0]) for row in rows), incomplete)


def models(incomplete: str) -> list[str]:
    """Names of models of the catalog that begin so, inactive ones too."""
    beside = Path(__file__).parents[2] / "pricing.toml"
    inside = Path(__file__).parents[1] / "pricing.toml"
    return _words(_tables(_named("PRICING_FILE") or (inside if inside.exists() else beside), "models"), incomplete)


def plans(incomplete: str) -> list[str]:
    """Names of plans that begin so."""
    import policies

    return _words(_tables(_named("PLANS_FILE") or Path(policies.__file__).with_name("plans.toml"), "plans"), incomplete)


def _tables(path: Path, name: str) -> list[str]:
    """The keys of a table of a TOML file."""
    import tomllib

    try:
        with path.open("rb") as file:
            found = tomllib.load(file).get(name)
    except (OSError, ValueError, RecursionError):
        return []
    return list(found) if isinstance(found, dict) else []


def _words(found: Iterable[str], incomplete: str) -> list[str]:
    fitting = sorted(word for word in found if word.startswith(incomplete) and _WORD.fullmatch(word))
    return fitting[:_OFFERED_MAX]


def _database() -> Path | None:
    """None where the database is no file."""
    url = _setting("DATABASE_URL")
    if url:
        return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None
    return (_named("DATA_DIR") or Path("data")) / "gateway.db"


def _named(name: str) -> Path | None:
    text = _setting(name)
    return Path(text) if text else None


def _setting(name: str) -> str:
    # Not by `gateway.config`: the settings take 0.3 s to load, which is more than Tab may take. What is wrong with one is for
    # commands to say.
    return os.environ.get(f"GATEWAY_{name}", "")  # noqa: TID251
