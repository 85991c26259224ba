"""A LiteLLM configuration as text -> a tree that knows its lines, and a report in which every key has its say.

Numbers with a point are read as `Decimal` from the text itself: a price per token has been through no binary float. What
nobody spoke of is reported as not taken, so that nothing is dropped in silence. Values of the file are never part of the
report: any of them may be a secret.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from importlib import import_module
from typing import Any, Literal, NamedTuple

from gateway.errors import ConfigError

__all__ = ["UNKNOWN", "At", "Line", "Node", "Path", "Report", "merged", "parse"]

Path = tuple[str | int, ...]
"""`("model_list", 0, "model_name")`."""
Kind = Literal["taken", "taken differently", "not taken"]

_NODES_MAX = 200_000
_DEPTH_MAX = 60
_NAME_CHARS_MAX = 120
UNKNOWN = "this command does not know it; see docs/migrate-from-litellm.md for what there is"
_HOW_TO_INSTALL = "reading YAML needs PyYAML: pip install 'llm-gateway[import]'"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands. Mappings are `dict[str, Node]`, sequences `list[Node]`, numbers `int` or `Decimal`."""

    value: Any
    file: str
    line: int
    """That of the key, where it has one."""


class Line(NamedTuple):
    """What becomes of one key."""

    file: str
    line: int
    key: str
    kind: Kind
    note: str
    """Why, or what to do instead; empty where it is simply taken."""


class Report:
    """Who spoke of which key."""

    def __init__(self) -> None:
        self._said: dict[Path, tuple[Kind, str]] = {}

    def say(self, path: Path, kind: Kind, note: str) -> None:
        """The last word about a key counts."""
        self._said[path] = (kind, note)

    def lines(self, root: Node) -> list[Line]:
        """A line for each key of the file that holds a value, and for each that was spoken of as a whole."""
        return list(self._below((), root))

    def _below(self, path: Path, node: Node) -> Iterator[Line]:
        if path in self._said:
            kind, note = self._said[path]
            yield Line(node.file, node.line, shown(path), kind, note)
            return
        below = list(_children(path, node))
        if not below:
            empty = node.value is None or node.value in ({}, [])
            kind, note = ("taken", "empty") if empty else ("not taken", UNKNOWN)
            yield Line(node.file, node.line, shown(path), kind, note)
        for child, each in below:
            yield from self._below(child, each)


@dataclass(frozen=True, slots=True)
class At:
    """A place in the tree. What is asked of it never raises: a wrong type is as good as nothing, and stays unspoken of."""

    node: Node
    report: Report = field(repr=False)
    path: Path = ()

    @property
    def value(self) -> Any:
        return self.node.value

    @property
    def key(self) -> str:
        return shown(self.path[-1:])

    def get(self, key: str) -> "At | None":
        """The value below `key`; None where there is none, or null."""
        below = self.value.get(key) if isinstance(self.value, dict) else None
        return None if below is None or below.value is None else At(below, self.report, (*self.path, key))

    def below(self) -> "Iterator[At]":
        """All values of a mapping or a sequence."""
        return (At(node, self.report, path) for path, node in _children(self.path, self.node))

    def text(self, key: str) -> str:
        """The string below `key`, or nothing."""
        at = self.get(key)
        return at.value if at is not None and isinstance(at.value, str) else ""

    def number(self) -> Decimal | None:
        """The value as an exact number, also where it is written as text (`1e-6` is text to YAML 1.1)."""
        return exact(self.value)

    def words(self) -> list[str]:
        """The strings of a sequence, or the only one."""
        if isinstance(self.value, str):
            return [self.value]
        return [at.value for at in self.below() if isinstance(at.value, str)] if isinstance(self.value, list) else []

    def taken(self, note: str = "") -> None:
        self.report.say(self.path, "taken", note)

    def differently(self, why: str) -> None:
        self.report.say(self.path, "taken differently", why)

    def not_taken(self, why: str) -> None:
        self.report.say(self.path, "not taken", why)


