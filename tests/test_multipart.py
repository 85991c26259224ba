import random
import tracemalloc
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.policy import HTTP
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import RequestError
from gateway.multipart import FIELD_BYTES_MAX, PARTS_MAX, FilePart, Form, dump_form, read_form

BOUNDARY = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
BYTES_MAX = 5_000_000


def _headers(content_type: str | None, **more: str) -> list[tuple[bytes, bytes]]:
    named = {} if content_type is None else {"content-type": content_type}
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in {**named, **more}.items()]


def _arriving(chunks: Sequence[bytes], *, leaves: bool = False) -> Callable[[], Any]:
    left = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if leaves:
        left.append({"type": "http.disconnect"})
    elif left:
        left[-1]["more_body"] = False
    else:
        left = [{"type": "http.request"}]
    waiting = iter(left)

    async def receive() -> Any:
        return next(waiting)

    return receive


async def _read(body: bytes, content_type: str | None = TYPE, *, bytes_max: int = BYTES_MAX, **more: str) -> Form:
    return await read_form(_headers(content_type, **more), _arriving([body]), bytes_max=bytes_max)


async def _refusal(body: bytes, content_type: str | None = TYPE, **more: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await _read(body, content_type, **more)
    assert caught.value.headers == {"connection": "close"}
    return caught.value


def _part(disposition: str, value: bytes = b"x", *headers: str) -> bytes:
    head = "\r\n".join([f"Content-Disposition: {disposition}", *headers])
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + value + b"\r\n"


def _closed(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _complete(disposition: str, value: bytes = b"x", *headers: str) -> bytes:
    return _closed(_part(disposition, value, *headers))


async def test_fields_and_files_come_out_as_they_went_in() -> None:
    body = _closed(
        _part('form-data; name="model"', b"whisper-1"),
        _part('form-data; name="file"; filename="a.wav"', b"\x00\r\n--\xff", "Content-Type: audio/wav"),
        _part('form-data; name="prompt"', "Grüße\r\n\r\n".encode()),
        _part('form-data; name="model"', b"whisper-2"),
    )
    form = await _read(body)
    assert form.fields == [("model", "whisper-1"), ("prompt", "Grüße\r\n\r\n"), ("model", "whisper-2")]
    assert form.files == [FilePart("file", "a.wav", "audio/wav", b"\x00\r\n--\xff")]
    assert form.get("model") == "whisper-2"
    assert form.get("absent") is None


async def test_lists_are_read_with_and_without_brackets_and_in_order() -> None:
    body = _closed(
        _part('form-data; name="include[]"', b"a"),
        _part('form-data; name="include"', b"b"),
        _part('form-data; name="image[]"; filename="1.png"', b"1"),
        _part('form-data; name="image"; filename="2.png"', b"2"),
        _part('form-data; name="mask"; filename="3.png"', b"3"),
    )
    form = await _read(body)
    assert form.all("include") == ["a", "b"]
    assert [file.data for file in form.files_of("image")] == [b"1", b"2"]


def test_values_read_like_a_json_body() -> None:
    fields = [("a", "1"), ("b", "2"), ("a", "3"), ("metadata[order]", "7"), ("a", "4"), ("c[d]", "5")]
    assert Form(fields).values() == {"a": ["1", "3", "4"], "b": "2", "c[d]": "5", "metadata": {"order": "7"}}
    assert Form().values() == {}


async def test_a_form_of_nothing_is_a_form() -> None:
    assert await _read(f"--{BOUNDARY}--\r\n".encode()) == Form()


async def test_what_stands_after_the_closing_boundary_is_no_part() -> None:
    form = await _read(_complete('form-data; name="a"', b"1") + _complete('form-data; name="b"', b"2"))
    assert form.fields == [("a", "1")]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        pytest.param('filename="../../etc/passwd"', "passwd", id="a path up"),
        pytest.param('filename="C:\\\\music\\\\a.mp3"', "a.mp3", id="a path with escaped backslashes"),
        pytest.param('filename="C:\\music\\b.mp3"', "b.mp3", id="a path with bare backslashes"),
        pytest.param('filename=".."', "", id="no name at all"),
        pytest.param('filename=""', "", id="empty"),
        pytest.param("filename=plain.wav", "plain.wav", id="unquoted"),
        pytest.param('filename="a;b.wav"', "a;b.wav", id="a semicolon inside"),
        pytest.param('filename="a\\"b.wav"', 'a"b.wav', id="an escaped quotation mark"),
        pytest.param('filename="a%22b%41.wav"', 'a"b%41.wav', id="a browser's quotation mark"),
        pytest.param("filename*=utf-8''gr%C3%BC%C3%9Fe.wav", "grüße.wav", id="extended"),
        pytest.param("filename=\"plain.wav\"; filename*=utf-8''other.wav", "plain.wav", id="the plain one counts"),
        pytest.param('FileName="a.wav"', "a.wav", id="in capitals"),
    ],
)
async def test_a_file_name_is_its_last_component(sent: str, kept: str) -> None:
    (file,) = (await _read(_complete(f'form-data; name="file"; {sent}'))).files
    assert file == FilePart("file", kept, "application/octet-stream", b"x")


