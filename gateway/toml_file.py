"""A TOML file read strictly: exact decimals, no unknown keys, and every fault with its line.

The parser tells lines only for syntax errors. For the others this module finds the line of a table or key by looking
through the text, once there is a fault to report. All faults of a file are shown together.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from gateway.errors import ConfigError

FILE_BYTES_MAX = 4 * 2**20
FAULTS_SHOWN_MAX = 50
_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,30})?")
_DIGITS_MAX = 60
"""After the point; a number longer than this is a mistake, and costly to make exact."""
_MISSING = object()

Where = tuple[str, ...]
"""Path of a table or key: `("models", "gpt-5", "tier")`."""


class Faults(Protocol):
    """Who hears what is wrong with a table: a file gathers it, a request is refused by the first."""

    def fault(self, where: Where, reason: str) -> None: ...


class TomlFile:
    """One file being checked: its `data`, and the faults found so far."""

    def __init__(self, path: Path) -> None:
        """Reads and parses `path`. Raises `ConfigError` if it cannot be read or is not TOML."""
        self.path = path
        self._faults: list[tuple[Where, str]] = []
        self._text = read_text(path)
        try:
            self.data: dict[str, Any] = tomllib.loads(self._text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as exc:
            found = _LINE.search(str(exc))
            line = int(found[1]) if found else self._text.count("\n") + 1
            raise ConfigError(f"{path}:{line}: not valid TOML: {_LINE.sub('', str(exc)).strip()}") from None
        except (ValueError, ArithmeticError, RecursionError) as exc:
            raise ConfigError(f"{path}: not usable TOML: a number or nesting out of bounds ({exc})") from None

    def fault(self, where: Where, reason: str) -> None:
        """Note what is wrong at `where`; `finish` reports it."""
        self._faults.append((where, reason))

    def finish(self) -> None:
        """Raises `ConfigError` with every fault noted, in the order of their lines: `file:line: table: reason`."""
        if not self._faults:
            return
        lines = _lines_by_path(self._text)
        located = sorted(
            ((_nearest(lines, where), where, reason) for where, reason in self._faults), key=lambda f: f[0]
        )
        shown = [f"{self.path}:{line}: {_dotted(where)}{reason}" for line, where, reason in located[:FAULTS_SHOWN_MAX]]
        if len(located) > FAULTS_SHOWN_MAX:
            shown.append(f"{self.path}: and {len(located) - FAULTS_SHOWN_MAX} more")
        raise ConfigError("\n".join(shown))


class Table:
    """One table of the file. Each getter takes a key, checks it, and notes a fault instead of raising."""

    def __init__(self, file: Faults, where: Where, data: Mapping[str, Any]) -> None:
        self.file = file
        self.where = where
        self.data = data

    def fault(self, reason: str, key: str | None = None) -> None:
        self.file.fault(self.where if key is None else (*self.where, key), reason)

    def refuse_unknown(self, known: Iterable[str]) -> None:
        for key in self.data.keys() - set(known):
            self.fault(f"unknown key; known are {', '.join(sorted(known))}", key)

    def tables(self, key: str, *, count_max: int) -> "dict[str, Table]":
        """The tables below `key`, by name; empty if there are none."""
        found = self.data.get(key, {})
        if not isinstance(found, dict):
            self.fault("must be a table", key)
            return {}
        if len(found) > count_max:
            self.fault(f"has {len(found)} entries, at most {count_max} are allowed", key)
            return {}
        below = {}
        for name, data in found.items():
            if isinstance(data, dict):
                below[name] = Table(self.file, (*self.where, key, name), data)
            else:
                self.file.fault((*self.where, key, name), "must be a table")
        return below

    def text(self, key: str, default: str | None = "", *, chars_max: int = 200) -> str:
        """A string of printable characters; `default=None` makes it mandatory."""
        value = self.data.get(key, default)
        if value is None:
            self.fault(f"{key} is missing")
            return ""
        if not isinstance(value, str) or len(value) > chars_max or not value.isprintable():
            self.fault(f"must be a string of at most {chars_max} printable characters", key)
            return ""
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.data.get(key, default)
        if isinstance(value, bool):
            return value
        self.fault("must be true or false", key)
        return default

    def count(self, key: str, *, at_least: int, at_most: int) -> int | None:
        value = self.data.get(key)
        if value is None:
            return None
        if type(value) is int and at_least <= value <= at_most:
            return value
        self.fault(f"must be a whole number from {at_least} to {at_most}", key)
        return None

    def words(self, key: str, *, allowed: re.Pattern[str], count_max: int = 64) -> frozenset[str]:
        """A list of different strings, each fully matching `allowed`."""
        value = self.data.get(key, [])
        if not isinstance(value, list) or len(value) > count_max:
            self.fault(f"must be a list of at most {count_max} strings", key)
            return frozenset()
        good = [word for word in value if isinstance(word, str) and allowed.fullmatch(word)]
        if len(good) < len(value):
            self.fault(f"has an entry that is no word matching {allowed.pattern}", key)
        if len(set(good)) < len(good):
            self.fault("names an entry twice", key)
        return frozenset(good)

    def decimal(self, key: str, *, scale: int, at_most: int) -> int | None:
        """An exact amount (TOML number, or decimal number in a string) as a whole count of 10^-`scale` units.

        None where the key is absent. Faults: negative, above `at_most`, finer than 10^-`scale`, not a number.
        """
        value = self.data.get(key, _MISSING)
        if value is _MISSING:
            return None
        exact = _exact(value)
        if exact is None:
            self.fault('must be a decimal number such as 2.5 or "2.5"', key)
        elif exact < 0:
            self.fault("is negative", key)
        elif exact > at_most:
            self.fault(f"is above {at_most}", key)
        elif (units := _whole(exact, scale)) is None:
            self.fault(f"is finer than 1e-{scale}", key)
        else:
            return units
        return None


def read_text(path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> str:
    """What stands in a file of settings, without the mark that some editors begin it with.

    Raises `ConfigError` where it cannot be read, is larger than `bytes_max` or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(bytes_max + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    if len(raw) > bytes_max:
        raise ConfigError(f"{path}: larger than {bytes_max} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8") from None


def _exact(value: object) -> Decimal | None:
    if type(value) is int:
        return Decimal(value)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    if isinstance(value, Decimal) and value.is_finite():
        return value
    return None


def _whole(value: Decimal, scale: int) -> int | None:
    """`value` in units of 10^-scale, None if it has a fraction of one. Decimal's own arithmetic would round."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_DIGITS_MAX:
        return None
    units = Fraction(value) * 10**scale
    return units.numerator if units.denominator == 1 else None


def _lines_by_path(text: str) -> dict[Where, int]:
    """The line of each table header and of each key. The text is known to be valid, so looking at lines is enough."""
    lines: dict[Where, int] = {}
    table: Where = ()
    closing = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if closing:
            closing = "" if closing in line else closing
            continue
        stripped = line.strip()
        if stripped.startswith("[") and (header := _path_in(stripped)):
            table = header
            lines.setdefault(table, number)
        elif "=" in stripped and (key := _path_in(_before_value(stripped) + "=0")):
            lines.setdefault((*table, *key), number)
        closing = next((quotes for quotes in ('"""', "'''") if line.count(quotes) % 2), "")
    return lines


def _before_value(line: str) -> str:
    """What stands before the first `=` outside quotes."""
    quote = ""
    for index, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "=":
            return line[:index]
    return line


def _path_in(line: str) -> Where:
    """The path that one header or `key=0` line names; the parser itself knows best how keys are quoted."""
    try:
        node: Any = tomllib.loads(line)
    except ValueError:
        return ()
    path: list[str] = []
    while isinstance(node, (dict, list)) and len(node) == 1:
        if isinstance(node, list):
            node = node[0]
            continue
        key, node = next(iter(node.items()))
        path.append(key)
    return tuple(path)


def _nearest(lines: Mapping[Where, int], where: Where) -> int:
    if not where:
        return 1
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    # A table that is only implied has no header: its first line is that of whatever stands below it.
    return min((number for path, number in lines.items() if path[: len(where)] == where), default=1)


def _dotted(where: Where) -> str:
    if not where:
        return ""
    bare = re.compile(r"[A-Za-z0-9_-]+")
    shown = (part if bare.fullmatch(part) else f'"{part[:200]}"' for part in where)
    return "".join(char if char.isprintable() else "?" for char in ".".join(shown)) + ": "
