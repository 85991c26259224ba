"""Commands of the pages that are not typed as they stand: the one list of them, each with its reason and with what is checked instead.

Whatever is in no row of `ELSEWHERE` is run. Those that name PostgreSQL and Redis are typed in `test_servers`, with servers of the tests.
"""

import ast
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import typer

from gateway.cli import app
from tests.rig.environment import REPOSITORY

__all__ = ["ELSEWHERE", "Elsewhere", "elsewhere", "faults_of_gateway_commands"]

Check = Callable[[str], list[str]]
"""The faults of a command that can be seen without running it."""


_GATEWAY = re.compile(
    r"(?m)(?:^|&&|;|\||\$\()\s*(?:\w+=\S+\s+)*(?:[\w./]*/)?gateway((?: +(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s;&|'\")]+))*)"
)
"""Where a command of ours may begin, and its words."""


@dataclass(frozen=True)
class Elsewhere:
    """Commands that are not run, by how they look."""

    pattern: str
    reason: str
    check: Check

    def has(self, command: str) -> bool:
        return re.search(self.pattern, command, re.MULTILINE) is not None


# What can be seen without running


def faults_of_gateway_commands(text: str) -> list[str]:
    """Of every `gateway ...` in `text`: commands there are none of, options and extra words they do not take."""
    return [fault for words in _gateway_words(text) for fault in _faults_of(words)]


def _gateway_words(text: str) -> Iterator[list[str]]:
    for written in _GATEWAY.findall(text.replace("\\\n", " ")):
        yield shlex.split(written, comments=True)


def _faults_of(words: list[str]) -> list[str]:
    command, said, rest = _tree(), "gateway", list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name == "...":
            return []
        inner = command.commands.get(name)
        if inner is None:
            return [f"there is no `{said} {name}`"]
        command, said = inner, f"{said} {name}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = [word.strip("[]").partition("=")[0] for word in rest if word.strip("[]").startswith("--")]
    return [f"`{said}` has no {option}" for option in used if option not in known | {"--help"}]


@cache
def _tree() -> Any:
    """The commands as Typer builds them."""
    return typer.main.get_command(app)


def _faults_of_make(command: str) -> list[str]:
    """Targets that the Makefile does not have."""
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"\bmake ([a-z-]+)", command)
    return [f"the Makefile has no `{target}`" for target in named if target not in targets]


def _faults_of_pip(command: str) -> list[str]:
    """Extras and distributions of ours that pyproject.toml does not have, and files that are not there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    faults = []
    for name, extras in re.findall(r"(llm-gateway)(?:\[([\w,-]+)\])?", command):
        faults += [] if name == project["name"] else [f"the distribution is {project['name']}"]
        known = project["optional-dependencies"]
        faults += [f"there is no extra {extra}" for extra in extras.split(",") if extra and extra not in known]
    return faults


def _faults_of_docker(command: str) -> list[str]:
    """Ports and volumes that the image does not have, and compose files that are not there."""
    image = (REPOSITORY / "Dockerfile").read_text()
    faults = []
    for port in re.findall(r"(?:--publish|-p) (?:[\d.]+:)?\d+:(\d+)", command):
        faults += [] if re.search(rf"(?m)^EXPOSE .*\b{port}\b", image) else [f"the image exposes no port {port}"]
    for folder in re.findall(r"(?:--volume|-v) [\w./-]+:(/[\w/]+)", command):
        faults += [] if re.search(rf"(?m)^VOLUME .*{folder}\b", image) else [f"the image has no volume {folder}"]
    return [*faults, *_faults_of_files(command)]


def _faults_of_files(command: str) -> list[str]:
    """Paths below `deploy/` and `examples/` that are not there."""
    named = re.findall(r"(?<![\w/])((?:deploy|examples|tests|benchmarks)/[\w./-]+)", command)
    return [f"there is no {path}" for path in named if not (REPOSITORY / path).exists()]


def _faults_of_python(command: str) -> list[str]:
    """A program that is none."""
    programs = [words[at + 1] for words in [shlex.split(command)] for at, word in enumerate(words) if word == "-c"]
    try:
        for program in programs:
            ast.parse(program)
    except SyntaxError as error:
        return [str(error)]
    return []


def _faults_of_everything(command: str) -> list[str]:
    return [*faults_of_gateway_commands(command), *_faults_of_files(command), *_faults_of_pip(command)]


ELSEWHERE = (
    Elsewhere(r"^(sudo )?docker\b", "wants Docker's daemon", _faults_of_docker),
    Elsewhere(r"^(helm|kubectl)\b", "wants a Kubernetes cluster", _faults_of_files),
    Elsewhere(r"^(sudo )?(systemctl|journalctl|useradd|install|nginx)\b", "changes the machine", _faults_of_files),
    Elsewhere(
        r"^(promtool|redis-cli|psql|pg_dump|pg_restore|createdb)\b", "a tool of another project", _faults_of_files
    ),
    Elsewhere(r"(^|\s)(python3? -m )?pip install\b|^uv (pip|add)\b", "installs from an index", _faults_of_pip),
    Elsewhere(r"^(npm|pnpm|yarn) (install|add|i)\b", "installs from an index", _faults_of_files),
    Elsewhere(r"^[\d*/]+ [\d*/]+ [\d*/]+ [\d*/]+ [\d*/]+ ", "is a line of cron's", _faults_of_everything),
    Elsewhere(r"^git clone\b", "reaches another machine", _faults_of_files),
    Elsewhere(
        r"^make (setup|check|test|coverage|soak|bench|format|lock[a-z-]*|clean)\b",
        "is the suite, or installs",
        _faults_of_make,
    ),
    Elsewhere(r"postgresql://|rediss?://", "names servers: see test_servers", _faults_of_everything),
    Elsewhere(r"perf_counter", "measures a machine, at a date that is told", _faults_of_python),
    Elsewhere(r"\bgateway db copy\b", "wants a PostgreSQL: see test_servers", _faults_of_everything),
    Elsewhere(
        r"https?://(?!127\.0\.0\.1|localhost)[\w-]+\.", "names a machine of the reader's own", _faults_of_everything
    ),
)


def elsewhere(command: str) -> Elsewhere | None:
    """The row that says why `command` is not run."""
    return next((row for row in ELSEWHERE if row.has(command)), None)
