"""A real gateway process: `python -m gateway serve` with its own folder, catalog and plans.

Every secret is a canary: `audit()` looks for them wherever they must not be, and checks what holds after every case (no
open hold, the ledger recomputed without a difference).
"""

import csv
import io
import itertools
import json
import os
import signal
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

from tests.rig.catalog import PLANS, catalog
from tests.rig.client import Answer, Connection, connect, exchange, request_bytes
from tests.rig.environment import inherited
from tests.rig.upstream import Script, Upstream
from tests.rig.waiting import PATIENCE_S, eventually
from tests.rig.warm import WarmProcess, begin_gateway

CHAT = "/v1/chat/completions"
PROMPT_CANARY = "prompt-canary-5f1c"
_START_WITHIN_S = 60.0
_CLI_WITHIN_S = 60.0
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Key:
    """A virtual key and whom it belongs to."""

    id: str
    key: str
    creator: str

    @property
    def secret(self) -> str:
        """What follows the public id in `sk-gw-<public id>-<secret>`."""
        return self.key.split("-", 3)[3]


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """One data folder and the process that serves it; `start()` after a `kill9()` serves the same folder again.

    The process begins in a warm interpreter (`tests.rig.warm`), or by itself where `is_cold`.
    """

    def __init__(
        self,
        folder: Path,
        upstream: Upstream,
        *,
        settings: Mapping[str, object] | None = None,
        models: str = "",
        plans: str = PLANS,
        is_cold: bool = False,
    ) -> None:
        self.folder = folder
        self.upstream = upstream
        self.port = free_port()
        self.admin_key = f"admin-canary-{folder.name}-0123456789abcdef"
        self.provider_key = "sk-provider-canary-0123456789abcdef"
        self.data_dir = folder / "data"
        self.process: WarmProcess | subprocess.Popen[bytes] | None = None
        self.keys: list[Key] = []
        (folder / "pricing.toml").write_text(catalog(upstream.base_url, free_port()) + models)
        (folder / "plans.toml").write_text(plans)
        self._settings = {"HOLD_TIMEOUT_S": "600", "GONE_GRACE_S": "0.3", **(settings or {})}
        self._is_cold = is_cold
        self._admin = httpx.Client(trust_env=False, timeout=PATIENCE_S)

    # The process

    @property
    def environment(self) -> dict[str, str]:
        """What the process gets. The proxies lead nowhere: whoever obeyed them would reach no upstream."""
        settings = {
            "PORT": self.port,
            "DATA_DIR": self.data_dir,
            "ADMIN_KEY": self.admin_key,
            "PRICING_FILE": self.folder / "pricing.toml",
            "PLANS_FILE": self.folder / "plans.toml",
            "CIRCUIT_FAILURES_MAX": 0,  # tests share the gateway and let the same providers fail
            "GENERATION_HISTORY": False,  # its prompts are kept, which the audit would find
            **self._settings,
        }
        proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
        named = {f"GATEWAY_{name}": str(value) for name, value in settings.items()}
        return {**inherited(), **proxies, **named, "RIG_PROVIDER_KEY": self.provider_key}

    def start(self) -> "Gateway":
        """Returns when the gateway says that it is ready."""
        self.launch()
        eventually(self._is_ready_or_dead, "a ready gateway", _START_WITHIN_S)
        return self

    def launch(self) -> None:
        """Starts the process and waits for nothing."""
        assert self.process is None, "the gateway is already running"
        with (
            (self.folder / "stdout").open("ab") as stdout,
            (self.folder / "stderr").open("ab") as stderr,
            Path(os.devnull).open("rb") as nothing,
        ):
            streams = (nothing.fileno(), stdout.fileno(), stderr.fileno())
            self.process = begin_gateway(["serve"], self.environment, *streams, is_cold=self._is_cold)

    def _is_ready_or_dead(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the gateway ended with {self.process.returncode}: {self.logs()[-4000:]}"
        return self.is_ready()

    def is_ready(self) -> bool:
        try:
            return self._admin.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def kill9(self) -> None:
        process = self._running()
        process.kill()
        process.wait(PATIENCE_S)
        self._ended()

    def terminate(self) -> None:
        """Sends SIGTERM and returns at once."""
        self._running().send_signal(signal.SIGTERM)

    def wait(self, within_s: float = PATIENCE_S) -> int:
        """The exit code, once the process has ended."""
        code = self._running().wait(within_s)
        self._ended()
        return code

    def stop(self) -> int:
        self.terminate()
        return self.wait(_START_WITHIN_S)

    def close(self) -> None:
        """Ends whatever still runs."""
        if self.process is not None:
            self.kill9()
        self._admin.close()

    def _running(self) -> "WarmProcess | subprocess.Popen[bytes]":
        assert self.process is not None, "the gateway is not running"
        return self.process

    def _ended(self) -> None:
        self.process = None
        self._admin.close()
        self._admin = httpx.Client(trust_env=False, timeout=PATIENCE_S)

    def logs(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace") + (self.folder / "stderr").read_text(
            errors="replace"
        )

    def log_lines(self, event: str) -> list[dict[str, Any]]:
        """The structured lines of this name."""
        lines = [json.loads(line) for line in self.logs().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    def cli(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`python -m gateway ARGUMENTS` in the same environment."""
        with (
            Path(os.devnull).open("rb") as nothing,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
        ):
            process = begin_gateway(arguments, self.environment, nothing.fileno(), stdout.fileno(), stderr.fileno())
            try:
                code = process.wait(_CLI_WITHIN_S)
            finally:
                process.kill()
            said = [_text(stream) for stream in (stdout, stderr)]
        return subprocess.CompletedProcess(process.args, code, *said)

    # The admin's side

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def admin(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.admin_key}"}
        return self._admin.request(method, self.url + path, headers=headers, **options)

    def admin_json(self, method: str, path: str, **options: Any) -> Any:
        answer = self.admin(method, path, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def new_creator(self, plan: str = "open", **overrides: object) -> str:
        creator = f"creator-{next(_numbers)}"
        body = {"id": creator, "plan": plan, **({"overrides": overrides} if overrides else {})}
        self.admin_json("POST", "/admin/creators", json=body)
        return creator

    def new_key(self, creator: str | None = None, *, plan: str = "open", **fields: object) -> Key:
        """A key of `creator`, or of a new one; `fields` go into the request that makes the key."""
        creator = creator or self.new_creator(plan)
        made = self.admin_json("POST", f"/admin/creators/{creator}/keys", json=fields)
        key = Key(made["id"], made["key"], creator)
        self.keys.append(key)
        return key

    def entries(self, **filters: object) -> list[dict[str, Any]]:
        """Every ledger entry that fits, through all pages."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.admin_json(
                "GET", "/admin/ledger", params={**filters, "limit": 1000, **({"cursor": cursor} if cursor else {})}
            )
            found += page["data"]
            if not (cursor := page["next_cursor"]):
                return found

    def entry(self, key: Key) -> dict[str, Any]:
        """The only entry of this key's creator, once it is there."""
        entries = eventually(lambda: self.entries(creator=key.creator), "a ledger entry")
        assert len(entries) == 1, entries
        return entries[0]

    def csv(self, **filters: object) -> list[dict[str, str]]:
        answer = self.admin("GET", "/admin/ledger", params={**filters, "format": "csv"})
        assert answer.status_code == 200, answer.text
        return list(csv.DictReader(io.StringIO(answer.text)))

    def open_holds(self) -> int:
        """Read from the file itself, beside whoever writes it."""
        path = self.data_dir / "gateway.db"
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
        try:
            return int(connection.execute("SELECT count(*) FROM holds").fetchone()[0])
        finally:
            connection.close()

    # The client's side

    def chat_request(self, key: Key | str | None, script: Script | None = None, **fields: object) -> bytes:
        return request_bytes("POST", CHAT, key=bearer(key), body=chat_body(script, **fields))

    async def chat(self, key: Key | str | None, script: Script | None = None, **fields: object) -> Answer:
        """One chat call on a connection of its own."""
        return await exchange(self.port, self.chat_request(key, script, **fields))

    async def post(self, key: Key | str | None, body: object, headers: Any = (), path: str = CHAT) -> Answer:
        return await exchange(self.port, request_bytes("POST", path, key=bearer(key), body=body, headers=headers))

    async def get(self, key: Key | str | None, path: str) -> Answer:
        return await exchange(self.port, request_bytes("GET", path, key=bearer(key)))

    async def streamed(self, key: Key, script: Script, **fields: object) -> Answer:
        """A stream that begins and ends as it should."""
        answer = await self.chat(key, script, stream=True, **fields)
        assert answer.status == 200, answer
        assert answer.is_complete, answer
        return answer

    async def open_stream(self, key: Key, script: Script, *, buffer_bytes: int = 2**26, **fields: object) -> Connection:
        """A streaming call whose head has been read; the caller closes it."""
        connection = await connect(self.port, buffer_bytes=buffer_bytes)
        await connection.send(self.chat_request(key, script, stream=True, **fields))
        status = await connection.read_head()
        assert status == 200, (await connection.read_rest()).body
        return connection

    # What holds after every case

    def verify(self) -> "subprocess.CompletedProcess[str]":
        return self.cli("ledger", "verify")

    def audit(self) -> None:
        """The invariants: nothing held, the ledger recomputes, no secret anywhere, no exception logged."""
        eventually(lambda: self.open_holds() == 0, "the end of every hold")
        verified = self.verify()
        assert verified.returncode == 0, verified.stdout + verified.stderr
        self.audit_words()

    def audit_words(self) -> None:
        """No exception logged, and no secret in the log or in what is stored."""
        logs = self.logs()
        assert "Traceback" not in logs, _around(logs, "Traceback")
        assert '"exception"' not in logs, _around(logs, '"exception"')
        for place, content in (("the logs", logs.encode()), *self.stored()):
            for name, canary in self.canaries():
                assert canary.encode() not in content, f"{name} is in {place}"

    def canaries(self) -> list[tuple[str, str]]:
        secrets = [("a virtual key", key.secret) for key in self.keys]
        return [
            ("the admin key", self.admin_key),
            ("the provider key", self.provider_key),
            ("prompt text", PROMPT_CANARY),
            *secrets,
            *self._passwords(),
        ]

    def _passwords(self) -> list[tuple[str, str]]:
        """Those in the addresses of the servers that it uses."""
        found = (
            (name, urlsplit(str(value)).password) for name, value in self._settings.items() if name.endswith("_URL")
        )
        return [(f"the password of {name}", password) for name, password in found if password]

    def stored(self) -> list[tuple[str, bytes]]:
        """The database files, byte by byte."""
        return [(path.name, path.read_bytes()) for path in self.data_dir.glob("gateway.db*")]


def bearer(key: Key | str | None) -> str | None:
    return key.key if isinstance(key, Key) else key


def prompt(script: Script | None) -> str:
    """The text that makes the upstream play `script`."""
    return f"{PROMPT_CANARY} {script.marker if script else 'rig-script-0-end'}"


def chat_body(script: Script | None = None, **fields: object) -> dict[str, Any]:
    """A chat request; a field given as None is left out."""
    body = {"model": "rig-chat", "messages": [{"role": "user", "content": prompt(script)}], **fields}
    return {name: value for name, value in body.items() if value is not None}


def _around(text: str, word: str) -> str:
    """The lines before and after the first one with `word`, each cut to what can be read."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if word in line)
    return "\n".join(line[:2_000] for line in lines[max(0, first - 5) : first + 40])
