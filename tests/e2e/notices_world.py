"""Who is told: a receiver of webhooks, of what goes to Slack and of mail, on loopback; and hours that are usual.

Whatever is secret about the ways there is a canary of the gateway's audit.
"""

import asyncio
import base64
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.policy_world import MODELS, PLANS, says
from tests.rig.upstream import Upstream
from tests.rig.waiting import PATIENCE_S, eventually, soon

SIGNING_BYTES = base64.b64encode(b"signing-canary-of-thirty-2-bytes").decode()
WEBHOOK_SECRET = f"whsec_{SIGNING_BYTES}"
HOOK_PATH = "/hook/address-canary-81c4"
SLACK_PATH = "/services/slack-canary-29e7"
MAIL_USER, MAIL_PASSWORD = "alerts", "mail-canary-63b0"
MAIL_FROM, MAIL_TO = "gateway@example.test", "ops@example.test"
OFTEN_S = 0.05
"""How often the gateway looks for what to tell; for anomalies every sixth time."""
_HOUR_LEFT = timedelta(seconds=40)


class Post(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def notice_id(self) -> str:
        return self.headers["webhook-id"]


class Told(NamedTuple):
    """A notice as two of them differ: its kind and whom or what it is about."""

    kind: str
    subject: str = ""


class Receiver:
    """Listens from construction to `close()`, in a thread of its own: by HTTP, and by SMTP for whoever logs in."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.mails: list[EmailMessage] = []
        self.logins: list[tuple[str, str]] = []
        self.is_mute = False
        """Takes what comes and never answers, until the sender hangs up."""
        self.held = 0
        """Connections whose sender is waiting for an answer now."""
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._port = self._mail_port = 0
        self._thread = threading.Thread(target=self._run, name="receiver", daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE_S), "the receiver did not start"

    @property
    def webhook_url(self) -> str:
        return f"http://127.0.0.1:{self._port}{HOOK_PATH}"

    @property
    def slack_url(self) -> str:
        return f"http://127.0.0.1:{self._port}{SLACK_PATH}"

    @property
    def smtp_url(self) -> str:
        return f"smtp://{MAIL_USER}:{MAIL_PASSWORD}@127.0.0.1:{self._mail_port}"

    @property
    def webhooks(self) -> list[Post]:
        return [post for post in self.posts if post.path == HOOK_PATH]

    @property
    def slack_texts(self) -> list[str]:
        return [post.json["text"] for post in self.posts if post.path == SLACK_PATH]

    def close(self) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the receiver did not stop"

    # HTTP

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        mail_server = await self._loop.create_server(self._mail_session, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._mail_port = mail_server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        mail_server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            self.posts.append(await _read_post(reader))
            if self.is_mute:
                self.held += 1
                try:
                    await reader.read()
                finally:
                    self.held -= 1
            else:
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        writer.close()

    # Mail

    def _mail_session(self) -> SMTP:
        return SMTP(
            self, hostname="mail.test", authenticator=self._login, auth_require_tls=False, loop=self._loop, timeout=60
        )

    def _login(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        login = data.login.decode(), data.password.decode()
        self.logins.append(login)
        return AuthResult(success=login == (MAIL_USER, MAIL_PASSWORD))

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if not session.authenticated or envelope.rcpt_tos != [MAIL_TO]:
            return "550 Not from you"
        content = cast(bytes, envelope.content)
        self.mails.append(message_from_bytes(content, EmailMessage, policy=policy.default))
        return "250 OK"


async def _read_post(reader: asyncio.StreamReader) -> Post:
    line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return Post(line.split(" ")[1], headers, await reader.readexactly(int(headers["content-length"])))


class TellingGateway(Gateway):
    """A gateway that tells a receiver or nobody, looks often, and thinks five calls or a dollar an hour worth a look."""

    def __init__(self, folder: Path, upstream: Upstream, receiver: Receiver | None = None, **settings: object) -> None:
        told: dict[str, object] = {"NOTICES_EVERY_S": OFTEN_S, "ANOMALY_HOURS_MIN": 2, "ANOMALY_REQUESTS_MIN": 5}
        if receiver is not None:
            told |= {"WEBHOOK_URL": receiver.webhook_url, "WEBHOOK_SECRET": WEBHOOK_SECRET}
        super().__init__(folder, upstream, settings={**told, **settings}, models=MODELS, plans=PLANS)

    def change(self, **settings: object) -> None:
        """From the next start on."""
        self._settings |= {name: str(value) for name, value in settings.items()}

    def canaries(self) -> list[tuple[str, str]]:
        ways = [
            ("the webhook's secret", SIGNING_BYTES),
            ("the webhook's address", HOOK_PATH),
            ("Slack's address", SLACK_PATH),
            ("the mail password", MAIL_PASSWORD),
        ]
        return [*super().canaries(), *ways]

    def key_of(self, creator: str, /, **overrides: object) -> Key:
        """A key of a new creator of this name."""
        body = {"id": creator, "plan": "base", "overrides": overrides}
        self.admin_json("POST", "/admin/creators", json=body)
        return self.new_key(creator)

    def notices(self, **filters: object) -> list[dict[str, Any]]:
        """All there are, through all pages; the newest first."""
        return self._pages("/admin/notices", filters)

    def anomalies(self, **filters: object) -> list[dict[str, Any]]:
        return self._pages("/admin/anomalies", filters)

    def _pages(self, path: str, filters: Mapping[str, object]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor: dict[str, object] = {}
        while True:
            page = self.admin_json("GET", path, params={**filters, "limit": 7, **cursor})
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    async def told(self, *expected: Told) -> None:
        """Returns once all of these are recorded."""
        await soon(
            lambda: set(expected) <= tally(self.notices()).keys(),
            f"{sorted(set(expected) - tally(self.notices()).keys())}",
        )

    def seed(self, *hours: "Hour") -> None:
        """Writes what was usual, straight into the sums that the gateway itself would have made of its entries."""
        rows = [(hour_back(hour.back), *hour[1:]) for hour in hours]
        with closing(sqlite3.connect(self.data_dir / "gateway.db", timeout=PATIENCE_S)) as connection, connection:
            connection.executemany(
                "INSERT INTO usage_hourly (hour, creator, feature, key_id, calls, cost_nano_usd) VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )


class Hour(NamedTuple):
    """So many calls of a creator with one feature and key, `back` hours ago."""

    back: int
    creator: str
    feature: str
    key_id: str
    calls: int
    cost_nano_usd: int = 0


def hour_back(back: int) -> str:
    """`2026-11-21T09`, UTC; 0 is the hour that runs."""
    return (datetime.now(UTC) - timedelta(hours=back)).strftime("%Y-%m-%dT%H")


def within_an_hour() -> None:
    """Returns at once, but for the last seconds of an hour: a test that says "once an hour" is not to run into the next."""
    eventually(lambda: _left_of_hour() > _HOUR_LEFT, "the next hour", within_s=2 * _HOUR_LEFT.total_seconds())


def _left_of_hour() -> timedelta:
    now = datetime.now(UTC)
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1) - now


def tally(notices: Iterable[Mapping[str, Any]]) -> Counter[Told]:
    """How often each was told, by notices as `GET /admin/notices` lists them."""
    return Counter(
        Told(notice["kind"], _subject(notice["kind"], notice["data"], notice["creator"])) for notice in notices
    )


def tally_of_posts(posts: Iterable[Post]) -> Counter[Told]:
    bodies = [post.json for post in posts]
    return Counter(Told(body["type"], _subject(body["type"], body["data"], body["data"]["creator"])) for body in bodies)


def _subject(kind: str, data: Mapping[str, Any], creator: str) -> str:
    return data["provider"] or "all" if kind == "error_rate.above" else creator


async def says_tokens(
    gateway: Gateway, upstream: Upstream, key: Key, tokens: int, *, model: str = "cent", headers: Any = ()
) -> Answer:
    """A chat call that may cost, and costs, so many tokens of output: cents of `cent`, dollars of `dollar`."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": says(upstream, tokens).marker}],
        "max_tokens": tokens,
    }
    return await gateway.post(key, body, headers)
