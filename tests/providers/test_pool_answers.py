"""Reading answers, without a socket: framing, bounds, refusals, and that no way of cutting the bytes matters."""

import random

import pytest

from gateway.providers.http1 import ENDED, UNTIL_EOF, Answer, Bounds, Invalid
from tests.providers.scripted_upstream import OK, answer, chunked

BOUNDS = Bounds(answer_head_bytes_max=8192, headers_max=20)
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
LATER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstolen"


def read(*reads: bytes, bounds: Bounds = BOUNDS) -> tuple[Answer, bytes]:
    """Feed an answer of a new connection, read by read, as a connection does."""
    reader = Answer(bounds)
    reader.begin()
    for data in reads:
        if reader.phase == ENDED:
            reader.is_clean = False
        else:
            reader.feed(data)
    return reader, reader.take()


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        pytest.param(answer(b"hello"), 200, b"hello", id="content-length"),
        pytest.param(answer(b""), 200, b"", id="length-0"),
        pytest.param(answer(b"hello", b"X-Empty:", b"x-next: 1"), 200, b"hello", id="empty-header"),
        pytest.param(OK + b"content-length:  5 \t\r\n\r\nhello", 200, b"hello", id="length-in-blanks"),
        pytest.param(OK + b"content-length: 0005\r\n\r\nhello", 200, b"hello", id="length-with-zeros"),
        pytest.param(b"HTTP/1.1 200\r\ncontent-length: 1\r\n\r\nx", 200, b"x", id="no-reason"),
        pytest.param(b"HTTP/1.1 429 Too Many\r\ncontent-length: 2\r\n\r\n{}", 429, b"{}", id="an-error"),
        pytest.param(b"HTTP/1.1 529 \r\ncontent-length: 2\r\n\r\n{}", 529, b"{}", id="an-unregistered-error"),
        pytest.param(chunked(b"he", b"llo"), 200, b"hello", id="chunked"),
        pytest.param(chunked(), 200, b"", id="no-chunks"),
        pytest.param(chunked(b"hello", trailer=b"x-sum: 1\r\nx-b:\r\n"), 200, b"hello", id="trailers"),
        pytest.param(CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0;e\r\n\r\n', 200, b"hello", id="extensions"),
        pytest.param(CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", 200, b"hello", id="chunk-size-with-zeros"),
        pytest.param(chunked(b"x\r\n0\r\n\r\n"), 200, b"x\r\n0\r\n\r\n", id="a-body-like-an-end"),
        pytest.param(OK + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", 200, b"", id="upper-case"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", 204, b"", id="204-with-length"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"hello"), 200, b"hello", id="100"),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 199 x\r\n\r\n"
            + chunked(b"hi"),
            200,
            b"hi",
            id="interims",
        ),
        pytest.param(answer(b"hi", b"upgrade: h2c", b"connection: upgrade"), 200, b"hi", id="an-upgrade-offered"),
        pytest.param(answer(b"hi", b"content-encoding: identity"), 200, b"hi", id="identity"),
    ],
)
def test_a_good_answer_is_the_same_however_it_is_cut(data: bytes, status: int, body: bytes) -> None:
    cuts = [(data,), tuple(data[i : i + 1] for i in range(len(data)))]
    cuts += [(data[:i], data[i:]) for i in range(1, len(data))]
    cuts += [(data[:i], data[i : i + 3], data[i + 3 :]) for i in range(1, len(data) - 3)]
    for cut in cuts:
        reader, got = read(*cut)
        assert (reader.phase, reader.status, got, reader.is_clean) == (ENDED, status, body, True), cut


@pytest.mark.parametrize(
    "excess", [b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"x", b"0\r\n\r\n", b"0", b"\x00", LATER, b"HTTP/1.1 100 x\r\n\r\n"]
)
@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(answer(b"hello"), b"hello", id="content-length"),
        pytest.param(answer(b""), b"", id="length-0"),
        pytest.param(answer(b"\r\n\r\n"), b"\r\n\r\n", id="line-ends"),
        pytest.param(chunked(b"hello"), b"hello", id="chunked"),
        pytest.param(chunked(b"\r\n"), b"\r\n", id="chunked-line-ends"),
        pytest.param(chunked(b"hello", trailer=b"a:\r\n"), b"hello", id="trailer"),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", b"", id="204"),
        pytest.param(b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n", b"", id="204-that-claims-a-body"),
        pytest.param(b"HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n", b"", id="204-chunked"),
    ],
)
def test_bytes_after_the_end_soil_the_connection_and_reach_nobody(data: bytes, body: bytes, excess: bytes) -> None:
    whole = data + excess
    for i in range(len(whole) + 1):
        reader, got = read(*(part for part in (whole[:i], whole[i:]) if part))
        assert (reader.phase, got, reader.is_clean) == (ENDED, body, False), i


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(answer(b"hello", b"Connection: close"), id="close"),
        pytest.param(answer(b"hello", b"connection: keep-alive, Close"), id="close-in-a-list"),
        pytest.param(chunked(b"hello").replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"), id="chunked-close"),
        pytest.param(b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", id="1.0"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello", id="1.0-keep-alive"
        ),
        pytest.param(b"HTTP/1.1 204 No\r\nconnection: close\r\n\r\n", id="204-close"),
    ],
)
def test_an_answer_without_keep_alive_is_whole_but_not_clean(data: bytes) -> None:
    for i in range(1, len(data)):
        reader, got = read(data[:i], data[i:])
        assert (reader.phase, reader.is_clean) == (ENDED, False)
        assert got == (b"" if reader.status == 204 else b"hello")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_body_without_framing_ends_with_the_connection(version: bytes) -> None:
    data = b"HTTP/%s 200 OK\r\nconnection: close\r\n\r\nhello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" % version
    for i in range(1, len(data)):
        reader = Answer(BOUNDS)
        reader.begin()
        reader.feed(data[:i])
        reader.feed(data[i:])
        assert reader.phase == UNTIL_EOF
        reader.end_of_file()
        assert (reader.phase, reader.is_clean) == (ENDED, False)
        assert reader.take() == data.partition(b"\r\n\r\n")[2]