def exact(value: object) -> Decimal | None:
    """A number of up to 60 characters and no wild exponent; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        number = Decimal(value.strip()) if isinstance(value, str) else Decimal(value)
    except InvalidOperation:
        return None
    return (
        number if number.is_finite() and len(number.as_tuple().digits) <= 60 and abs(number.adjusted()) <= 40 else None
    )


def shown(path: Path) -> str:
    """`model_list[0].litellm_params.model`, printable and cut to a length that can be read."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return "".join(char if char.isprintable() else "?" for char in text[:_NAME_CHARS_MAX])


def parse(text: str, file: str) -> Node:
    """The tree of one file. Raises `ConfigError` naming file and line; what stands there is not repeated."""
    yaml = _yaml()
    try:
        loader = yaml.SafeLoader(text)
        try:
            top = loader.get_single_node()
            root = _Builder(yaml, loader, file).build(top, 1, 0) if top is not None else Node({}, file, 1)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise ConfigError(f"{file}:{mark.line + 1 if mark else 1}: not valid YAML") from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{file}: not valid YAML") from None
    if not isinstance(root.value, dict):
        raise ConfigError(f"{file}: a LiteLLM configuration is a mapping: model_list, router_settings and so on")
    return root


def merged(root: Node, included: list[Node]) -> Node:
    """What LiteLLM makes of `include`: lists of the other files are appended, everything else takes the place of ours."""
    value: dict[str, Node] = dict(root.value)
    for other in included:
        for key, node in other.value.items():
            ours = value.get(key)
            if ours is not None and isinstance(ours.value, list) and isinstance(node.value, list):
                value[key] = Node([*ours.value, *node.value], ours.file, ours.line)
            else:
                value[key] = node
    return Node(value, root.file, root.line)


def _yaml() -> Any:
    """PyYAML, which only this needs and only the extra `import` brings."""
    try:
        return import_module("yaml")
    except ImportError:
        raise ConfigError(_HOW_TO_INSTALL) from None


class _Builder:
    """Bounds nesting and, because aliases repeat what they stand for, the number of nodes."""

    def __init__(self, yaml: Any, loader: Any, file: str) -> None:
        self._yaml = yaml
        self._loader = loader
        self._file = file
        self._count = 0
        self._flat: set[int] = set()
        """Mappings into which `<<` has been merged; an alias leads to the same one again."""

    def build(self, node: Any, line: int, depth: int) -> Node:
        self._count += 1
        if depth > _DEPTH_MAX or self._count > _NODES_MAX:
            raise ConfigError(f"{self._file}:{line}: nested too deep, or too much of it")
        if isinstance(node, self._yaml.MappingNode):
            return Node(self._mapping(node, depth), self._file, line)
        if isinstance(node, self._yaml.SequenceNode):
            items = [self.build(each, each.start_mark.line + 1, depth + 1) for each in node.value]
            return Node(items, self._file, line)
        return Node(self._scalar(node), self._file, line)

    def _mapping(self, node: Any, depth: int) -> dict[str, Node]:
        if id(node) not in self._flat:
            self._refuse_repeated(node)
            self._loader.flatten_mapping(node)
            self._flat.add(id(node))
        found: dict[str, Node] = {}
        for key, value in node.value:
            # Of a key that is also merged in, the mapping's own comes last and counts.
            line = key.start_mark.line + 1
            found[key.value] = self.build(value, line, depth + 1)
        return found

    def _refuse_repeated(self, node: Any) -> None:
        """YAML forbids a key that is given twice, and readers differ: rather a question than a guess."""
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, self._yaml.ScalarNode):
                raise ConfigError(f"{self._file}:{line}: a key must be a word")
            if key.value in seen:
                raise ConfigError(f"{self._file}:{line}: a key that was given before")
            seen.add(key.value)

    def _scalar(self, node: Any) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind == "float":
            number = exact(node.value.replace("_", ""))
            return node.value if number is None else number
        if kind in ("int", "bool", "null"):
            try:
                return self._loader.construct_object(node)
            except ValueError:
                return node.value
        return node.value


def _children(path: Path, node: Node) -> Iterator[tuple[Path, Node]]:
    if isinstance(node.value, Mapping):
        yield from (((*path, key), each) for key, each in node.value.items())
    elif isinstance(node.value, list):
        yield from (((*path, number), each) for number, each in enumerate(node.value))
