"""The same request has the same fingerprint, however it arrives; another request has another one."""

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.body_hash import BodyHash, form_boundary, length_prefixed
from gateway.errors import RequestError
from gateway.multipart import FilePart, dump_form, read_form
from gateway.secrets import Secrets

HASHER = Secrets(b"root-of-the-tests-0123456789abcdef").hasher("idempotency-keys")
JSON = b"application/json"


def body_hash(pieces: Sequence[bytes], content_type: bytes, *, leaves: bool = False) -> BodyHash:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if leaves:
        messages.append({"type": "http.disconnect"})
    else:
        messages.append({"type": "http.request"})
    arriving = iter(messages)

    async def receive() -> Any:
        return next(arriving)

    return BodyHash(receive, content_type, HASHER)


def read_all(hashing: BodyHash) -> list[Any]:
    """Everything `hashed` gives, without an event loop: nothing here waits."""
    seen = []
    while not seen or seen[-1].get("more_body"):
        step = hashing.hashed()
        with pytest.raises(StopIteration) as returned:
            step.send(None)  # type: ignore[attr-defined]
        seen.append(returned.value.value)
    return seen


def fingerprint(
    pieces: Sequence[bytes], content_type: bytes = JSON, method: str = "POST", path: str = "/v1/images/edits"
) -> str:
    hashing = body_hash(pieces, content_type)
    read_all(hashing)
    return hashing.fingerprint(method, path)


def form_type(boundary: bytes) -> bytes:
    return b'multipart/form-data; boundary="%b"' % boundary


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


async def test_messages_pass_as_they_came() -> None:
    hashing = body_hash([b"one", b"", b"two"], JSON)
    seen = [await hashing.hashed() for _ in range(4)]
    assert [message.get("body") for message in seen] == [b"one", b"", b"two", None]
    assert [message.get("more_body") for message in seen] == [True, True, True, None]


async def test_a_body_that_was_not_read_to_its_end_has_no_fingerprint() -> None:
    hashing = body_hash([b"one"], JSON, leaves=True)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            hashing.fingerprint("POST", "/v1/embeddings")
        message = await hashing.hashed()
    assert message["type"] == "http.disconnect"
    with pytest.raises(RuntimeError):
        hashing.fingerprint("POST", "/v1/embeddings")


def test_a_fingerprint_is_a_digest_under_the_secret() -> None:
    first = fingerprint([b"{}"])
    assert len(bytes.fromhex(first)) == 32
    other = BodyHash(body_hash([b"{}"], JSON).hashed, JSON, Secrets(b"another root").hasher("idempotency-keys"))
    read_all(other)
    assert other.fingerprint("POST", "/v1/images/edits") != first


def test_method_path_and_body_count_each_by_itself() -> None:
    prints = [
        fingerprint([b"body"]),
        fingerprint([b"Body"]),
        fingerprint([b"body "]),
        fingerprint([b""]),
        fingerprint([b"body"], method="PUT"),
        fingerprint([b"body"], path="/v1/images/edit"),
        fingerprint([b"body"], method="POST/", path="v1/images/edits"),
    ]
    assert len(set(prints)) == len(prints)


def test_parts_put_together_can_be_taken_apart_in_one_way_only() -> None:
    assert length_prefixed(b"ab", b"c") != length_prefixed(b"a", b"bc")
    assert length_prefixed(b"ab", b"") != length_prefixed(b"ab")


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_a_body_counts_the_same_however_it_is_cut(body: bytes, places: list[int]) -> None:
    assert fingerprint(cut(body, places)) == fingerprint([body])


FEW = st.sampled_from([b"a", b"b", b"aa", b"ab", b"aba", b"abab", b"-", b"\r\n--", b"\0", b"abaab"])


