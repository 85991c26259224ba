"""The HTTP front: ambiguous requests are refused, slow ones are closed, tricks with paths open nothing."""

import asyncio
import contextlib

import pytest

from tests.rig import wire
from tests.rig.client import Answer, Connection, connect, connected, request_bytes
from tests.rig.gateway import CHAT, Gateway, Key, chat_body
from tests.rig.upstream import Script, Upstream

HOST = b"Host: gateway.test\r\n"


async def refused_and_closed(gateway: Gateway, raw: bytes) -> int | None:
    """The status of the only answer, after which the connection ended; None when it was closed without."""
    async with connected(gateway.port) as connection:
        try:
            await connection.send(raw)
            status = await connection.read_head()
            await connection.read_rest()
        except (EOFError, ConnectionError):
            return None
        assert await connection.is_closed_by_peer()
        return status


def smuggled(gateway: Gateway) -> bytes:
    return (
        b"GET /admin/creators HTTP/1.1\r\n"
        + HOST
        + b"Authorization: Bearer "
        + gateway.admin_key.encode()
        + b"\r\n\r\n"
    )


AMBIGUOUS = {
    "length and chunked": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 7\r\n\r\n{}",
    "two lengths in one": b"Content-Length: 2, 7\r\n\r\n{}",
    "negative length": b"Content-Length: -2\r\n\r\n{}",
    "signed length": b"Content-Length: +2\r\n\r\n{}",
    "hexadecimal length": b"Content-Length: 0x2\r\n\r\n{}",
    "length with a blank": b"Content-Length: 1 2\r\n\r\n{}",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\n\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "bad chunk end": b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}X0\r\n\r\n",
    "huge chunk size": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "space before the colon": b"Content-Length : 2\r\n\r\n{}",
    "folded line": b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "bare LF": b"X-A: b\nContent-Length: 2\r\n\r\n{}",
    "bare CR": b"X-A: b\rContent-Length: 2\r\n\r\n{}",
    "NUL in a header": b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}",
    "header without colon": b"X-A\r\nContent-Length: 2\r\n\r\n{}",
    "empty header name": b": x\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("rest", AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_an_ambiguous_request_is_refused_and_what_follows_is_not_served(
    gateway: Gateway, key: Key, rest: bytes
) -> None:
    start = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + f"Authorization: Bearer {key.key}\r\n".encode()
    status = await refused_and_closed(gateway, start + rest + smuggled(gateway))
    assert status in {400, 501, None}


BAD_STARTS = {
    "no version": b"GET /v1/models\r\n" + HOST + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "unknown method": b"FROB /v1/models HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no Host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Host: other.test\r\n\r\n",
    "the same Host twice": b"GET /v1/models HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "Host with a path": b"GET /v1/models HTTP/1.1\r\nHost: gateway.test/?\r\n\r\n",
    "Host with a fragment": b"GET /v1/models HTTP/1.1\r\nHost: gateway.test/#\r\n\r\n",
    "Host with a blank": b"GET /v1/models HTTP/1.1\r\nHost: a b\r\n\r\n",
    "Host with a user": b"GET /v1/models HTTP/1.1\r\nHost: u@gateway.test\r\n\r\n",
    "absolute form for another host": b"GET http://other.test/v1/models HTTP/1.1\r\n" + HOST + b"\r\n",
    "a line break in the target": b"GET /v1/models\nX: y HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("raw", BAD_STARTS.values(), ids=BAD_STARTS)
async def test_a_request_that_does_not_say_what_it_wants_is_refused(gateway: Gateway, raw: bytes) -> None:
    status = await refused_and_closed(gateway, raw)
    assert status in {400, 405, 421, 501, 505, None}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("x-large", "y" * 2**20)], id="1 MB header"),
        pytest.param([(f"x-{number}", "y") for number in range(10_000)], id="10000 headers"),
        pytest.param([("x-many", "y" * 1000)] * 1000, id="1000 of a kilobyte"),
    ],
)
async def test_too_large_headers_are_a_431(gateway: Gateway, key: Key, headers: list[tuple[str, str]]) -> None:
    raw = request_bytes("GET", "/v1/models", key=key.key, headers=headers)
    assert await refused_and_closed(gateway, raw) in {431, None}
    async with connected(gateway.port) as connection:
        # A client that reads while it writes sees the answer even when the gateway closed early.
        await connection.send(raw[:70_000])
        assert await connection.read_head() == 431