REFUSED = {
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "http2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "http1.2": b"HTTP/1.2 200 OK\r\ncontent-length: 0\r\n\r\n",
    "icy": b"ICY 200 OK\r\n\r\n",
    "line-end-first": b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "html": b"<html>\r\n\r\n</html>",
    "a-request": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "lf-only": b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
    "one-lf": OK + b"x: y\ncontent-length: 0\r\n\r\n",
    "bare-cr": OK + b"x: a\rcontent-length: 0\r\n\r\n",
    "obs-fold": OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "tab-fold": OK + b"content-length: 0\r\n\t0\r\n\r\n",
    "blank-before-colon": OK + b"content-length : 0\r\n\r\n",
    "no-colon": OK + b"content-length 0\r\n\r\n",
    "no-name": OK + b": 0\r\n\r\n",
    "nul": OK + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
    "control": OK + b"x: a\x01b\r\ncontent-length: 0\r\n\r\n",
    "nul-in-name": OK + b"x\x00y: a\r\ncontent-length: 0\r\n\r\n",
    "status-20": b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
    "status-2000": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "status-600": b"HTTP/1.1 600 OK\r\ncontent-length: 0\r\n\r\n",
    "status-099": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "status-word": b"HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    "101-bare": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "101-with-length": b"HTTP/1.1 101 Switching Protocols\r\ncontent-length: 0\r\n\r\n",
    "interim-with-length": b"HTTP/1.1 103 Hints\r\ncontent-length: 5\r\n\r\nhello" + answer(b"x"),
    "interim-chunked": b"HTTP/1.1 100 Continue\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + answer(b"x"),
    "interim-close": b"HTTP/1.1 100 Continue\r\nconnection: close\r\n\r\n" + answer(b"x"),
    **{
        f"redirect-{status}": b"HTTP/1.1 %d Moved\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
        % status
        for status in (300, 301, 302, 303, 304, 307, 308)
    },
    "redirect-without-body": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "gzip": answer(b"x", b"content-encoding: gzip"),
    "br-chunked": OK + b"content-encoding: br\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding-list": answer(b"x", b"Content-Encoding: identity, gzip"),
    "encoding-twice": answer(b"x", b"content-encoding: gzip", b"content-encoding: identity"),
    "length-negative": OK + b"content-length: -1\r\n\r\n",
    "length-signed": OK + b"content-length: +1\r\n\r\nx",
    "length-hex": OK + b"content-length: 0x1\r\n\r\nx",
    "length-fraction": OK + b"content-length: 1.0\r\n\r\nx",
    "length-word": OK + b"content-length: one\r\n\r\nx",
    "length-empty": OK + b"content-length:\r\n\r\nx",
    "length-superscript": OK + b"content-length: \xb2\r\n\r\nxx",
    "length-list": OK + b"content-length: 1, 1\r\n\r\nx",
    "length-underscore": OK + b"content-length: 1_0\r\n\r\nx",
    "length-huge": OK + b"content-length: 1000000000000000\r\n\r\nx",
    "length-overflow": OK + b"content-length: 18446744073709551617\r\n\r\nx",
    "lengths-differ": OK + b"content-length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "lengths-agree": OK + b"content-length: 1\r\nContent-Length: 1\r\n\r\nx",
    "length-and-chunked": OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked-and-length": OK + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
    "encoding-unknown": OK + b"transfer-encoding: frob\r\n\r\nx",
    "encoding-identity": OK + b"transfer-encoding: identity\r\n\r\nx",
    "encoding-gzip-chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "encoding-chunked-identity": OK + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "encoding-chunked-twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding-xchunked": OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "encoding-vertical-tab": OK + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "encoding-empty": OK + b"transfer-encoding:\r\n\r\nx",
    "chunked-in-1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk-size-word": CHUNKED + b"zz\r\n",
    "chunk-size-empty": CHUNKED + b"\r\n",
    "chunk-size-0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk-size-negative": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk-size-signed": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk-size-blank": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "chunk-size-overflow": CHUNKED + b"fffffffffffffffff\r\n",
    "chunk-lf": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "chunk-too-long": CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
    "chunk-without-end": CHUNKED + b"5\r\nhello0\r\n\r\n",
    "extension-lf": CHUNKED + b"5;a\nhello\r\n0\r\n\r\n",
    "extension-cr": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "trailer-without-colon": CHUNKED + b"0\r\nx\r\n\r\n",
    "trailer-length": CHUNKED + b"0\r\ncontent-length: 5\r\n\r\nhello",
    "trailer-fold": CHUNKED + b"0\r\nx: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_be_read_in_two_ways_is_refused_however_it_is_cut(data: bytes) -> None:
    for cut in [(data,), *((data[:i], data[i:]) for i in range(1, len(data)))]:
        with pytest.raises(Invalid):
            read(*cut)
    with pytest.raises(Invalid):
        read(*(data[i : i + 1] for i in range(len(data))))


def test_the_head_is_bounded_in_bytes_interim_answers_included() -> None:
    fits = answer(b"", b"x: " + b"a" * (BOUNDS.answer_head_bytes_max - 50))
    assert 0 <= BOUNDS.answer_head_bytes_max - len(fits) < 20
    assert read(fits)[0].phase == ENDED
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    for data in (
        answer(b"", b"x: " + b"a" * BOUNDS.answer_head_bytes_max),
        OK + b"a" * BOUNDS.answer_head_bytes_max,
        interim * 400,
        interim + fits,
    ):
        for size in (len(data), 4096, 7):
            with pytest.raises(Invalid, match="head is too large"):
                read(*(data[i : i + size] for i in range(0, len(data), size)))


def test_the_number_of_headers_is_bounded() -> None:
    most = [b"x-%d: 1" % i for i in range(BOUNDS.headers_max - 1)]
    assert len(read(answer(b"", *most))[0].headers) == BOUNDS.headers_max
    with pytest.raises(Invalid, match="too many headers"):
        read(answer(b"", *most, b"y: 1"))


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(b"5;" + b"a" * 40_000, id="one-long-extension"),
        pytest.param(b"1;a=%s\r\nx\r\n" % (b"b" * 200) * 400, id="extensions"),
        pytest.param(b"0" * 40_000, id="zeros-of-a-size"),
        pytest.param(b"0\r\n" + b"x: %s\r\n" % (b"a" * 100) * 400, id="trailers"),
        pytest.param(b"0\r\nx: " + b"a" * 40_000, id="one-long-trailer"),
    ],
)
@pytest.mark.parametrize("size", [100_000, 1000, 9])
def test_chunks_that_are_mostly_framing_are_refused(flood: bytes, size: int) -> None:
    with pytest.raises(Invalid, match="mostly framing"):
        read(CHUNKED, *(flood[i : i + size] for i in range(0, len(flood), size)))


