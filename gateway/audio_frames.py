"""Frames of MPEG audio (MP3, ADTS): how long a file of them lasts, and whether bytes that should be none hide any. Pure.

A file can be written so that two decoders hear different chains of frames in it: one chain lies in the other's payload, and
which is heard depends on where a decoder starts. So only a file whose tags and frames tile it from its first byte to its
last has a length; anything else is in doubt. Facts: ISO 11172-3 and 13818-3 2.4.2.3 (frames), 13818-7 6.2 (ADTS), ID3v2.4
structure 3.1, and how FFmpeg (libavformat mp3dec.c, id3v2.c, mpegts.c; 4.x to 7.x) and minimp3 find
the first frame: both want a second one of its kind behind it.

Every search goes through `PIECE_BYTES` at a time, so that a thread that searches lets others in.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

__all__ = ["ATOMS", "PIECE_BYTES", "begins_with_frames", "found", "hides_frames", "mp3_seconds"]

PIECE_BYTES = 2**16
"""What one call into C looks through: some milliseconds at worst."""

ATOMS = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"pnot", b"udta", b"uuid"})
"""Whatever its first four bytes say, a file with one of these behind them is MP4 to some."""

_FRAMES_MAX = 500_000
"""Three hours and a half of MP3; more is in doubt."""
_RUN_FRAMES_MIN = 16
"""Of one kind, before a stitched file may go on with another: decoders look ahead ten."""
_LAST_RUN_FRAMES_MIN = 4
"""Of a file, or behind a stitch."""
_TAGS_MAX = 1_000
_TAG_BYTES_MAX = 2**23
"""Of one tag with its picture, or of all that stands behind the last frame; more is in doubt."""
_FREE_BYTES_MAX = 3 * 2_304
"""Three headers of free format and of one kind, as near as this, may be frames."""
_TRANSPORT_BYTES = 2**16
_TRANSPORT_PACKETS = (188, 192, 204)
_TRANSPORT_RUN = b"G" * 5

_BITRATES_KBPS = {
    # (is version 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two bits of the version: 1, 2 and 2.5."""


def _frames() -> dict[int, tuple[int, int, int]]:
    """Three bytes of a header: sync, version, layer, bit rate, sample rate, padding -> bytes, samples, samples a second.

    Free format has no entry: its frames say nothing about their length.
    """
    frames = {}
    for version, sample_rates in _SAMPLE_RATES.items():
        is_first = version == 3
        for layer in (1, 2, 3):
            samples = 384 if layer == 1 else 1152 if layer == 2 or is_first else 576
            slot = 4 if layer == 1 else 1
            for bitrate_index, kbps in enumerate(_BITRATES_KBPS[is_first, layer], 1):
                for rate_index, sample_rate in enumerate(sample_rates):
                    for padding in (0, 1):
                        size = (samples // 8 // slot * kbps * 1000 // sample_rate + padding) * slot
                        bits = 0xFFE000 | version << 11 | (4 - layer) << 9
                        bits |= bitrate_index << 4 | rate_index << 2 | padding << 1
                        frames[bits] = (size, samples, sample_rate)
    return frames


_CHECKED_BITS = 0xFFFEFE
"""All but the protection bit, and the private one."""
_KIND_BITS = 0xFFFE0C
"""Sync, version, layer and sample rate."""
_MODE_BITS = 0xCF
"""Of the fourth byte, what FFmpeg compares before it believes in the first frame: all but the mode's extension."""
_FRAMES = _frames()

_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")
_ADTS_SYNC = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")
_FREE_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x00-\x0b]")


def found(pattern: re.Pattern[bytes], data: bytes, start: int, end: int, *, width: int = 3) -> Iterator[int]:
    """Where the pattern of `width` bytes begins, between `start` and `end`, in order and overlapping."""
    at = start
    while at < end:
        stop = min(at + PIECE_BYTES, end)
        match = pattern.search(data, at, min(stop + width - 1, end))
        if match is None:
            at = stop
        else:
            yield match.start()
            at = match.start() + 1


def mp3_seconds(data: bytes) -> Fraction | None:
    """What every decoder hears: all frames, which with tags around them are all there is. None where that is in doubt."""
    first, end = _behind_tags(data, 0), len(data)
    if not _is_sure_start(data, first):
        return None
    counts: dict[tuple[int, int], int] = {}
    at, kind, run, walked, tags = first, 0, 0, 0, 0
    while at + 4 <= end:
        bits = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
        frame = _FRAMES.get(bits & _CHECKED_BITS)
        if frame is None:
            behind = _behind_tags(data, at)
            if behind == at or tags == _TAGS_MAX:
                break
            at, tags = behind, tags + 1
            continue
        size, samples, sample_rate = frame
        if at + size > end:
            break
        if bits & _KIND_BITS != kind:
            if 0 < run < _RUN_FRAMES_MIN:
                return None
            kind, run = bits & _KIND_BITS, 0
        run, walked = run + 1, walked + 1
        if walked > _FRAMES_MAX:
            return None
        key = (samples, sample_rate)
        counts[key] = counts.get(key, 0) + 1
        at += size
    if run < _LAST_RUN_FRAMES_MIN or end - at > _TAG_BYTES_MAX or hides_frames(data, at, end):
        return None
    sound = sum((Fraction(count * samples, rate) for (samples, rate), count in counts.items()), Fraction(0))
    # The last frame may be cut off, and still be heard.
    return sound + (Fraction(samples, sample_rate) if frame is not None and at < end else 0)