async def test_a_very_long_target_is_refused(gateway: Gateway, key: Key) -> None:
    raw = request_bytes("GET", "/v1/models?" + "x" * 200_000, key=key.key)
    assert await refused_and_closed(gateway, raw) in {400, 414, 431, None}


async def test_requests_in_a_row_on_one_connection_are_answered_in_order(gateway: Gateway, key: Key) -> None:
    first = request_bytes("GET", "/v1/models/rig-chat", key=key.key)
    second = request_bytes("GET", "/v1/models/rig-cheap", key=key.key)
    async with connected(gateway.port) as connection:
        await connection.send(first + second)
        for name in ("rig-chat", "rig-cheap"):
            assert await connection.read_head() == 200
            assert (await connection.read_rest()).json["id"] == name


async def test_calls_in_a_row_on_one_connection_are_answered_in_order(
    gateway: Gateway, upstream: Upstream, key: Key
) -> None:
    usage = wire.usage(9, 4)
    whole = upstream.reply(wire.completion("whole", usage=usage))
    events = [*wire.text_events("streamed"), wire.DONE]
    stream = upstream.stream(*events)
    async with connected(gateway.port) as connection:
        for _ in range(2):
            await connection.send(gateway.chat_request(key, whole))
            assert await connection.read_head() == 200
            assert (await connection.read_rest()).json["choices"][0]["message"]["content"] == "whole"
            await connection.send(gateway.chat_request(key, stream, stream=True))
            assert await connection.read_head() == 200
            assert (await connection.read_rest()).body == b"".join(events)


async def test_a_body_after_100_continue_is_served(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    body = wire.compact(chat_body(upstream.reply(wire.completion("x", usage=wire.usage(1, 1)))))
    head = request_bytes(
        "POST", CHAT, key=key.key, headers=[("expect", "100-continue"), ("content-length", str(len(body)))]
    )
    async with connected(gateway.port) as connection:
        await connection.send(head)
        assert await connection.read_head() == 100
        await connection.send(body)
        assert await connection.read_head() == 200


async def test_a_body_in_small_chunks_is_served(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    body = wire.compact(chat_body(upstream.reply(wire.completion("x", usage=wire.usage(1, 1)))))
    head = request_bytes("POST", CHAT, key=key.key, headers=[("transfer-encoding", "chunked")])
    async with connected(gateway.port) as connection:
        await connection.send(head)
        for start in range(0, len(body), 10):
            await connection.send(wire.framed(body[start : start + 10]))
        await connection.send(wire.LAST_CHUNK)
        assert await connection.read_head() == 200


# Slow clients


async def drip(connection: Connection, data: bytes) -> None:
    try:
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(0.05)
    except ConnectionError:
        return


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"POST /v1/chat/completions HT", id="inside the request line"),
        pytest.param(b"POST /v1/chat/completions HTTP/1.1\r\nHost: gate", id="inside the headers"),
    ],
)
async def test_a_client_that_never_finishes_its_headers_is_closed(hasty: Gateway, start: bytes) -> None:
    async with connected(hasty.port) as connection:
        await connection.send(start)
        assert await connection.is_closed_by_peer()


async def test_headers_that_drip_are_closed_although_they_are_never_silent(hasty: Gateway, hasty_key: Key) -> None:
    async with connected(hasty.port) as connection, asyncio.TaskGroup() as group:
        endless = request_bytes("GET", "/v1/models", key=hasty_key.key, headers=[("x-slow", "y" * 2000)])
        dripping = group.create_task(drip(connection, endless))
        assert await connection.is_closed_by_peer()
        dripping.cancel()


@pytest.mark.parametrize("is_dripping", [False, True], ids=["silent", "dripping"])
async def test_a_slow_body_is_closed_and_costs_nothing(
    hasty: Gateway, upstream: Upstream, hasty_key: Key, is_dripping: bool
) -> None:
    script = upstream.reply(wire.completion("x", usage=wire.usage(1, 1)))
    request = hasty.chat_request(hasty_key, script, user="u" * 2000)
    async with connected(hasty.port) as connection, asyncio.TaskGroup() as group:
        await connection.send(request[:-1500])
        dripping = group.create_task(drip(connection, request[-1500:] if is_dripping else b""))
        with contextlib.suppress(EOFError):
            assert await connection.read_head() == 408
        assert await connection.is_closed_by_peer()
        dripping.cancel()
    assert script.requests == []
    assert hasty.entries(creator=hasty_key.creator) == []