@pytest.mark.parametrize("content_type", ["nonsense", "audio/wav\t\x01", "a/" + "b" * 300, "audio/wav; x=\x7f"])
async def test_a_content_type_unfit_for_a_header_is_replaced(content_type: str) -> None:
    (file,) = (await _read(_complete('form-data; name="f"; filename="a"', b"x", f"Content-Type: {content_type}"))).files
    assert file.content_type == "application/octet-stream"


async def test_a_file_may_be_as_large_as_the_body_a_value_may_not() -> None:
    large = b"v" * (FIELD_BYTES_MAX + 1)
    (file,) = (await _read(_complete('form-data; name="f"; filename="a"', large))).files
    assert file.data == large
    error = await _refusal(_complete('form-data; name="prompt"', large))
    assert (error.status, error.code, error.param) == (413, "request_too_large", "prompt")
    assert (await _read(_complete('form-data; name="prompt"', large[1:]))).get("prompt") == large[1:].decode()


@pytest.mark.parametrize(
    ("content_type", "more", "status", "code"),
    [
        pytest.param(None, {}, 415, "unsupported_media_type", id="no content type"),
        pytest.param("application/json", {}, 415, "unsupported_media_type", id="json"),
        pytest.param("multipart/mixed; boundary=a", {}, 415, "unsupported_media_type", id="another multipart"),
        pytest.param("multipart/form-data", {}, 400, "invalid_form", id="no boundary"),
        pytest.param("multipart/form-data; boundary=", {}, 400, "invalid_form", id="an empty boundary"),
        pytest.param("multipart/form-data; boundary=" + "a" * 71, {}, 400, "invalid_form", id="a long boundary"),
        pytest.param('multipart/form-data; boundary="a\xffb"', {}, 400, "invalid_form", id="an odd boundary"),
        pytest.param('multipart/form-data; boundary="a "', {}, 400, "invalid_form", id="a blank at the end"),
        pytest.param("multipart/form-data; boundary=a; boundary=b", {}, 400, "invalid_form", id="two boundaries"),
        pytest.param("multipart/form-data; boundary=a b", {}, 400, "invalid_form", id="a blank unquoted"),
        pytest.param(TYPE, {"content_encoding": "gzip"}, 415, "unsupported_encoding", id="compressed"),
        pytest.param(TYPE, {"content_length": "5000001"}, 413, "request_too_large", id="announced too long"),
        pytest.param(TYPE, {"content_length": "-1"}, 413, "request_too_large", id="announced oddly"),
    ],
)
async def test_a_head_that_is_no_forms_is_refused_before_the_body_is_read(
    content_type: str | None, more: dict[str, str], status: int, code: str
) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    with pytest.raises(RequestError) as caught:
        await read_form(_headers(content_type, **more), receive, bytes_max=BYTES_MAX)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.headers == {"connection": "close"}


