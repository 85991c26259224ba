"""Starting: the first run works with nothing set, wrong settings stop it by name, two processes never share a folder."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.rig import wire
from tests.rig.catalog import catalog
from tests.rig.client import exchange, request_bytes
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.gateway import CHAT, Gateway, free_port
from tests.rig.upstream import Upstream
from tests.rig.waiting import soon

_ESTABLISHED = "01"


class FirstRun:
    """`gateway serve` with a port and a folder, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._output = folder / "output"
        settings = {"GATEWAY_PORT": str(self.port), "GATEWAY_DATA_DIR": str(folder / "data")}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                cwd=REPOSITORY,
                env={**inherited(), **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self._output.read_text()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def first_run(tmp_path: Path) -> Iterator[FirstRun]:
    run = FirstRun(tmp_path)
    try:
        yield run
    finally:
        run.close()


async def test_a_first_run_prints_what_works(first_run: FirstRun) -> None:
    printed = await soon(lambda: text if "curl" in (text := first_run.printed()) else "", "the first lines", 60)
    assert f"http://127.0.0.1:{first_run.port}" in printed
    keys = re.findall(r"sk-gw-[A-Za-z0-9_-]+", printed)
    assert keys
    line = printed[printed.index("curl") :]
    payload = re.search(r"'(\{.*?\})'", line, re.DOTALL)
    assert payload, line
    body = json.loads(payload.group(1))
    admin_keys = [word for word in re.findall(r"[A-Za-z0-9_-]{20,}", printed) if word not in keys]
    request = request_bytes("POST", CHAT, key=keys[0], body=body)

    async def answers() -> bool:
        try:
            return (await exchange(first_run.port, request)).status == 200
        except (OSError, EOFError):
            return False

    async with asyncio.timeout(30):
        while not await answers():
            await asyncio.sleep(0.02)
    statuses = {
        (await exchange(first_run.port, request_bytes("GET", "/admin/ledger", key=key))).status for key in admin_keys
    }
    assert 200 in statuses, "no printed key opens the admin API"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("ADMIN_KEY", ""),
        ("ADMIN_KEY", "changeme"),
        ("SECRET", "x"),
        ("CONNECT_TIMEOUT_S", "-1"),
        ("LOG_LEVEL", "loud"),
        ("DATABASE_URL", "mysql://x"),
        ("PRICING_FILE", "/nowhere/pricing.toml"),
        ("PLANS_FILE", "/nowhere/plans.toml"),
    ],
)
def test_a_wrong_setting_stops_the_start_by_its_name(upstream: Upstream, tmp_path: Path, name: str, value: str) -> None:
    gateway = Gateway(tmp_path, upstream, settings={name: value})
    try:
        started = gateway.cli("serve")
        assert started.returncode not in {0, None}
        said = started.stdout + started.stderr
        assert f"GATEWAY_{name}" in said or value in said
        assert "Traceback" not in said
    finally:
        gateway.close()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("input_usd_per_mtok = 2.50", "input_usd_per_mtok = -2.50", "negative"),
        ("input_usd_per_mtok = 2.50", 'input_usd_per_mtok = "cheap"', "input_usd_per_mtok"),
        ('provider = "rig"', 'provider = "nobody"', "nobody"),
        ("context_tokens_max", "context_tokens_maximum", "context_tokens_maximum"),
        ('[models."rig-cheap"]', '[models."rig-chat"]', "rig-chat"),
        ('endpoints = ["chat"]', 'endpoints = ["chats"]', "chats"),
        ('version = "2026-11-20"', "", "version"),
        ("[providers.rig]", "[providers.rig", "pricing.toml"),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_broken_catalog_stops_the_start_and_is_named(
    upstream: Upstream, tmp_path: Path, command: str, old: str, new: str, said: str
) -> None:
    gateway = Gateway(tmp_path, upstream)
    try:
        text = catalog(upstream.base_url, 1)
        assert old in text
        (tmp_path / "pricing.toml").write_text(text.replace(old, new, 1))
        refused = gateway.cli(command)
        assert refused.returncode != 0
        output = refused.stdout + refused.stderr
        assert said in output
        assert "pricing.toml" in output.replace("\n", "")
        assert "Traceback" not in output
    finally:
        gateway.close()


def test_a_good_catalog_passes_the_check(gateway: Gateway) -> None:
    checked = gateway.cli("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_second_serve_on_the_same_folder_is_refused(gateway: Gateway) -> None:
    second = gateway.cli("serve")
    assert second.returncode != 0
    assert "Traceback" not in second.stdout + second.stderr
    assert gateway.is_ready()


async def test_a_single_process_has_nothing_to_replace_and_goes_on(gateway: Gateway) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGUSR2)
    await soon(lambda: gateway.log_lines("nothing_to_replace"), "a word about it")
    assert (await gateway.get(None, "/health/ready")).status == 200


async def test_the_start_connects_to_nothing(upstream: Upstream, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, upstream, is_cold=True)
    try:
        before = upstream.connections
        gateway.start()
        assert gateway.process is not None
        assert outgoing(gateway.process.pid, gateway.port) == []
        assert upstream.connections == before
        key = gateway.new_key()
        assert (await gateway.chat(key, upstream.reply(wire.completion("a", usage=wire.usage(1, 1))))).status == 200
        assert outgoing(gateway.process.pid, gateway.port) == [upstream.port], "the test sees connections at all"
    finally:
        gateway.close()


def outgoing(pid: int, own_port: int) -> list[int]:
    """Remote ports of the process's established TCP connections, without those that came to its own port."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = row.split()
            is_ours = rest[5] in inodes and state == _ESTABLISHED
            if is_ours and int(local.rpartition(":")[2], 16) != own_port:
                found.append(int(remote.rpartition(":")[2], 16))
    return found


def test_a_key_made_on_the_command_line_works_at_once(gateway: Gateway) -> None:
    """The CLI writes through the running server."""
    added = gateway.cli("creators", "add", "from-the-shell", "--plan", "open")
    assert added.returncode == 0, added.stdout + added.stderr
    made = gateway.cli("keys", "create", "from-the-shell")
    assert made.returncode == 0, made.stdout + made.stderr
    (key,) = set(re.findall(r"sk-gw-[A-Za-z0-9_-]+", made.stdout))
    answer = gateway.admin("GET", "/admin/creators/from-the-shell/keys")
    assert len(answer.json()["data"]) == 1
    listed = httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"}, trust_env=False)
    assert listed.status_code == 200
