"""Forms with files (`multipart/form-data`, RFC 7578): read while they come in, and written anew for a provider.

The bytes are taken apart by python-multipart's lowest parser. What is built here are its bounds: nothing a caller sends
can hold more memory than its size (`bytes_max`), or keep the event loop busy with anything but copying. Values and files
come out as they were sent; what is sent on is never the caller's own framing, so that two parsers cannot disagree on it.

Read: 1. the head says what it is, how long, and its boundary; 2. each part's headers say its name, and whether it is a
file; 3. its bytes go into one buffer; 4. the closing boundary must have come before the body ends.
"""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState

from gateway.errors import RequestError
from gateway.responder import Header

__all__ = ["FIELD_BYTES_MAX", "PARTS_MAX", "FilePart", "Form", "dump_form", "read_form"]

PARTS_MAX = 64
"""Fields and files of one form; OpenAI's largest has sixteen images and a mask beside a dozen fields."""
FIELD_BYTES_MAX = 2**20
"""One value that is no file."""
_HEADER_BYTES_MAX = 8 * 2**10
"""All headers of one part."""
_HEADERS_MAX = 16
_NAME_CHARS_MAX = 200
_FILENAME_CHARS_MAX = 255
_CONTENT_TYPE_CHARS_MAX = 200
_PADDING_BYTES_MAX = 1_024
"""Blanks after a boundary, which are walked one by one."""
_BOUNDARY_TRIES = 8

_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, 5.1.1."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 -- RFC 9110's word for a word
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))')
_MEDIA_TYPE = re.compile(rf"({_TOKEN}/{_TOKEN})(?:[ \t]*;[\x20-\x7e]*)?")
_METADATA = re.compile(r"metadata\[([^\[\]]+)\]")
_ESCAPED = re.compile(r'\\(["\\])')
_UNENCODED = frozenset({"", "7bit", "8bit", "binary"})
"""Transfer encodings that leave the bytes as they are."""

_silent = logging.getLogger("gateway.multipart.parser")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class FilePart(NamedTuple):
    name: str
    filename: str
    """Its last path component; may be empty."""
    content_type: str
    """Fit for a header; `application/octet-stream` where none was said."""
    data: bytes

    def __repr__(self) -> str:
        """Without the data, which is a caller's own."""
        return f"FilePart(name={self.name!r}, filename={self.filename!r}, bytes={len(self.data)})"