GOOD = 'form-data; name="a"'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="no form"),
        pytest.param(_part(GOOD), id="no closing boundary"),
        pytest.param(_complete(GOOD)[:-4], id="half a closing boundary"),
        pytest.param(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"'.encode(), id="cut in a header"),
        pytest.param(_complete("form-data"), id="no name"),
        pytest.param(_complete('form-data; name=""'), id="an empty name"),
        pytest.param(_complete('form-data; name="a\nb"'), id="a line feed in a name"),
        pytest.param(_complete('form-data; name="a\x00b"'), id="a zero in a name"),
        pytest.param(_complete(f'form-data; name="{"n" * 201}"'), id="a long name"),
        pytest.param(_complete('form-data; name="f"; filename="a\nb"'), id="a line feed in a file name"),
        pytest.param(_complete('form-data; name="f"; filename="a\x00b"'), id="a zero in a file name"),
        pytest.param(_complete("form-data; name=f; filename*=utf-8''a%0D%0Ab"), id="a line break in an extended name"),
        pytest.param(_complete(f'form-data; name="f"; filename="{"n" * 256}"'), id="a long file name"),
        pytest.param(_complete('form-data; name="a"; name="b"'), id="two names"),
        pytest.param(_complete('form-data; name="a"; filename="b'), id="an open quotation"),
        pytest.param(_complete('form-data; name="a" rubbish'), id="more after a name"),
        pytest.param(_complete('attachment; name="a"'), id="another disposition"),
        pytest.param(_closed(f"--{BOUNDARY}\r\nX-Y: 1\r\n\r\nv\r\n".encode()), id="no disposition"),
        pytest.param(_closed(f"--{BOUNDARY}\r\n\r\nv\r\n".encode()), id="no header"),
        pytest.param(_complete(GOOD, b"x", f"Content-Disposition: {GOOD}"), id="two dispositions"),
        pytest.param(_complete(GOOD, b"x", "Content-Transfer-Encoding: base64"), id="an encoding inside"),
        pytest.param(_complete(GOOD, b"\xff\xfe"), id="a value not in UTF-8"),
        pytest.param(_complete(GOOD).replace(b'"a"', b'"\xff"'), id="a name not in UTF-8"),
        pytest.param(_complete(GOOD, b"x", "X: " + "h" * 9_000), id="a long header"),
        pytest.param(_complete(GOOD, b"x", *(f"X-{i}: {'h' * 1000}" for i in range(9))), id="much of headers"),
        pytest.param(_complete(GOOD, b"x", *(f"X-{i}: h" for i in range(40))), id="many headers"),
        pytest.param(_complete(GOOD, b"x", "X Y: z"), id="a header with a blank in its name"),
        pytest.param(_complete(GOOD, b"x", "no colon"), id="a header without a colon"),
        pytest.param(_complete(GOOD).replace(b"\r\n", b"\n"), id="lines without carriage returns"),
    ],
)
async def test_a_malformed_form_is_refused(body: bytes) -> None:
    error = await _refusal(body)
    assert (error.status, error.code) == (400, "invalid_form")


async def test_a_client_that_leaves_is_told_apart_from_a_form_cut_short() -> None:
    with pytest.raises(RequestError) as caught:
        await read_form(_headers(TYPE), _arriving([_part(GOOD)], leaves=True), bytes_max=BYTES_MAX)
    assert caught.value.code == "client_gone"


async def test_more_bytes_than_allowed_are_refused_whoever_announced_how_many() -> None:
    body = _complete('form-data; name="f"; filename="a"', b"x" * 100)
    assert (await _read(body, bytes_max=len(body))).files
    error = await _refusal(body, bytes_max=len(body) - 1)
    assert (error.status, error.code) == (413, "request_too_large")


async def test_the_number_of_parts_is_bounded() -> None:
    assert len((await _read(_closed(*[_part(GOOD)] * PARTS_MAX))).fields) == PARTS_MAX
    error = await _refusal(_closed(*[_part(GOOD)] * (PARTS_MAX + 1)))
    assert (error.status, error.code) == (413, "request_too_large")


async def test_data_full_of_what_looks_like_the_boundary_is_refused() -> None:
    """Each such place is walked byte by byte: megabytes of them would stop the event loop for seconds."""
    error = await _refusal(_complete('form-data; name="f"; filename="a"', f"\r\n--{BOUNDARY}x".encode() * 10_000))
    assert error.status == 413
    few = f"\r\n--{BOUNDARY}x".encode() * 5
    assert (await _read(_complete('form-data; name="f"; filename="a"', few))).files[0].data == few


async def test_blanks_after_a_boundary_are_bounded() -> None:
    first, rest = f"--{BOUNDARY}".encode(), _part(GOOD)[len(BOUNDARY) + 2 :]
    form = await _read(_closed(_part(GOOD), first + b" \t " + rest))
    assert form.fields == [("a", "x")] * 2
    chunks = [_part(GOOD) + first, *[b" " * 500] * 10, rest, _closed()]
    with pytest.raises(RequestError, match="blanks"):
        await read_form(_headers(TYPE), _arriving(chunks), bytes_max=BYTES_MAX)