def _is_sure_start(data: bytes, first: int) -> bool:
    """Whether everybody begins with the frame at `first`: its successor is of the same kind, and nothing says that the
    file is of another container. FFmpeg asks all of them, and a transport stream needs no beginning."""
    second = _next(data, first)
    sound = second if _is_index(data, first) else first
    following = _next(data, sound)
    return (
        second > 0 < following
        and _bits(data, first) & _KIND_BITS == _bits(data, second) & _KIND_BITS == _bits(data, following) & _KIND_BITS
        and _bits(data, following) & _CHECKED_BITS in _FRAMES
        and data[sound + 3] & _MODE_BITS == data[following + 3] & _MODE_BITS
        and data[first + 4 : first + 8] not in ATOMS
        and not _has_transport_packets(data, first)
    )


def _next(data: bytes, at: int) -> int:
    """Behind the frame at `at`; 0 if there is none."""
    frame = _FRAMES.get(_bits(data, at) & _CHECKED_BITS)
    return at + frame[0] if frame else 0


def _is_index(data: bytes, at: int) -> bool:
    """Whether the frame is an encoder's table of the others, which players skip: LAME's, or Fraunhofer's. What it claims of
    them is not asked, but that it claims anything is what makes players skip it."""
    is_first_version, is_mono = data[at + 1] & 0x08 != 0, data[at + 3] >> 6 == 3
    word = at + 4 + ((17 if is_mono else 32) if is_first_version else (9 if is_mono else 17))
    if data[word : word + 4] in (b"Xing", b"Info"):
        return data[word + 7 : word + 8] > b"\0" and data[word + 7] & 1 == 1 and any(data[word + 8 : word + 12])
    word = at + 4 + 32
    return data[word : word + 6] == b"VBRI\0\1" and any(data[word + 14 : word + 18])


def _bits(data: bytes, at: int) -> int:
    """Three bytes of a header whose fourth is there too, else 0."""
    return int.from_bytes(data[at : at + 3], "big") if at + 4 <= len(data) else 0


def _behind_tags(data: bytes, at: int) -> int:
    """Behind one ID3v2 tag, which may hold a whole picture, if nobody could doubt that it is one: a version that exists, no
    footer, sizes of seven bits, a frame right behind it and none inside. Else `at` itself."""
    head = data[at : at + 10]
    if head[:3] != b"ID3" or len(head) < 10 or not 2 <= head[3] <= 4 or head[4] == 0xFF or head[5] & 0x1F:
        return at
    if max(head[6:]) >= 0x80:
        return at
    behind = at + 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    if (
        behind - at > _TAG_BYTES_MAX
        or _bits(data, behind) & _CHECKED_BITS not in _FRAMES
        or hides_frames(data, at, behind)
    ):
        return at
    return behind


def hides_frames(data: bytes, start: int, end: int, *, chained: int = 2) -> bool:
    """Whether so many frames of one kind follow each other anywhere between. Also True where that takes too long to tell,
    and, for pairs, where there may be frames of free format, whose length only the next one tells.

    Tags of text, pictures, zeros and what an encoder leaves at the end hide none.
    """
    candidates_max = min((end - start) // 8, 100_000) + 100
    for pattern in (_SYNC, _ADTS_SYNC):
        for tried, at in enumerate(found(pattern, data, start, end)):
            if tried > candidates_max or _chain(data, at, end, chained) >= chained:
                return True
    return chained == 2 and _may_hide_free_format(data, start, end)


def _may_hide_free_format(data: bytes, start: int, end: int) -> bool:
    seen: dict[int, tuple[int, int]] = {}
    for at in found(_FREE_SYNC, data, start, end):
        kind = _bits(data, at) & _KIND_BITS
        before_last, last = seen.get(kind, (-_FREE_BYTES_MAX - 1, -_FREE_BYTES_MAX - 1))
        if at - before_last <= _FREE_BYTES_MAX:
            return True
        seen[kind] = (last, at)
    return False


def begins_with_frames(data: bytes, at: int) -> bool:
    """Whether what stands there is a frame that another one follows."""
    return _chain(data, at, len(data), 2) >= 2


def _chain(data: bytes, at: int, end: int, most: int) -> int:
    """How many frames of one kind follow each other, counted up to `most`."""
    size, kind = _frame(data, at, end)
    following, count = kind, 0
    while size and following == kind and count < most:
        count += 1
        at += size
        size, following = _frame(data, at, end)
    return count


def _frame(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Bytes and kind of the frame whose header is there; (0, 0) for none."""
    if at + 7 > end:
        return 0, 0
    bits = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
    frame = _FRAMES.get(bits & _CHECKED_BITS)
    if frame is not None:
        return frame[0], bits & _KIND_BITS
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    if bits & 0xFFF600 != 0xFFF000 or size < 7:
        return 0, 0
    return size, bits & 0xFFFFFC


def _has_transport_packets(data: bytes, start: int) -> bool:
    """Whether five packets of an MPEG transport stream follow each other near the start."""
    near = data[start : start + _TRANSPORT_BYTES]
    return any(_TRANSPORT_RUN in near[phase::width] for width in _TRANSPORT_PACKETS for phase in range(width))
