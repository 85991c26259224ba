"""What the files of deploy/ say, read without the programs they are written for."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
HELM = DEPLOY / "helm"
README = (ROOT / "README.md").read_text()

_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600}
_BYTES = {"k": 2**10, "m": 2**20, "g": 2**30}


def seconds(text: object) -> float:
    """`75s`, `5m` or `30`."""
    found = re.fullmatch(r"([0-9.]+)(ms|s|m|h)?", str(text))
    assert found, text
    return float(found[1]) * _SECONDS[found[2] or "s"]


def size_bytes(text: str) -> int:
    """`33m`, as nginx writes it."""
    return int(text[:-1]) * _BYTES[text[-1]] if text[-1] in _BYTES else int(text)


# Compose


@cache
def compose() -> dict[str, Any]:
    """As written, anchors resolved, variables not."""
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def gateways() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose()["services"].items() if name.startswith("gateway")}


class VariableMissing(Exception):
    """Where Compose would refuse."""


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """With `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise VariableMissing(name)
        return rest or "" if kind == ":-" else ""

    return _VARIABLE.sub(value, text)


def variables_of(text: str) -> dict[str, set[str]]:
    """The kinds of use of each variable: `:?` (needed), `:-` (with a default) or none."""
    found: dict[str, set[str]] = {}
    for name, kind, _ in _VARIABLE.findall(text):
        found.setdefault(name, set()).add(kind)
    return found


def env_file(path: Path, *, with_comments: bool = False) -> dict[str, str]:
    """`NAME=value` lines; those behind a `#` too, if asked."""
    pattern = r"^#?([A-Z][A-Z0-9_]*)=(.*)$" if with_comments else r"^([A-Z][A-Z0-9_]*)=(.*)$"
    return dict(re.findall(pattern, path.read_text(), re.MULTILINE))


# nginx


def nginx_directives() -> list[tuple[tuple[str, ...], list[str]]]:
    """Every directive, with the blocks around it: `(("http", "upstream gateways"), ["keepalive", "256"])`."""
    text = re.sub(r"(?m)^\s*#.*$", "", (DEPLOY / "nginx.conf").read_text())
    tokens = re.findall(r"'[^']*'|\"[^\"]*\"|[{};]|[^\s{};'\"]+", text)
    found: list[tuple[tuple[str, ...], list[str]]] = []
    blocks: list[str] = []
    words: list[str] = []
    for token in tokens:
        if token == ";":
            assert words, "a semicolon that ends nothing"
            found.append((tuple(blocks), words))
            words = []
        elif token == "{":
            blocks.append(" ".join(words))
            words = []
        elif token == "}":
            assert not words, f"no semicolon after {words}"
            blocks.pop()
        else:
            words.append(token.strip("'\""))
    assert not blocks
    assert not words
    return found


def nginx_value(name: str, within: str = "") -> list[str]:
    """The words after the one directive `name` in a block that begins with `within`."""
    (words,) = [
        words[1:]
        for blocks, words in nginx_directives()
        if words[0] == name and (not within or blocks[-1].startswith(within))
    ]
    return words


# Helm


@cache
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((HELM / "values.yaml").read_text())
    return loaded


@cache
def values_schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((HELM / "values.schema.json").read_text())
    return loaded


@cache
def templates() -> dict[str, str]:
    """Without their comments."""
    return {
        path.name: re.sub(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}", "", path.read_text(), flags=re.DOTALL)
        for path in sorted((HELM / "templates").iterdir())
    }


def actions(text: str) -> list[str]:
    """What stands between double braces."""
    return [action.strip() for action in re.findall(r"\{\{-?(.*?)-?\}\}", text, re.DOTALL)]


def used_values() -> set[str]:
    """The dotted paths after `.Values` in all templates."""
    return {
        path
        for text in templates().values()
        for action in actions(text)
        for path in re.findall(r"\$?\.Values\.([\w.]+)", action)
    }


def paths(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted path of `tree` with what it leads to."""
    for name, value in tree.items():
        yield f"{before}{name}", value
        if isinstance(value, dict):
            yield from paths(value, f"{before}{name}.")


def pod_environment() -> set[str]:
    """The settings that the pod's template itself gives."""
    return set(re.findall(r"- name: (GATEWAY_\w+)", templates()["_pod.tpl"])) | set(
        re.findall(r'"(GATEWAY_\w+)"', templates()["_pod.tpl"])
    )
