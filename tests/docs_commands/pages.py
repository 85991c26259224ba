"""What README.md and docs/*.md show in fenced blocks: where each stands, what it says, and what is to be run of it."""

import ast
import builtins
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from tests.rig.environment import REPOSITORY

__all__ = ["Block", "Step", "blocks_of", "pages", "steps_of"]

_FENCE = re.compile(r"^(\s*)(`{3,})\s*(.*?)\s*$")
_HEADING = re.compile(r"^#{1,2} (.*)$")
_SAYS = re.compile(r"^\s*(?:print|console\.log)\(.*?(?:#|//) (?P<said>.+)$")
_PRINTS = re.compile(r"^\s*(?:print|console\.log)\(")


@dataclass(frozen=True)
class Block:
    """One fenced block; `section` is the heading of the first or second level above it."""

    page: str
    line: int
    section: str
    language: str
    text: str
    follows_at_once: bool
    """Whether nothing but empty lines separates it from the block before."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @cached_property
    def commands(self) -> list[tuple[str, str]]:
        """Of a session: each command and what is shown below it. Without `$`, every command stands alone and shows nothing."""
        lines = self.text.splitlines()
        has_prompts = any(line.startswith("$ ") for line in lines)
        found: list[tuple[str, str]] = []
        while lines:
            line = lines.pop(0)
            if has_prompts and not line.startswith("$ "):
                assert found, f"{self.place} shows {line!r} before any command"
                command, shown = found.pop()
                found.append((command, f"{shown}{line}\n"))
                continue
            command = line.removeprefix("$ ") if has_prompts else line
            while lines and not _is_complete(command):
                command += "\n" + lines.pop(0)
            if command.strip() and not command.lstrip().startswith("#"):
                found.append((command, ""))
        return found

    @property
    def said(self) -> list[str]:
        """What comments behind the printing lines of a program say it prints."""
        return [match["said"].strip() for line in self.text.splitlines() if (match := _SAYS.match(line))]

    @property
    def says_all(self) -> bool:
        """Whether every line that prints has such a comment."""
        printing = [line for line in self.text.splitlines() if _PRINTS.match(line)]
        return bool(printing) and len(self.said) == len(printing)


@dataclass(frozen=True)
class Step:
    """A block that is run, with those before it that it goes on from, and the block below it that shows what it prints."""

    block: Block
    before: tuple[Block, ...] = ()
    output: Block | None = None

    @property
    def program(self) -> str:
        return "\n".join(block.text for block in (*self.before, self.block))


def pages() -> list[str]:
    """By their paths in the repository."""
    return ["README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """In their order. A fence that is never closed is an `AssertionError`."""
    return list(_blocks(page, (REPOSITORY / page).read_text() if text is None else text))


def steps_of(blocks: list[Block]) -> list[Step]:
    """What is run of one page. A program that uses names it does not make goes on from those before it in its section."""
    steps: list[Step] = []
    for index, block in enumerate(blocks):
        if block.language not in ("console", "bash", "sh", "python", "js"):
            continue
        below = blocks[index + 1] if index + 1 < len(blocks) else None
        shows = below if below and below.language in ("", "text") and below.follows_at_once else None
        steps.append(Step(block, _goes_on_from(block, blocks[:index]), shows if block.language != "console" else None))
    return steps


def _goes_on_from(block: Block, earlier: list[Block]) -> tuple[Block, ...]:
    if block.language != "python" or not _missing_names(block.text):
        return ()
    return tuple(other for other in earlier if (other.language, other.section) == ("python", block.section))


def _missing_names(program: str) -> set[str]:
    """Names that a program reads and nowhere makes."""
    read: set[str] = set()
    made: set[str] = set(dir(builtins))
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return read - made


def _blocks(page: str, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    section, index, is_right_below = "", 0, False
    while index < len(lines):
        if heading := _HEADING.match(lines[index]):
            section = heading[1]
        fence = _FENCE.match(lines[index])
        if not fence:
            is_right_below = is_right_below and not lines[index].strip()
            index += 1
            continue
        end = next(
            (at for at in range(index + 1, len(lines)) if lines[at].strip() == fence[2]),
            None,
        )
        assert end is not None, f"{page}:{index + 1} opens a block that nothing closes"
        inner = [line.removeprefix(fence[1]) for line in lines[index + 1 : end]]
        yield Block(page, index + 1, section, fence[3], "\n".join(inner) + "\n", is_right_below)
        index, is_right_below = end + 1, True


@cache
def _is_complete(command: str) -> bool:
    """Whether a shell would not ask for another line."""
    if command.endswith("\\"):
        return False
    checked = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, timeout=10, check=False)
    return "unexpected end of file" not in checked.stderr and "unexpected EOF" not in checked.stderr
