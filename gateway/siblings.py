"""One page of metrics for the workers of one `serve`: whoever is asked asks the others over their control sockets."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from gateway.lock import control_socket
from gateway.sockets import socket_address

__all__ = ["Siblings", "merged"]

_WITHIN_S = 1.0
_PAGE_BYTES_MAX = 2**24
_REQUEST = b"GET /metrics HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n"


class Siblings:
    """The other workers, seen from worker `number` of `count`."""

    def __init__(self, data_dir: Path, number: int, count: int) -> None:
        self._data_dir = data_dir
        self._number = number
        self._others = [other for other in range(count) if other != number]

    async def page_with(self, own: bytes) -> bytes:
        """`own` and the others' pages in one. Who does not answer within a second is left out."""
        pages = await asyncio.gather(*(self._page_of(other) for other in self._others))
        answered = {other: page for other, page in zip(self._others, pages, strict=True) if page is not None}
        return merged(dict(sorted({self._number: own, **answered}.items())))

    async def _page_of(self, other: int) -> bytes | None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                return await _ask(control_socket(self._data_dir, other))
        except (OSError, EOFError, ValueError):  # it is being restarted, or busier than we may wait for
            return None


def merged(pages: Mapping[int, bytes]) -> bytes:
    """Texts of the exposition format as one: each family once, each sample with the label `worker`."""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for number, page in pages.items():
        told: list[bytes] = []
        samples: list[bytes] = []
        is_first = True
        for line in page.splitlines(keepends=True):
            if line.startswith(b"# HELP "):
                told, samples = families.setdefault(line.split(b" ", 3)[2], ([], []))
                is_first = not told
            if not line.startswith(b"#"):
                samples.append(_labelled(line, number))
            elif is_first:
                told.append(line)
    return b"".join(line for told, samples in families.values() for line in (*told, *samples))


def _labelled(sample: bytes, number: int) -> bytes:
    name, brace, labels = sample.partition(b"{")
    if brace and b" " not in name:
        return b'%b{worker="%d",%b' % (name, number, labels)
    name, _, value = sample.partition(b" ")
    return b'%b{worker="%d"} %b' % (name, number, value)


async def _ask(path: Path) -> bytes:
    """Raises `OSError`, `EOFError`, and `ValueError` for what is not a page."""
    # The limit of a reader is what one read may wait for, so it bounds the page.
    reader, writer = await asyncio.open_unix_connection(socket_address(path), limit=_PAGE_BYTES_MAX)
    try:
        writer.write(_REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError("no page")
        lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        (length,) = map(int, lengths)
        if length > _PAGE_BYTES_MAX:
            raise ValueError("a page too large")
        return await reader.readexactly(length)
    except asyncio.LimitOverrunError as exc:
        raise ValueError("no page") from exc
    finally:
        writer.close()
