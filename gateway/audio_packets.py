"""FLAC by its frames and Opus in Ogg by its packets: what a decoder can hear at most. Pure.

Both may write silence in a few bytes, so that no bit rate bounds them; but each frame and each packet says how many samples
it holds. In FLAC every header whose check sum is right counts, wherever it stands: no decoder finds more. In Ogg the pages
must tile the file, and every packet counts. What a container claims to last in all is not asked.

Facts: RFC 9639 (FLAC, 9.1), RFC 3533 (Ogg, 6), RFC 6716 (Opus, 3.1 and 3.2) and RFC 7845 (Opus in Ogg).
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

from gateway.audio_frames import PIECE_BYTES, found

__all__ = ["flac_seconds", "opus_seconds"]

_FLAC_HEADERS_MAX = 300_000
"""Seven hours at the usual 4 096 samples. Beyond, each `_FLAC_FRAME_BYTES_MIN` count as the longest frame there is."""
_FLAC_FRAME_BYTES_MIN = 10
_FLAC_SAMPLES_MAX = 65_536
_FLAC_HEAD = re.compile(rb"fLaC|dfLa")
_FLAC_HEAD_FIRST = ord("f")
_FLAC_HEADS_MAX = 1_000
_STREAMINFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
_FLAC_HEADER = re.compile(rb"\xff[\xf8\xf9][\x10-\xff][\x00-\xaf]")
_FLAC_BLOCK_SAMPLES = {1: 192, **{2 + n: 576 << n for n in range(4)}, **{8 + n: 256 << n for n in range(8)}}
_FLAC_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
"""By four bits; 0 for what the head of the file says. Three more stand behind the header, in 1 000, 1 and 10 hertz."""

_PACKETS_MAX = 500_000
"""Close to three hours at 20 ms. Beyond, two bytes count as the longest packet there is."""
_PACKET_MS_MAX = 120
_PAGE_BYTES_MIN = 27
_IS_CONTINUED, _IS_FIRST = 1, 2


def _crc8() -> tuple[int, ...]:
    """x^8 + x^2 + x + 1, by the next byte."""
    table = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = (rest << 1 ^ 0x07) & 0xFF if rest & 0x80 else rest << 1
        table.append(rest)
    return tuple(table)


_CRC8 = _crc8()


def flac_seconds(data: bytes) -> Fraction | None:
    """All frames there can be, bare or in any other container; None without a head that says a sample rate, or a frame."""
    stated_rate = min(_flac_stated_rates(data), default=0)
    if not stated_rate:
        return None
    samples: dict[int, int] = {}
    for tried, at in enumerate(found(_FLAC_HEADER, data, 0, len(data), width=4)):
        if tried == _FLAC_HEADERS_MAX:
            most = -(-(len(data) - at) // _FLAC_FRAME_BYTES_MIN) * _FLAC_SAMPLES_MAX
            slowest = min([stated_rate, *samples])
            samples[slowest] = samples.get(slowest, 0) + most
            break
        frame = _flac_frame(data[at : at + 16])
        if frame is not None:
            count, rate = frame
            rate = min(rate or stated_rate, stated_rate)
            samples[rate] = samples.get(rate, 0) + count
    if not samples:
        return None
    return sum((Fraction(count, rate) for rate, count in samples.items()), Fraction(0))


def _flac_stated_rates(data: bytes) -> Iterator[int]:
    """Of every STREAMINFO there is, as FLAC, Ogg and Matroska have it, and as MP4 has it."""
    for at in islice(found(_FLAC_HEAD, data, 0, len(data), width=4), _FLAC_HEADS_MAX):
        head = at + (4 if data[at] == _FLAC_HEAD_FIRST else 8)
        rate = int.from_bytes(data[head + 14 : head + 17], "big") >> 4
        if data[head : head + 4] in _STREAMINFO and rate:
            yield rate


def _flac_frame(head: bytes) -> tuple[int, int] | None:
    """Samples, and samples a second or 0, of a header whose check sum is right."""
    if len(head) < 6 or head[2] & 15 == 15 or head[3] & 1:
        return None
    block, rate = head[2] >> 4, head[2] & 15
    # The number of the frame, in up to seven bytes as UTF-8 writes them.
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    at = 4 + (ones or 1)
    block_bytes = 1 if block == 6 else 2 if block == 7 else 0
    rate_bytes = 1 if rate == 12 else 2 if rate > 12 else 0
    end = at + block_bytes + rate_bytes
    if ones in (1, 8) or end >= len(head):
        return None
    rest = 0
    for byte in head[:end]:
        rest = _CRC8[rest ^ byte]
    if rest != head[end]:
        return None
    samples = int.from_bytes(head[at : at + block_bytes], "big") + 1 if block_bytes else _FLAC_BLOCK_SAMPLES[block]
    if not rate_bytes:
        return samples, _FLAC_RATES[rate]
    return samples, int.from_bytes(head[end - rate_bytes : end], "big") * (
        1_000 if rate == 12 else 10 if rate == 14 else 1
    )


def opus_seconds(data: bytes) -> Fraction | None:
    """All packets; None if anything but Opus is there, or anything between the pages, or a page that might be read another
    way."""
    at = pages = packets = tenths_ms = 0
    size = len(data)
    is_open = False
    while at < size:
        if data[at : at + 5] != b"OggS\0" or at + _PAGE_BYTES_MIN > size:
            return None
        flags, segments = data[at + 5], data[at + 26]
        body = at + _PAGE_BYTES_MIN + segments
        if (flags & _IS_FIRST or not at) and data[body : body + 8] != b"OpusHead":
            return None
        if bool(flags & _IS_CONTINUED) != is_open:
            return None
        for lacing in data[at + _PAGE_BYTES_MIN : at + _PAGE_BYTES_MIN + segments]:
            if not is_open and lacing:
                packets += 1
                tenths_ms += _packet_tenths_ms(data[body : body + 2])
            is_open = lacing == 255
            body += lacing
        pages += 1
        if body > size:
            return None
        at = body
        if packets > _PACKETS_MAX:
            return Fraction(tenths_ms, 10_000) + Fraction((size - at) // 2 * _PACKET_MS_MAX, 1_000)
    return Fraction(tenths_ms, 10_000) if pages == _count(data, b"OggS") and packets > 2 else None


def _packet_tenths_ms(head: bytes) -> int:
    """By the first byte of a packet, and the second where that counts the frames."""
    if not head or head == b"Op":
        return 0  # the two packets at the head of a stream; as sound it would be too long to be any
    toc = head[0]
    config = toc >> 3
    if config < 12:
        frame = (100, 200, 400, 600)[config & 3]
    elif config < 16:
        frame = (100, 200)[config & 1]
    else:
        frame = (25, 50, 100, 200)[config & 3]
    frames = (1, 2, 2, head[1] & 0x3F if len(head) > 1 else 0)[toc & 3]
    return min(frame * frames, _PACKET_MS_MAX * 10)


def _count(data: bytes, word: bytes) -> int:
    """How often the word is there, looked for in pieces."""
    step = PIECE_BYTES
    return sum(data.count(word, at, at + step + len(word) - 1) for at in range(0, len(data), step))