async def test_an_idle_connection_is_closed_after_its_time(hasty: Gateway) -> None:
    async with connected(hasty.port) as connection:
        await connection.send(request_bytes("GET", "/health/live"))
        assert await connection.read_head() == 200
        await connection.read_rest()
        assert await connection.is_closed_by_peer()


# Paths


def tricks(path: str) -> list[str]:
    return [
        path,
        "/" + path,
        path + "/",
        path + "//",
        path.upper(),
        path.replace("/admin", "/%61dmin"),
        path.replace("/admin/", "/admin%2F"),
        path.replace("/admin", "/./admin"),
        path.replace("/admin", "/%2e/admin"),
        path.replace("/admin", "/v1/../admin"),
        path.replace("/admin", "/v1/%2e%2e/admin"),
        path.replace("/admin", "/v1/..%2fadmin"),
        path.replace("/admin", "/health/live/../../admin"),
        path.replace("/admin", "/health/live/%2e%2e/%2e%2e/admin"),
        path.replace("/admin", "/health/live;/admin"),
        path.replace("/admin", "\\admin"),
        path + "?key=x",
        path + ";x=/health/live",
        path + "%00",
        path + "%20",
        path + ".json",
        "http://gateway.test" + path,
    ]


ADMIN_PATHS = [
    "/admin/creators",
    "/admin/ledger",
    "/admin/costs",
    "/admin/charges",
    "/admin/keys/x",
    "/admin/creators/x/keys",
]


async def answers_to(gateway: Gateway, key: str | None, path: str, method: str) -> Answer | None:
    """None when the connection was closed without an answer."""
    connection = await connect(gateway.port)
    try:
        await connection.send(request_bytes(method, path, key=key))
        await connection.read_head()
        return await connection.read_rest()
    except (EOFError, ConnectionError):
        return None
    finally:
        await connection.close()


@pytest.mark.parametrize("path", ADMIN_PATHS)
async def test_no_trick_opens_admin_to_a_creators_key(gateway: Gateway, key: Key, path: str) -> None:
    for trick in tricks(path):
        for method in ("GET", "POST", "DELETE"):
            for bearer in (key.key, None):
                answer = await answers_to(gateway, bearer, trick, method)
                assert answer is None or answer.status in {400, 401, 403, 404, 405}, (method, trick, answer)
                assert answer is None or b'"data"' not in answer.body


async def test_no_trick_opens_v1_without_a_key(gateway: Gateway, upstream: Upstream) -> None:
    script: Script = upstream.reply(wire.completion("x", usage=wire.usage(1, 1)))
    for trick in tricks(CHAT):
        request = request_bytes("POST", trick.replace("/admin", "/v1"), body=chat_body(script))
        async with connected(gateway.port) as connection:
            await connection.send(request)
            assert await connection.read_head() in {400, 401, 403, 404, 405}, trick
    assert script.requests == []


async def test_health_needs_no_key_and_says_nothing_secret(gateway: Gateway) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = await gateway.get(None, path)
        assert answer.status == 200
        assert str(gateway.data_dir).encode() not in answer.body
    assert len((await gateway.get(None, "/health/ready")).json) >= 1


async def test_a_forged_forwarding_header_changes_nothing(gateway: Gateway, upstream: Upstream, key: Key) -> None:
    forged = [("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=9.9.9.9"), ("x-real-ip", "9.9.9.9")]
    script = upstream.reply(wire.completion("x", usage=wire.usage(1, 1)))
    answer = await gateway.post(key, chat_body(script), forged)
    assert answer.status == 200
    assert "9.9.9.9" not in gateway.logs()


async def test_control_characters_never_reach_a_log_line_or_a_header(gateway: Gateway, key: Key) -> None:
    answer = await gateway.chat(key, None, model="evil\r\nx-evil: 1\r\n\x1b[31m", user="a\nb\x00")
    assert answer.status == 404
    assert "x-evil" not in answer.header_names
    assert "\x1b[31m" not in gateway.logs()
    assert not [line for line in gateway.logs().splitlines() if line.startswith("x-evil")]
