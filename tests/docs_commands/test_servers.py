"""What the pages say of PostgreSQL and Redis is typed too, with the addresses of real servers in the place of the examples'."""

import re
from pathlib import Path

from tests.docs_commands.elsewhere import elsewhere
from tests.docs_commands.pages import Block, blocks_of, pages
from tests.docs_commands.session import Session
from tests.rig.waiting import eventually
from tests.servers.redis_server import RedisServer

_NAMES_SERVERS = re.compile(r"postgresql://|rediss?://|\bgateway db copy\b")
_SECRET = "root-secret-of-a-reader-0123456789abcdef"
_CALL = """curl -sS http://127.0.0.1:8000/v1/chat/completions -H "Authorization: Bearer $KEY" -d '{"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]}'"""
_WITHIN_S = 60.0


def block_of(page: str, section: str) -> Block:
    """The one of the section that names servers."""
    (found,) = [
        block for block in blocks_of(page) if block.section == section and any(map(names_servers, commands_of(block)))
    ]
    return found


def commands_of(block: Block) -> list[str]:
    return [command for command, _ in block.commands] if block.language in ("console", "bash", "sh") else []


def names_servers(command: str) -> bool:
    return _NAMES_SERVERS.search(command) is not None


def test_every_command_that_names_servers_is_typed_here() -> None:
    places = {
        (page, block.section)
        for page in pages()
        for block in blocks_of(page)
        if any(map(names_servers, commands_of(block)))
    }
    assert places == {("README.md", "Several processes"), ("docs/stores.md", "Moving up")}


def test_several_processes_serve_as_the_readme_starts_them(
    tmp_path: Path, database_url: str, redis: RedisServer
) -> None:
    """Its workers know of each other, and serve."""
    (command,) = filter(names_servers, commands_of(block_of("README.md", "Several processes")))
    (many,) = re.findall(r"--workers (\d+)", command)
    for written, real in (
        ("postgresql://...", database_url),
        ("redis://...", redis.url),
        ("SECRET=...", f"SECRET={_SECRET}"),
    ):
        assert command.count(written) == 1
        command = command.replace(written, real)
    with Session(tmp_path) as session:
        assert "First run." in session.run(command)
        assert "You said: Hello" in session.run(_CALL)
        count = "curl -sS http://127.0.0.1:8000/metrics | grep '^gateway_instances'"
        eventually(
            lambda: set(re.findall(r" (\S+)$", session.run(count), re.MULTILINE)) == {f"{many}.0"},
            "the workers",
            _WITHIN_S,
        )
        session.stop()


def test_a_ledger_moves_up_as_the_page_says(tmp_path: Path, database_url: str) -> None:
    """With its entries and its keys; and nothing is amiss afterwards."""
    export, copy = commands_of(block_of("docs/stores.md", "Moving up"))
    (example,) = re.findall(r"postgresql://\S+", export)
    assert elsewhere(export)
    with Session(tmp_path) as session:
        assert "You said: Hello" in session.run(_CALL)
        session.stop()
        session.type(export.replace(example, database_url))
        printed = session.run(copy)
        assert "First run." not in printed
        assert "You said: Hello" in session.run(_CALL)
        (entries,) = re.findall(r"(?s)^created_at.*?\n(.*)", session.run(".venv/bin/gateway ledger list"))
        assert len(entries.splitlines()) == 2
        assert session.run(".venv/bin/gateway ledger verify").endswith("0 differences\n")
        assert session.status == 0
        session.stop()
