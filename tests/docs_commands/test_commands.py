"""Every page is read as a newcomer would: its commands are typed, its programs run, and what comes back is what it shows.

A page has one test, because its commands build on one another; the test names every block that differs. What cannot be run
here is in `tests.docs_commands.elsewhere`, and is held against the command line, the Makefile and the Dockerfile instead.
"""

import ast
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients import environments
from tests.docs_commands.elsewhere import elsewhere, faults_of_gateway_commands
from tests.docs_commands.pages import Block, Step, blocks_of, pages, steps_of
from tests.docs_commands.scenes import SHARING, Scene, preparations, scene_of
from tests.docs_commands.session import Session
from tests.docs_commands.shapes import differs

_FAMILIES = ("openai3", "openai2", "litellm")
_SESSIONS = ("console", "bash", "sh")


def is_typed(step: Step) -> bool:
    """Whether the block has anything that is run here."""
    block = step.block
    return block.language not in _SESSIONS or any(elsewhere(command) is None for command, _ in block.commands)


def pages_to_read() -> list[str]:
    return [page for page in pages() if any(is_typed(step) for step in steps_of(blocks_of(page)))]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """For the pages in `SHARING`; a page alone stays within what the plan allows an hour, all of them do not."""
    with Session(tmp_path_factory.mktemp("shared")) as session:
        session.serve()
        session.run(".venv/bin/gateway creators update default --override requests_per_hour=1000")
        yield session


@pytest.mark.parametrize("page", [page for page in pages_to_read() if page in SHARING])
def test_what_a_page_shows_is_seen_after_other_pages_too(page: str, shared: Session) -> None:
    shared.begin_page()
    differences = read(Reader(page, shared.folder, shared))
    assert not differences, differences


@pytest.mark.parametrize("page", [page for page in pages_to_read() if page not in SHARING])
def test_what_a_page_shows_is_what_its_reader_sees(page: str, tmp_path: Path) -> None:
    differences = read(Reader(page, tmp_path))
    assert not differences, differences


def read(reader: "Reader") -> str:
    """Each block that differs, and how; nothing when the page is right."""
    with reader:
        return "\n".join(
            f"\n{step.block.place}\n{difference}" for step in reader.steps for difference in reader.differences(step)
        )


@pytest.mark.parametrize("page", pages())
def test_every_gateway_command_of_a_page_exists_and_takes_its_options(page: str) -> None:
    faults = [
        f"{block.place} {fault}"
        for block in blocks_of(page)
        if block.language in _SESSIONS
        for command, _ in block.commands
        for fault in faults_of_gateway_commands(command)
    ]
    assert not faults


@pytest.mark.parametrize("page", pages())
def test_a_command_that_is_not_run_is_one_that_could_be(page: str) -> None:
    faults = [
        f"{block.place} {command!r} ({row.reason}): {fault}"
        for block in blocks_of(page)
        if block.language in _SESSIONS
        for command, _ in block.commands
        if (row := elsewhere(command))
        for fault in row.check(command)
    ]
    assert not faults


class Reader:
    """One page, read from top to bottom."""

    def __init__(self, page: str, folder: Path, shared: Session | None = None) -> None:
        self.steps = [step for step in steps_of(blocks_of(page)) if is_typed(step)]
        self._page = page
        self._folder = folder
        self._open = ExitStack()
        self._session = shared
        self._section = ""
        self._prepared: set[object] = set()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def differences(self, step: Step) -> Iterator[str]:
        session = self._session_of(step.block)
        if step.block.language in _SESSIONS:
            yield from self._typed(session, step.block)
        else:
            yield from self._ran(session, step)

    def _session_of(self, block: Block) -> Session:
        """That of the section before, unless this one wants a gateway of its own."""
        scene = scene_of(self._page, block.section) if block.section != self._section else None
        self._section = block.section
        if self._session is None or scene:
            self._session = self._began(scene or Scene())
        return self._session

    def _began(self, scene: Scene) -> Session:
        self._open.close()
        folder = self._folder / (self._section.replace(" ", "-")[:20] or "page")
        folder.mkdir()
        session = self._open.enter_context(Session(folder, scene.settings))
        scene.begin(session)
        return session

    def _typed(self, session: Session, block: Block) -> Iterator[str]:
        for command, shown in block.commands:
            if elsewhere(command):
                continue
            for act in preparations(self._page, command):
                if act not in self._prepared:
                    self._prepared.add(act)
                    act(session)
            seen = session.run(command)
            if shown:
                yield from (f"$ {command}\n{difference}" for difference in filter(None, [differs(shown, seen)]))
            elif session.status:
                yield f"$ {command}\nended with {session.status}:\n{seen}"

    def _ran(self, session: Session, step: Step) -> Iterator[str]:
        seen = _printed(session, step)
        if session.status:
            yield f"the program ended with {session.status}:\n{seen}"
            return
        if step.output:
            yield from filter(None, [differs(step.output.text, seen)])
        said = [line for block in (*step.before, step.block) for line in block.said]
        lines = seen.splitlines()
        for line in said:
            if not any(not differs(line, other) for other in lines):
                yield f"a comment says {line!r}, and printed was:\n{seen}"
        if step.block.says_all and not step.before:
            yield from (f"printed and not shown: {line!r}" for line in lines if all(differs(one, line) for one in said))


def _printed(session: Session, step: Step) -> str:
    name = f"{Path(step.block.page).stem}_{step.block.line}".replace("-", "_").replace(".", "_")
    if step.block.language == "js":
        return session.node(step.program, f"{name}.mjs")
    return session.program(f"{name}.py", step.program, str(_interpreter(step.program)))


def _interpreter(program: str) -> Path:
    """Of the first client environment that has everything the program imports, else our own."""
    wanted = _imports(program) - set(sys.stdlib_module_names)
    pythons = (environments.python_of(family) for family in _FAMILIES)
    return next((python for python in pythons if wanted <= _installed(python)), Path(sys.executable))


def _imports(program: str) -> set[str]:
    """Top-level names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _installed(python: Path) -> set[str]:
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    return {path.name.removesuffix(".py") for path in packages.iterdir()}