async def test_a_large_file_is_held_about_once() -> None:
    size, piece = 8_000_000, 65_536
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\n'.encode()
    left = size

    async def receive() -> Any:
        nonlocal left, head
        if head:
            body, head = head, b""
            return {"type": "http.request", "body": body, "more_body": True}
        if left:
            body = bytes(min(piece, left))
            left -= len(body)
            return {"type": "http.request", "body": body, "more_body": True}
        return {"type": "http.request", "body": f"\r\n--{BOUNDARY}--\r\n".encode()}

    tracemalloc.start()
    form = await read_form(_headers(TYPE), receive, bytes_max=2 * size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(form.files[0].data) == size
    assert peak < 1.4 * size


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
NAMES = PRINTABLE.filter(lambda name: name and "%22" not in name and name.isprintable())
FILENAMES = PRINTABLE.filter(
    lambda name: not set("/\\") & set(name) and "%22" not in name and name not in (".", "..") and name.isprintable()
)
FIELDS = st.lists(st.tuples(NAMES, st.text(max_size=50)), max_size=5)
FILES = st.lists(
    st.builds(
        FilePart,
        NAMES,
        FILENAMES,
        st.sampled_from(["audio/wav", "application/octet-stream", "image/png; x=y"]),
        st.binary(max_size=200) | st.sampled_from([b"\r\n--", b"\r\n", b"--", b"\r" * 90, b"\r\n--ab\r\n\r\n"]),
    ),
    max_size=4,
)


@given(fields=FIELDS, files=FILES, seed=st.integers(0, 2**32), cuts=st.integers(0, 40))
async def test_a_written_form_is_read_back_whatever_pieces_it_comes_in(
    fields: list[tuple[str, str]], files: list[FilePart], seed: int, cuts: int
) -> None:
    body, content_type = dump_form(fields, files)
    rng = random.Random(seed)
    at = sorted(rng.randrange(len(body) + 1) for _ in range(cuts))
    chunks = [body[one:other] for one, other in zip([0, *at], [*at, len(body)], strict=True)]
    form = await read_form(_headers(content_type), _arriving(chunks), bytes_max=BYTES_MAX)
    assert form == Form(fields, files)


@given(data=st.text("\r\n-ab ", max_size=60).map(str.encode), cut=st.integers(1, 7))
async def test_data_that_resembles_a_short_boundary_is_split_alike_in_any_pieces(data: bytes, cut: int) -> None:
    head = b'--ab\r\ncontent-disposition: form-data; name="f"; filename="g"\r\n\r\n'
    body = head + data + b"\r\n--ab--"
    wanted = await _outcome([body])
    assert await _outcome([body[at : at + cut] for at in range(0, len(body), cut)]) == wanted


async def _outcome(chunks: list[bytes]) -> Any:
    try:
        return await read_form(_headers("multipart/form-data; boundary=ab"), _arriving(chunks), bytes_max=BYTES_MAX)
    except RequestError as exc:
        return exc.code


@given(body=st.binary(max_size=300), is_prefixed=st.booleans())
async def test_any_bytes_are_a_form_or_a_refusal(body: bytes, is_prefixed: bool) -> None:
    outcome = await _outcome([b"--ab\r\n" * is_prefixed + body])
    assert isinstance(outcome, Form) or outcome in ("invalid_form", "request_too_large")


async def test_what_httpx_writes_is_read() -> None:
    request = httpx.Request(
        "POST",
        "http://127.0.0.1/",
        data={"model": "m", "include[]": ["logprobs", "x"]},
        files={"file": ('grü"ße.mp3', b"ID3\x00\xff", "audio/mpeg")},
    )
    form = await _read(request.read(), request.headers["content-type"])
    assert form.fields == [("model", "m"), ("include[]", "logprobs"), ("include[]", "x")]
    assert form.files == [FilePart("file", 'grü"ße.mp3', "audio/mpeg", b"ID3\x00\xff")]


async def test_what_pythons_own_email_package_writes_is_read() -> None:
    mail = MIMEMultipart("form-data", boundary="=====42==", policy=HTTP)
    for name, value in (("model", "m"), ("prompt", "plain words")):
        part = EmailMessage(policy=HTTP)
        part.set_content(value, cte="8bit")
        part.add_header("content-disposition", "form-data", name=name)
        del part["mime-version"]
        mail.attach(part)
    file = MIMENonMultipart("audio", "wav", policy=HTTP)
    file.set_payload("RIFF")
    file.add_header("content-disposition", "form-data", name="file", filename="grüße.wav")
    mail.attach(file)
    body = mail.as_bytes().partition(b"\r\n\r\n")[2]
    form = await _read(body, mail["content-type"])
    assert [(name, value.strip()) for name, value in form.fields] == [("model", "m"), ("prompt", "plain words")]
    assert form.files == [FilePart("file", "grüße.wav", "audio/wav", b"RIFF")]


def test_each_form_has_a_boundary_of_its_own() -> None:
    (first, type1), (second, type2) = dump_form([("a", "b")], []), dump_form([("a", "b")], [])
    assert type1 != type2
    assert first != second


def test_a_file_part_does_not_show_its_data() -> None:
    assert "secret" not in repr(FilePart("f", "a.txt", "text/plain", b"secret"))
    assert "secret" not in repr(Form([("prompt", "secret")], []))
