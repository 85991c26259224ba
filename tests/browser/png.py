"""PNG files made smaller: at most 256 colours, packed as tightly as zlib can. For pictures of pages, which have few.

Reads what browsers write: 8 bits a channel, RGB or RGBA, not interlaced (PNG specification, third edition, 2025-06-24).
"""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

__all__ = ["with_few_colours"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}
"""Colour type -> bytes a pixel."""
_PALETTE = 3
_COLOURS_MAX = 256

Pixel = bytes


def with_few_colours(png: bytes) -> bytes:
    """The same picture with a palette. Colours beyond the 256 commonest become the nearest of these."""
    width, height, pixels = _read(png)
    palette, index = _palette_of(Counter(pixels))
    rows = bytearray()
    for top in range(0, width * height, width):
        rows.append(0)  # no filter: it helps photographs only
        rows += bytes(map(index.__getitem__, pixels[top : top + width]))
    head = struct.pack(">IIBBBBB", width, height, 8, _PALETTE, 0, 0, 0)
    parts = (b"IHDR", head), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b"")
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _read(png: bytes) -> tuple[int, int, list[Pixel]]:
    """Width, height and the pixels, three bytes each. Raises `ValueError` for a kind of PNG that browsers do not write."""
    chunks = list(_chunks(png))
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth != 8 or interlaced or kind not in _CHANNELS:
        raise ValueError(f"a PNG of {depth} bits, colour type {kind}")
    size = _CHANNELS[kind]
    raw = zlib.decompress(b"".join(data for name, data in chunks if name == b"IDAT"))
    pixels: list[Pixel] = []
    above = bytes(width * size)
    for start in range(0, height * (width * size + 1), width * size + 1):
        above = _unfiltered(raw[start], raw[start + 1 : start + 1 + width * size], above, size)
        pixels += [above[at : at + 3] for at in range(0, len(above), size)]
    return width, height, pixels


def _unfiltered(kind: int, row: bytes, above: bytes, size: int) -> bytes:
    if kind == 0:
        return row
    out = bytearray(row)
    for at, value in enumerate(row):
        left = out[at - size] if at >= size else 0
        corner = above[at - size] if at >= size else 0
        out[at] = (value + _predicted(kind, left, above[at], corner)) & 0xFF
    return bytes(out)


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 2:
        return up
    if kind == 3:
        return (left + up) // 2
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))


def _palette_of(counts: Counter[Pixel]) -> tuple[list[Pixel], dict[Pixel, int]]:
    """The commonest colours, and the number of one of them for every colour there is."""
    palette = [colour for colour, _ in counts.most_common(_COLOURS_MAX)]
    index = {colour: number for number, colour in enumerate(palette)}
    for colour in counts:
        if colour not in index:
            index[colour] = min(range(len(palette)), key=lambda number: _distance(palette[number], colour))
    return palette, index


def _distance(one: Pixel, other: Pixel) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