@pytest.mark.parametrize("size", [1_000_000, 4096, 5])
def test_many_small_chunks_are_read(size: int) -> None:
    data = chunked(*[b"x"] * 20_000)
    reader, body = read(*(data[i : i + size] for i in range(0, len(data), size)))
    assert (reader.phase, body) == (ENDED, b"x" * 20_000)


def test_headers_are_lower_case_the_last_wins_and_trailers_are_dropped() -> None:
    data = (
        OK
        + b"X-One: 1 \r\nx-one:2\r\nX-Latin: \xe9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx-one: 3\r\nx-late: 4\r\n\r\n"
    )
    reader, _ = read(data)
    assert reader.headers == {"x-one": "2", "x-latin": "é", "transfer-encoding": "chunked"}


def test_interim_headers_are_no_headers_of_the_answer() -> None:
    reader, _ = read(b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" + answer(b""))
    assert reader.headers == {"content-length": "0"}


def test_answers_of_one_connection_leave_nothing_to_each_other() -> None:
    """One reader, thousands of answers of every framing, cut at random: a seeded walk."""
    chance = random.Random(7)
    reader = Answer(BOUNDS)
    for number in range(2000):
        body = b"canary-%d-" % number * chance.randrange(4)
        data = chance.choice([answer(body, b"x-n: %d" % number), chunked(*[body] * bool(body))])
        reader.begin()
        while data:
            size = chance.randrange(1, len(data) + 1)
            reader.feed(data[:size])
            data = data[size:]
        assert (reader.phase, reader.is_clean, reader.take()) == (ENDED, True, body)
        assert reader.headers.get("x-n", str(number)) == str(number)


def test_random_bytes_raise_nothing_but_a_refusal() -> None:
    """Mutations of good answers: whatever comes, it is read, refused, or still incomplete."""
    chance = random.Random(11)
    models = [answer(b"hello", b"x: y"), chunked(b"he", b"llo", trailer=b"a: b\r\n"), b"HTTP/1.1 204 No\r\n\r\n"]
    ended = refused = 0
    for _ in range(5000):
        data = bytearray(chance.choice(models))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b"\r\n\x00 :;0159afHT\xff") if data else 0
        try:
            ended += read(bytes(data))[0].phase == ENDED
        except Invalid:
            refused += 1
    assert ended > 100
    assert refused > 100