@given(
    boundary=st.sampled_from([b"a", b"aa", b"ab", b"aba", b"abab", b"abaab", b"a-b"]),
    pieces=st.lists(FEW, max_size=40),
    places=st.lists(st.integers(0, 200)),
)
@example(boundary=b"aba", pieces=[b"ababa"], places=[1, 2, 3, 4])
@example(boundary=b"aa", pieces=[b"aaa"], places=[2])
def test_a_form_counts_the_same_however_it_is_cut(boundary: bytes, pieces: list[bytes], places: list[int]) -> None:
    """Boundaries that overlap with themselves, in bodies that are nearly nothing else: every cut falls into one."""
    body = b"".join(pieces)
    whole = fingerprint([body.replace(boundary, b"\0")])
    assert fingerprint([body], form_type(boundary)) == whole
    assert fingerprint(cut(body, places), form_type(boundary)) == whole
    assert fingerprint([body[at : at + 1] for at in range(len(body))], form_type(boundary)) == whole


@pytest.mark.parametrize("offset", range(-12, 3))
def test_a_boundary_across_two_slices_of_one_message_is_found(offset: int) -> None:
    boundary = b"boundary-12"
    before = b"x" * (64 * 2**10 + offset)
    assert fingerprint([before + boundary + b"after"], form_type(boundary)) == fingerprint([before + b"\0after"])


def test_a_form_sent_again_with_a_fresh_boundary_is_the_same_request() -> None:
    fields, files = [("model", "m"), ("prompt", "a cat")], [FilePart("image", "c.png", "image/png", b"\x89PNG" * 99)]
    prints = []
    for _ in range(3):
        body, content_type = dump_form(fields, files)
        prints.append(fingerprint(cut(body, [70, 200, 300]), content_type.encode()))
    other, content_type = dump_form([("model", "m"), ("prompt", "a dog")], files)
    assert len(set(prints)) == 1
    assert fingerprint([other], content_type.encode()) != prints[0]


CONTENT_TYPES = [
    pytest.param(b"multipart/form-data; boundary=abc", b"abc", id="plain"),
    pytest.param(b'multipart/form-data; boundary="a b:c"', b"a b:c", id="quoted"),
    pytest.param(b"Multipart/Form-Data ;\tBOUNDARY = abc ; charset=utf-8", b"abc", id="case and blanks"),
    pytest.param(b'multipart/form-data; charset="; boundary=no"; boundary=abc', b"abc", id="quoted elsewhere"),
    pytest.param(b'multipart/form-data; x="a\\"; boundary=no"; boundary=abc', b"abc", id="escaped elsewhere"),
    pytest.param(b"multipart/form-data; boundary=" + b"x" * 70, b"x" * 70, id="as long as may be"),
]


@pytest.mark.parametrize(("content_type", "boundary"), CONTENT_TYPES)
async def test_the_boundary_is_the_one_the_form_is_read_by(content_type: bytes, boundary: bytes) -> None:
    assert form_boundary(content_type) == boundary
    body = b'--%b\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--%b--\r\n' % (boundary, boundary)
    form = await read_form([(b"content-type", content_type)], body_hash([body], content_type).hashed, bytes_max=10_000)
    assert form.fields == [("a", "1")]


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary="a',
        b'multipart/form-data; boundary="a\\b"',
        b"multipart/form-data; boundary=a\0b",
        b"multipart/form-data; boundary=\xff",
        b"multipart/form-data; boundary=" + b"x" * 71,
        b"multipart/form-data; name boundary=a",
        b"multipart/form-data, boundary=a",
    ],
)
async def test_what_is_no_sound_form_counts_byte_for_byte_and_is_refused(content_type: bytes) -> None:
    assert form_boundary(content_type) == b""
    assert fingerprint([b"a\0b"], content_type) != fingerprint([b"\0\0b"], content_type)
    with pytest.raises(RequestError):
        await read_form([(b"content-type", content_type)], body_hash([b"a"], content_type).hashed, bytes_max=1_000)


def test_a_boundary_means_nothing_in_other_content_types() -> None:
    mixed = b"multipart/mixed; boundary=abc"
    assert form_boundary(mixed) == b""
    assert fingerprint([b"abc"], mixed) == fingerprint([b"abc"])


@pytest.mark.parametrize("content_type", [JSON, form_type(b"boundary")], ids=["raw", "form"])
def test_a_large_body_is_not_copied(content_type: bytes) -> None:
    body = b"boundary and more " * 2**20
    hashing = body_hash([body], content_type)
    tracemalloc.start()
    try:
        read_all(hashing)
        hashing.fingerprint("POST", "/v1/images/edits")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(body) // 20
