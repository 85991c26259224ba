"""What each target sends, that only its receiver can read it, and that nobody else ever sees an address or a secret."""

import asyncio
import base64
import logging
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook as Verifier

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.ledger.notices import Outgoing
from gateway.notices import mail as mail_module
from gateway.notices.mail import Mail
from gateway.notices.slack import Slack
from gateway.notices.targets import DeliveryError, Target, open_targets, signing_secret
from gateway.notices.webhook import BODY_BYTES_MAX, Webhook
from gateway.secrets import Secrets
from tests.notices.receivers import SECRET, Receiver, receiving, status
from tests.rig.waiting import soon

HOST = "mail.example.test"
PASSWORD = "p@ss/w:rd"
PASSWORD_IN_URL = "p%40ss%2Fw%3Ard"
USER_IN_URL = "alerts%40example.test"
NOTICE = Outgoing(
    id="ntc_01928f00-0000-7000-8000-000000000001",
    kind="budget.80_percent",
    creator="acme",
    message="Creator 'acme' has used 80 USD of 100 USD.",
    data={"used_nano_usd": 80_000_000_000, "used_usd": "80", "period": "2027-01", "resets_at": None},
    created_at=1_800_000_000_123,
    attempts=0,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


async def deliver(target: Target, notice: Outgoing = NOTICE) -> None:
    try:
        await target.deliver(notice)
    finally:
        await target.close()


async def refusal(target: Target, notice: Outgoing = NOTICE) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await deliver(target, notice)
    return caught.value


# Webhooks


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
async def test_a_webhook_is_verified_by_the_standard_library_of_webhooks_in_every_time_zone(
    receiver: Receiver, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        await deliver(Webhook(receiver.url, SECRET, wall_clock=time.time))
        (post,) = receiver.posts
        body = Verifier(SECRET).verify(post.body, post.headers)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-id"] == NOTICE.id
    assert body == {
        "type": "budget.80_percent",
        "timestamp": "2027-01-15T08:00:00.123Z",
        "data": {"id": NOTICE.id, "creator": "acme", "message": NOTICE.message, **NOTICE.data},
    }


async def test_a_changed_body_is_not_verified(receiver: Receiver) -> None:
    await deliver(Webhook(receiver.url, SECRET, wall_clock=time.time))
    (post,) = receiver.posts
    with pytest.raises(Exception, match="signature"):
        Verifier(SECRET).verify(post.body.replace(b"80 USD", b"08 USD"), post.headers)


async def test_a_figure_cannot_take_the_name_of_what_every_notice_has(receiver: Receiver) -> None:
    fake = NOTICE._replace(data={"id": "other", "creator": "other", "message": "other", "more": 1})
    await deliver(Webhook(receiver.url, SECRET, wall_clock=time.time), fake)
    data = receiver.posts[0].json["data"]
    assert data == {"id": NOTICE.id, "creator": "acme", "message": NOTICE.message, "more": 1}


async def test_the_longest_notice_there_can_be_stays_below_20_kb(receiver: Receiver) -> None:
    longest = NOTICE._replace(message="\x01" * 1_000, data={"text": "x" * 8_180}, creator="c" * 256)
    await deliver(Webhook(receiver.url, SECRET, wall_clock=time.time), longest)
    assert len(receiver.posts[0].body) <= BODY_BYTES_MAX


async def test_no_proxy_of_the_environment_is_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await deliver(Webhook(receiver.url, SECRET, wall_clock=time.time))
        assert (len(receiver.posts), len(proxy.posts)) == (1, 0)


# Slack


async def test_slack_gets_text_in_which_nothing_is_a_link_or_a_mention(receiver: Receiver) -> None:
    hostile = NOTICE._replace(message="<!channel> & <https://evil.example|click>\nnext\u2028line", creator="<@U1>")
    await deliver(Slack(receiver.url), hostile)
    (post,) = receiver.posts
    assert post.json == {
        "text": f"&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt; next line\nbudget.80_percent · {NOTICE.id}"
    }
    assert "webhook-signature" not in post.headers


# Mail


class Mailbox:
    """Takes mail on loopback; what was said before is kept, too."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.logins: list[tuple[str, str]] = []
        self.commands: list[str] = []
        self.refused: set[str] = set()

    async def handle_MAIL(self, _: SMTP, __: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        self.commands.append("MAIL")
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, _: SMTP, __: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        if address in self.refused:
            return "550 not here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, _: SMTP, __: Session, envelope: Envelope) -> str:
        self.envelopes.append(envelope)
        return "250 OK"

    def authenticate(self, _: SMTP, __: Session, ___: Envelope, ____: str, login: Any) -> AuthResult:
        said = (login.login.decode(), login.password.decode())
        self.logins.append(said)
        is_right = said == ("alerts@example.test", PASSWORD)
        return AuthResult(success=is_right, handled=is_right)

    def mail(self) -> EmailMessage:
        (envelope,) = self.envelopes
        content = envelope.original_content
        assert content is not None
        return cast(EmailMessage, message_from_bytes(content, policy=policy.default))


@asynccontextmanager
async def mailbox(
    *, tls: ssl.SSLContext | None = None, is_implicit: bool = False, takes_plain_logins: bool = False
) -> AsyncIterator[tuple[Mailbox, int]]:
    """A mail server. With `tls` it takes logins, and wants STARTTLS before them or speaks TLS from the first byte."""
    box = Mailbox()
    options: dict[str, Any] = {"hostname": "mailbox"}
    if takes_plain_logins:
        options |= {"authenticator": box.authenticate, "auth_require_tls": False}
    if tls is not None:
        options["authenticator"] = box.authenticate
        options |= {"auth_require_tls": False} if is_implicit else {"tls_context": tls, "require_starttls": True}
    loop = asyncio.get_running_loop()
    connections: set[asyncio.BaseProtocol] = set()

    class Connection(SMTP):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connections.add(self)
            super().connection_made(transport)

        def connection_lost(self, error: Exception | None) -> None:
            connections.discard(self)
            super().connection_lost(error)

    server = await loop.create_server(
        lambda: Connection(box, loop=loop, **options), "127.0.0.1", 0, ssl=tls if is_implicit else None
    )
    try:
        yield box, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await soon(lambda: not connections, "the mail server's connections end")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate of `HOST`, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(plain + made.public_bytes(pem))
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HOST`, which is not this machine by its name, leads to loopback."""
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **named: Any) -> Any:
        return real("127.0.0.1" if host in {HOST, HOST.encode()} else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's certificate is among those of the system."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


def mail(url: str, to: str = "ops@example.test, boss@example.test") -> Mail:
    return Mail(url, "Gateway <gateway@example.test>", to)


async def test_a_mail_on_this_machine_needs_no_tls_and_says_everything_in_plain_text() -> None:
    async with mailbox() as (box, port):
        await deliver(mail(f"smtp://127.0.0.1:{port}"))
    (envelope,) = box.envelopes
    assert envelope.mail_from == "gateway@example.test"
    assert envelope.rcpt_tos == ["ops@example.test", "boss@example.test"]
    sent = box.mail()
    assert sent["From"] == "Gateway <gateway@example.test>"
    assert sent["To"] == "ops@example.test, boss@example.test"
    assert sent["Subject"] == "[gateway] budget.80_percent (acme)"
    assert sent["Message-ID"] == f"<{NOTICE.id}@example.test>"
    assert sent["Auto-Submitted"] == "auto-generated"
    assert sent["Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert sent.get_content_type() == "text/plain"
    assert sent.get_content().splitlines() == [
        NOTICE.message,
        "",
        "used_nano_usd: 80000000000",
        "used_usd: 80",
        "period: 2027-01",
        "resets_at: null",
        f"id: {NOTICE.id}",
    ]


@pytest.mark.parametrize(
    "creator",
    [
        "acme\r\nBcc: everybody@example.test",
        "acme\nX-Evil: yes\n\nnew body",
        "acme\rBcc: a@b",
        "acme\u2028Bcc: a@b",
        "acme\x85Bcc: a@b\x0b\x0c\x1c\x00",
        "a" * 3_000,
        "ümläut & 漢字",
    ],
)
async def test_nothing_in_a_notice_becomes_a_header_or_a_recipient(creator: str) -> None:
    hostile = NOTICE._replace(creator=creator, message=creator, data={"text": creator, creator: 1})
    async with mailbox() as (box, port):
        await deliver(mail(f"smtp://localhost:{port}"), hostile)
    (envelope,) = box.envelopes
    assert envelope.rcpt_tos == ["ops@example.test", "boss@example.test"]
    sent = box.mail()
    assert sorted(sent.keys()) == [
        *("Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "MIME-Version"),
        *("Message-ID", "Subject", "To"),
    ]
    assert not sent.defects
    assert len(sent["Subject"]) <= 150
    assert sent["Subject"].startswith(f"[gateway] budget.80_percent ({creator[:4]}")
    assert len(sent.get_content().splitlines()) == 5


@pytest.mark.usefixtures("resolves", "trusted")
async def test_smtp_becomes_tls_before_the_login(server_tls: ssl.SSLContext) -> None:
    async with mailbox(tls=server_tls) as (box, port):
        await deliver(mail(f"smtp://{USER_IN_URL}:{PASSWORD_IN_URL}@{HOST}:{port}"))
    assert box.logins[-1] == ("alerts@example.test", PASSWORD)
    assert box.mail()["Message-ID"].startswith(f"<{NOTICE.id}")


@pytest.mark.usefixtures("resolves", "trusted")
async def test_smtps_is_tls_from_the_first_byte(server_tls: ssl.SSLContext) -> None:
    async with mailbox(tls=server_tls, is_implicit=True) as (box, port):
        await deliver(mail(f"smtps://{USER_IN_URL}:{PASSWORD_IN_URL}@{HOST}:{port}"))
    assert box.logins[-1] == ("alerts@example.test", PASSWORD)
    assert len(box.envelopes) == 1


@pytest.mark.parametrize("user", ["", f"{USER_IN_URL}:{PASSWORD_IN_URL}@"])
@pytest.mark.usefixtures("resolves")
async def test_a_server_without_tls_hears_neither_password_nor_mail(user: str) -> None:
    async with mailbox(takes_plain_logins=True) as (box, port):
        failure = await refusal(mail(f"smtp://{user}{HOST}:{port}"))
        assert failure.word == "tls_not_offered"
        assert (box.logins, box.commands, box.envelopes) == ([], [], [])
        await deliver(mail(f"smtp://{USER_IN_URL}:{PASSWORD_IN_URL}@127.0.0.1:{port}"))  # on this machine it may
    assert (box.logins, len(box.envelopes)) == ([("alerts@example.test", PASSWORD)], 1)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.usefixtures("resolves")
async def test_a_certificate_that_nobody_vouches_for_is_refused(server_tls: ssl.SSLContext, scheme: str) -> None:
    async with mailbox(tls=server_tls, is_implicit=scheme == "smtps") as (box, port):
        failure = await refusal(mail(f"{scheme}://{USER_IN_URL}:{PASSWORD_IN_URL}@{HOST}:{port}"))
    assert failure.word == "tls_failed"
    assert (box.logins, box.envelopes) == ([], [])


@pytest.mark.usefixtures("resolves", "trusted")
async def test_a_refused_login_is_a_word(server_tls: ssl.SSLContext) -> None:
    async with mailbox(tls=server_tls) as (box, port):
        failure = await refusal(mail(f"smtp://{USER_IN_URL}:wrong@{HOST}:{port}"))
    assert failure.word == "login_refused"
    assert box.envelopes == []


async def test_one_recipient_who_is_taken_is_enough_and_none_is_a_failure() -> None:
    async with mailbox() as (box, port):
        box.refused = {"boss@example.test"}
        await deliver(mail(f"smtp://127.0.0.1:{port}"))
        assert box.envelopes[0].rcpt_tos == ["ops@example.test"]
        box.refused.add("ops@example.test")
        failure = await refusal(mail(f"smtp://127.0.0.1:{port}"))
    assert failure.word == "recipients_refused"
    assert len(box.envelopes) == 1


async def test_a_mail_server_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    was_left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        was_left.set()

    monkeypatch.setattr(mail_module, "TIMEOUT_S", 0.1)
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with asyncio.timeout(5):
        failure = await refusal(mail(f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        await was_left.wait()
    server.close()
    assert failure.word == "timeout"


async def test_no_mail_server_is_a_word() -> None:
    assert (await refusal(mail("smtp://127.0.0.1:9"))).word == "connect_failed"


# Secrets


def _url(receiver: Receiver) -> str:
    return receiver.url.replace("http://", "http://s3cr3t-user:s3cr3t-password@") + "?token=s3cr3t-token"


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(lambda url: Webhook(url, SECRET, wall_clock=time.time), id="webhook"),
        pytest.param(Slack, id="slack"),
    ],
)
@pytest.mark.parametrize("code", [200, 500])
async def test_addresses_and_secrets_are_in_no_log_error_or_repr(
    receiver: Receiver, target: Callable[[str], Target], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    opened = target(_url(receiver))
    receiver.otherwise = status(code)
    shown = [repr(opened), repr(getattr(opened, "_poster", None))]
    if code == 200:
        await deliver(opened)
    else:
        shown += _shown(await refusal(opened))
    refused = target("http://s3cr3t-user:s3cr3t-password@127.0.0.1:9/s3cr3t-path")
    shown += _shown(await refusal(refused))
    assert (
        receiver.posts[0].headers["authorization"]
        == "Basic " + base64.b64encode(b"s3cr3t-user:s3cr3t-password").decode()
    )
    everything = "\n".join([*shown, caplog.text])
    assert "s3cr3t" not in everything
    assert SECRET.removeprefix("whsec_") not in everything


@pytest.mark.usefixtures("resolves", "trusted")
async def test_a_mail_password_is_in_no_log_error_or_repr(
    server_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with mailbox(tls=server_tls) as (_, port):
        opened = mail(f"smtp://s3cr3t-user:s3cr3t-password@{HOST}:{port}")
        failure = await refusal(opened)
    assert failure.word == "login_refused"
    said = [record.getMessage() for record in caplog.records if record.name != "mail.log"]  # that is the server's
    assert "s3cr3t" not in "\n".join([repr(opened), *_shown(failure), *said])


def _shown(failure: DeliveryError) -> list[str]:
    return [str(failure), repr(failure), "".join(traceback.format_exception(failure))]


# Settings


def _settings(**changes: Any) -> Settings:
    return Settings(**changes)


async def test_the_settings_name_the_targets(receiver: Receiver) -> None:
    async with mailbox() as (box, port):
        settings = _settings(
            webhook_url=receiver.url,
            slack_webhook_url=receiver.url,
            smtp_url=f"smtp://127.0.0.1:{port}",
            mail_from="gateway@example.test",
            mail_to="ops@example.test,",
        )
        secrets = Secrets(b"root")
        targets = open_targets(settings, secrets)
        assert [target.name for target in targets] == ["webhook", "slack", "mail"]
        for target in targets:
            await deliver(target)
    assert len(box.envelopes) == 1
    signed, slack = receiver.posts
    Verifier(signing_secret(settings, secrets)).verify(signed.body, signed.headers)
    assert list(orjson.loads(slack.body)) == ["text"]


def test_nothing_configured_is_no_target() -> None:
    assert open_targets(_settings(), Secrets(b"root")) == []


def test_the_signing_secret_is_the_one_set_or_made_of_the_root() -> None:
    derived = signing_secret(_settings(), Secrets(b"root"))
    assert derived == "whsec_" + base64.b64encode(Secrets(b"root").hmac_key("webhooks")).decode()
    assert derived != signing_secret(_settings(), Secrets(b"other"))
    for given in (SECRET, SECRET.removeprefix("whsec_")):
        assert signing_secret(_settings(webhook_secret=given), Secrets(b"root")) == SECRET


@pytest.mark.parametrize(
    ("sender", "recipients", "named"),
    [
        pytest.param("nobody", "ops@example.test", "GATEWAY_MAIL_FROM", id="no address"),
        pytest.param("a@b.test, c@d.test", "ops@example.test", "GATEWAY_MAIL_FROM", id="two senders"),
        pytest.param("a@b.test\r\nBcc: c@d.test", "ops@example.test", "GATEWAY_MAIL_FROM", id="a line break"),
        pytest.param("a@b.test\n", "ops@example.test", "GATEWAY_MAIL_FROM", id="a line break at the end"),
        pytest.param("a@b.test", "ops", "GATEWAY_MAIL_TO", id="one recipient without a domain"),
        pytest.param("a@b.test", "ops@example.test, boss", "GATEWAY_MAIL_TO", id="one of two without a domain"),
        pytest.param("a@b.test", "ops@example.test\nx", "GATEWAY_MAIL_TO", id="a line break among recipients"),
    ],
)
def test_wrong_mail_addresses_stop_the_start(sender: str, recipients: str, named: str) -> None:
    settings = _settings(smtp_url="smtp://127.0.0.1", mail_from=sender, mail_to=recipients)
    with pytest.raises(ConfigError, match=named):
        open_targets(settings, Secrets(b"root"))


def test_a_start_without_targets_loads_no_library_of_theirs() -> None:
    code = (
        "import sys\n"
        "from gateway.config import Settings\n"
        "from gateway.notices.targets import open_targets\n"
        "from gateway.secrets import Secrets\n"
        "open_targets(Settings(), Secrets(b'root'))\n"
        "assert not {'httpx', 'aiosmtplib', 'standardwebhooks'} & set(sys.modules), 'loaded'\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")