@dataclass(slots=True)
class Form:
    fields: list[tuple[str, str]] = field(default_factory=list, repr=False)
    """In the order they were sent."""
    files: list[FilePart] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The last value of this name."""
        return next((value for key, value in reversed(self.fields) if key == name), None)

    def all(self, name: str) -> list[str]:
        """Every value of `name` and `name[]`, which is how SDKs write lists."""
        return [value for key, value in self.fields if key in (name, f"{name}[]")]

    def values(self) -> dict[str, Any]:
        """Values by name, as a JSON body would have them: a list for a name that came more than once, and an object for
        `metadata[key]`, which is how SDKs write objects."""
        found: dict[str, Any] = {}
        metadata: dict[str, str] = {}
        for name, value in self.fields:
            if label := _METADATA.fullmatch(name):
                metadata[label[1]] = value
            elif name not in found:
                found[name] = value
            elif isinstance(found[name], list):
                found[name].append(value)
            else:
                found[name] = [found[name], value]
        return found | ({"metadata": metadata} if metadata else {})

    def files_of(self, name: str) -> list[FilePart]:
        """Every file of `name` and `name[]`."""
        return [file for file in self.files if file.name in (name, f"{name}[]")]


async def read_form(headers: Sequence[Header], receive: Callable[[], Awaitable[Any]], *, bytes_max: int) -> Form:
    """The whole form. Memory: about the body once.

    Raises `RequestError`: 415 for another content type, or if it is compressed; 413 above `bytes_max` in all, 64 parts or
    1 MiB of one value; 400 for a form that is malformed or cut off.
    """
    reader = _FormReader(_boundary(headers, bytes_max))
    size = 0
    message = await receive()
    while message["type"] == "http.request":
        body = message.get("body", b"")
        size += len(body)
        if size > bytes_max:
            raise _too_large(f"The body is larger than {bytes_max} bytes.")
        reader.feed(body)
        if not message.get("more_body"):
            return reader.form()
        message = await receive()
    raise RequestError("The client left before its request was complete.", code="client_gone")


def dump_form(fields: Iterable[tuple[str, str]], files: Iterable[FilePart]) -> tuple[bytes, str]:
    """The body of a form and its content type. The boundary is random and does not occur in the data.

    Names and file names are as `read_form` gives them: printable, of one line.
    """
    pieces: list[bytes] = []
    contents: list[bytes] = []
    for name, value in fields:
        contents.append(value.encode())
        pieces.append(b'content-disposition: form-data; name="%s"\r\n\r\n' % _quoted(name))
    for file in files:
        contents.append(file.data)
        pieces.append(
            b'content-disposition: form-data; name="%s"; filename="%s"\r\ncontent-type: %s\r\n\r\n'
            % (_quoted(file.name), _quoted(file.filename), file.content_type.encode("ascii"))
        )
    boundary = _fresh_boundary(contents)
    written: list[bytes] = []
    for head, content in zip(pieces, contents, strict=True):
        written += (b"--", boundary, b"\r\n", head, content, b"\r\n")
    written += (b"--", boundary, b"--\r\n")
    return b"".join(written), f"multipart/form-data; boundary={boundary.decode()}"


class _FormReader:
    """What the parser calls back. Lifetime: one body."""

    __slots__ = (
        "_boundaries",
        "_buffer",
        "_content_type",
        "_delimiter",
        "_filename",
        "_form",
        "_header_bytes",
        "_headers",
        "_key",
        "_name",
        "_padding",
        "_parser",
        "_parts",
        "_value",
    )

    def __init__(self, boundary: bytes) -> None:
        self._form = Form()
        self._delimiter = b"\r\n--" + boundary
        self._boundaries = self._padding = self._parts = self._header_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._key = self._value = b""
        self._name = self._content_type = ""
        self._filename: str | None = None
        self._buffer = BytesIO()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_key,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
            },
            max_header_count=_HEADERS_MAX,
            max_header_size=_HEADER_BYTES_MAX,
        )
        # It warns of every malformed byte: what a caller gets wrong is told the caller.
        self._parser.logger = _silent

    def feed(self, data: bytes) -> None:
        """Raises `RequestError`."""
        self._boundaries += data.count(self._delimiter)
        if self._boundaries > 2 * PARTS_MAX:
            # Also those that only look like one: each costs the parser a walk, byte by byte.
            raise _too_large(f"The form has more than {PARTS_MAX} parts, or its boundary occurs in its data.")
        was_padding = self._parser.state == MultipartState.BOUNDARY_PADDING
        try:
            self._parser.write(data)
        except FormParserError:
            raise _malformed("The body is no well-formed multipart/form-data.") from None
        if was_padding and self._parser.state == MultipartState.BOUNDARY_PADDING:
            self._padding += len(data)
            if self._padding > _PADDING_BYTES_MAX:
                raise _malformed("A boundary of the form is followed by too many blanks.")

    def form(self) -> Form:
        """Raises `RequestError` for a body without its closing boundary."""
        if self._parser.state != MultipartState.END:
            raise _malformed("The form is incomplete: its closing boundary is missing.")
        return self._form

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise _too_large(f"The form has more than {PARTS_MAX} parts.")
        self._headers = {}
        self._header_bytes = 0
        self._key = self._value = b""
        self._buffer = BytesIO()

    def _add_header_key(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._key += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _HEADER_BYTES_MAX:
            raise _malformed(f"A part of the form has more than {_HEADER_BYTES_MAX} bytes of headers.")

    def _end_header(self) -> None:
        key = self._key.lower()
        if key in self._headers:
            raise _malformed("A part of the form has a header twice.")
        self._headers[key] = self._value
        self._key = self._value = b""

    def _end_headers(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"").strip().lower()
        if encoding.decode("latin-1") not in _UNENCODED:
            raise _malformed("A part of the form has a content-transfer-encoding; send its bytes as they are.")
        self._name, self._filename = _names(self._headers.get(b"content-disposition", b""))
        self._content_type = _content_type(self._headers.get(b"content-type", b""))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        buffer = self._buffer
        if self._filename is None and buffer.tell() + end - start > FIELD_BYTES_MAX:
            raise _too_large(f"`{self._name}` is larger than {FIELD_BYTES_MAX} bytes.", param=self._name)
        buffer.write(memoryview(data)[start:end])

    def _end_part(self) -> None:
        # A BytesIO gives its bytes away without copying them; a bytearray would hold a file twice.
        data = self._buffer.getvalue()
        self._buffer = BytesIO()
        if self._filename is not None:
            self._form.files.append(FilePart(self._name, self._filename, self._content_type, data))
            return
        try:
            self._form.fields.append((self._name, data.decode()))
        except UnicodeDecodeError:
            raise _malformed(f"`{self._name}` must be text in UTF-8.", param=self._name) from None


def _boundary(headers: Sequence[Header], bytes_max: int) -> bytes:
    """What the head of the request says; nothing of the body is read before it is known to be a form."""
    content_type = b""
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or int(value) > bytes_max:
                raise _too_large(f"The body is larger than {bytes_max} bytes.")
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise _refused("Send the body uncompressed.", status=415, code="unsupported_encoding")
        elif name == b"content-type":
            content_type = value
    kind, semicolon, _ = content_type.partition(b";")
    if kind.strip().lower() != b"multipart/form-data":
        raise _refused("Send the body as multipart/form-data.", status=415, code="unsupported_media_type")
    parameters = _parameters((semicolon + content_type[len(kind) + 1 :]).decode("latin-1"))
    boundary = ("" if parameters is None else parameters.get("boundary", "")).encode("latin-1")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed("The content-type must name the form's boundary: 1 to 70 letters, digits or marks.")
    return boundary


def _names(disposition: bytes) -> tuple[str, str | None]:
    """The name of a part, and of the file if it is one. Raises `RequestError`."""
    try:
        kind, _, _ = (text := disposition.decode()).partition(";")
    except UnicodeDecodeError:
        raise _malformed("The headers of the form's parts must be in UTF-8.") from None
    parameters = _parameters(text[len(kind) :])
    if kind.strip().lower() != "form-data" or parameters is None:
        raise _malformed("A part of the form has no sound `content-disposition: form-data` header.")
    name = parameters.get("name", "")
    if not name or len(name) > _NAME_CHARS_MAX or not name.isprintable():
        raise _malformed(f"A part of the form has no name of 1 to {_NAME_CHARS_MAX} printable characters.")
    filename = parameters.get("filename")
    if filename is None and (extended := parameters.get("filename*")) is not None:
        # Not for forms (RFC 7578, 4.2), and written all the same by some that have a name beyond ASCII.
        filename = unquote(extended.split("'", 2)[-1], errors="replace")
    return name, None if filename is None else _last_component(filename)


def _last_component(filename: str) -> str:
    last = re.split(r"[/\\]", filename)[-1].strip()
    if len(last) > _FILENAME_CHARS_MAX or not last.isprintable():
        raise _malformed(f"A file name must be at most {_FILENAME_CHARS_MAX} printable characters.")
    return "" if last in (".", "..") else last


def _parameters(text: str) -> dict[str, str] | None:
    """`; name="value"` and so on; None if it is anything else, or says a name twice."""
    found: dict[str, str] = {}
    at = 0
    while match := _PARAMETER.match(text, at):
        key, quoted, plain = match.groups()
        if key.lower() in found:
            return None
        value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        # Browsers write a quotation mark like this, and leave per cent signs alone otherwise.
        found[key.lower()] = value.replace("%22", '"')
        at = match.end()
    return found if not text[at:].strip(" \t;") else None


def _content_type(value: bytes) -> str:
    text = value.decode("latin-1").strip()
    is_sound = len(text) <= _CONTENT_TYPE_CHARS_MAX and _MEDIA_TYPE.fullmatch(text)
    return text if is_sound else "application/octet-stream"


def _quoted(name: str) -> bytes:
    return name.replace("\\", "\\\\").replace('"', "%22").encode()


def _fresh_boundary(contents: Sequence[bytes]) -> bytes:
    for _ in range(_BOUNDARY_TRIES):
        boundary = secrets.token_hex(24).encode()
        if not any(boundary in content for content in contents):
            return boundary
    raise RuntimeError("no boundary of 192 random bits was free")


def _too_large(message: str, param: str | None = None) -> RequestError:
    return _refused(message, status=413, code="request_too_large", param=param)


def _malformed(message: str, param: str | None = None) -> RequestError:
    return _refused(message, status=400, code="invalid_form", param=param)


def _refused(message: str, *, status: int, code: str, param: str | None = None) -> RequestError:
    # What is left of the body would be read as the next request.
    return RequestError(message, status=status, code=code, param=param, headers={"connection": "close"})
