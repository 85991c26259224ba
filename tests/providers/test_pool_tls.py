"""TLS: who is believed to be the upstream, and that calls work the same behind it."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.providers.base import UpstreamFailure
from gateway.providers.pool import Pool
from tests.providers.scripted_upstream import (
    HANG_S,
    OK,
    PATIENT,
    Peer,
    Script,
    Upstream,
    answer,
    begin,
    call,
    chunked,
    failure_of,
    on_both_loops,
    on_loops,
    rest,
    says,
    until,
)

BIG = bytes(range(256)) * 20_000


class Identity:
    """A self-signed certificate, the context that serves it and one that trusts it and nothing else."""

    def __init__(self, path: Path, name: x509.GeneralName) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([name]), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        path.write_bytes(
            pem
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(path)
        self.server.set_alpn_protocols(["h2", "http/1.1"])
        self.trusting = ssl.create_default_context(cadata=pem.decode())
        self.trusting.set_alpn_protocols(["http/1.1"])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """A certificate for 127.0.0.1."""
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return Identity(tmp_path_factory.mktemp("tls") / "local.pem", address)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """A certificate for another host."""
    return Identity(tmp_path_factory.mktemp("tls") / "other.pem", x509.DNSName("other.example"))


async def _failure(upstream: Upstream, trusting: ssl.SSLContext | None) -> UpstreamFailure:
    """How a call to it fails. Ends with the pool closed."""
    pool = Pool(upstream.origin, connections_max=1, ssl_context=trusting)
    try:
        return await failure_of(call(pool))
    finally:
        await pool.close()


async def _unasked(peer: Peer) -> None:
    assert await peer.gone() == b"", "something was said to an upstream that is not believed"


@on_both_loops
async def test_calls_work_behind_tls_on_one_connection(local: Identity) -> None:
    async def script(peer: Peer) -> None:
        assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        while True:
            body = await peer.request()
            await peer.send(chunked(body, body) if len(body) % 2 else answer(body * 2))

    async with asyncio.timeout(HANG_S), Upstream(script, tls=local.server) as upstream:
        pool = Pool(upstream.origin, connections_max=4, ssl_context=local.trusting)
        for body in (b"hello", b"", b"x" * 70_000, BIG, b"bye"):
            exchange = await begin(pool, body)
            assert exchange.is_fully_sent
            assert await rest(exchange) == body * 2
            exchange.close()
        assert upstream.connections == 1
        await pool.close()
        assert pool.connections_open == 0


@on_both_loops
async def test_a_certificate_for_another_host_is_refused(other: Identity) -> None:
    async with asyncio.timeout(HANG_S), Upstream(_unasked, tls=other.server) as upstream:
        failure = await _failure(upstream, other.trusting)
        assert (failure.kind, failure.is_sent) == ("unreachable", False)
        assert "SSLCertVerificationError" in failure.detail


@on_both_loops
async def test_by_default_only_the_system_is_asked_whom_to_trust(local: Identity) -> None:
    async with asyncio.timeout(HANG_S), Upstream(_unasked, tls=local.server) as upstream:
        failure = await _failure(upstream, None)
        assert (failure.kind, failure.is_sent) == ("unreachable", False)
        assert "SSLCertVerificationError" in failure.detail


@on_both_loops
async def test_an_upstream_that_does_not_speak_tls_is_unreachable(local: Identity) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(answer(b"plain"))

    async with asyncio.timeout(HANG_S), Upstream(script) as upstream:
        pool = Pool(upstream.origin._replace(scheme="https"), connections_max=1, ssl_context=local.trusting)
        failure = await failure_of(call(pool))
        assert (failure.kind, failure.is_sent) == ("unreachable", False)
        await pool.close()


@on_both_loops
async def test_a_handshake_that_hangs_ends_at_the_connect_deadline(local: Identity) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with asyncio.timeout(HANG_S), Upstream(script) as upstream:
        pool = Pool(upstream.origin._replace(scheme="https"), connections_max=1, ssl_context=local.trusting)
        for _ in range(2):
            failure = await failure_of(call(pool, deadlines=PATIENT._replace(connect_s=0.05)))
            assert (failure.kind, failure.is_sent) == ("unreachable", False)
        await pool.close()


@on_loops("uvloop")
async def test_a_connection_cut_without_a_word_ends_no_body_that_has_no_framing(local: Identity) -> None:
    """Anybody on the way can cut a TCP connection; only the upstream can say in TLS that it is done.

    asyncio's own loop reports both in the same way, so that such a body (rare, and never of an API that says how long
    its answers are) counts as complete there.
    """

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK + b"\r\nhello")
        if peer.number == 1:
            peer.writer.transport.abort()
        else:
            peer.writer.close()

    async with asyncio.timeout(HANG_S), Upstream(script, tls=local.server) as upstream:
        pool = Pool(upstream.origin, connections_max=1, ssl_context=local.trusting)
        exchange = await begin(pool)
        assert await exchange.read() == b"hello"
        assert (await failure_of(exchange.read())).kind == "died"
        exchange.close()
        await until(lambda: pool.connections_open == 0)
        assert await call(pool) == b"hello"
        await pool.close()


@on_both_loops
async def test_backpressure_works_behind_tls(local: Identity) -> None:
    async with asyncio.timeout(HANG_S), Upstream(says(answer(BIG)), tls=local.server) as upstream:
        pool = Pool(upstream.origin, connections_max=1, ssl_context=local.trusting)
        for _ in range(2):
            exchange = await begin(pool)
            conn = exchange._conn
            assert conn is not None
            await until(lambda: conn._is_read_paused)  # noqa: B023
            assert conn.answer.unread_bytes < len(BIG)
            assert await rest(exchange) == BIG
            exchange.close()
        assert upstream.connections == 1
        await pool.close()


@on_both_loops
async def test_a_request_that_tls_has_not_taken_is_not_fully_sent(local: Identity) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.stop_reading()
        await peer.send(answer(b"early").replace(b"200 OK", b"413 No"))
        await asyncio.Event().wait()

    async with asyncio.timeout(HANG_S), Upstream(script, tls=local.server) as upstream:
        pool = Pool(upstream.origin, connections_max=1, ssl_context=local.trusting)
        exchange = await begin(pool, BIG * 4)
        assert (exchange.status, exchange.is_fully_sent) == (413, False)
        assert await rest(exchange) == b"early"
        exchange.close()
        await until(lambda: pool.connections_open == 0)
        await pool.close()


@pytest.mark.parametrize("excess", [b"\r\n", answer(b"of nobody")])
@on_both_loops
async def test_bytes_after_the_end_close_a_tls_connection_too(local: Identity, excess: bytes) -> None:
    script: Script = says(answer(b"hello") + excess)
    async with asyncio.timeout(HANG_S), Upstream(script, tls=local.server) as upstream:
        pool = Pool(upstream.origin, connections_max=1, ssl_context=local.trusting)
        for _ in range(2):
            assert await call(pool) == b"hello"
        assert upstream.connections == 2
        await pool.close()
