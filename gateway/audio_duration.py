"""How long a file of audio lasts, as far as its bytes tell: for the price of a call before it is made, and for answers that
do not say it. Pure, without a decoder, and bounded by the size of the file.

Two figures. `seconds_most` is what the file can last at most: where its bytes fix that, exactly (samples in WAV by their
size, MP3 frame by frame, whatever the headers claim beside that), else its size at the lowest bit rate anybody uses in such
a container. `seconds_likely` is the same where it is exact, else the size at a common bit rate. What a container claims to
last (in FLAC, MP4, Ogg) is not asked: the caller wrote it.

Bit rates, in bytes a second (lowest, common):
- FLAC 4 000 and 50 000: speech at 8 kHz mono, and halved 16 bit at 48 kHz mono;
- MP4, M4A 1 000 and 12 000: HE-AAC, and voice recorders' 96 kbit/s;
- Ogg, WebM 750 and 4 000: Opus goes down to 6 kbit/s (RFC 6716, 2.1.1), browsers record at 32 kbit/s and more;
- WAV with any other coding 1 000 and 8 000: below GSM's 13 kbit/s, and ADPCM of speech;
- anything else 750 and 8 000.
"""

from fractions import Fraction
from typing import NamedTuple

__all__ = ["Duration", "duration_of", "kind_of"]

_MP3_LOWEST = 1_000
"""Bytes a second of the lowest bit rate of any layer: what is no frame that we know is counted as if it were one."""
_FRAMES_MAX = 1_000_000
"""Seven hours of MP3; what follows counts by `_MP3_LOWEST`."""
_CHUNKS_MAX = 1_000
"""Of a WAV, before its data."""
_SAMPLE_BITS = {1: (8, 16, 24, 32), 3: (32, 64), 6: (8,), 7: (8,)}
"""Of samples that each have their place: integers, floating point, A-law and µ-law."""
_CHANNELS_MAX = 32
_SAMPLE_RATE_MAX = 768_000
_EXTENSIBLE = 0xFFFE
_BYTES_PER_SECOND = {
    "flac": (4_000, 50_000),
    "mp4": (1_000, 12_000),
    "ogg": (750, 4_000),
    "webm": (750, 4_000),
    "wav": (1_000, 8_000),
    "": (750, 8_000),
}

_BITRATES_KBPS = {
    # (is version 1, layer): ISO 11172-3 2.4.2.3 and 13818-3 2.4.2.3
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""By the two bits of the version: 1, 2 and 2.5."""


class Duration(NamedTuple):
    """In whole seconds, rounded up; 0 for an empty file only."""

    seconds_most: int
    seconds_likely: int
    is_exact: bool = True
    """Both are what the bytes fix."""


def kind_of(data: bytes) -> str:
    """What the file is by its first bytes: `wav`, `flac`, `ogg`, `webm`, `mp4`, `mp3`; empty if it is nothing we know."""
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    for start, kind in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "webm"), (b"ID3", "mp3")):
        if data.startswith(start):
            return kind
    if data[4:8] == b"ftyp":
        return "mp4"
    return "mp3" if len(data) > 3 and _header(data, 0) in _FRAMES else ""


def duration_of(data: bytes) -> Duration:
    """How long the file lasts at most, and most likely. Of a large MP3 it takes a while: some 0.3 µs a frame."""
    if not data:
        return Duration(0, 0)
    kind = kind_of(data)
    exact = _mp3_seconds(data) if kind == "mp3" else _pcm_seconds(data) if kind == "wav" else None
    if exact is not None:
        seconds = max(1, -(-exact.numerator // exact.denominator))
        return Duration(seconds, seconds)
    lowest, common = _BYTES_PER_SECOND[kind]
    return Duration(-(-len(data) // lowest), -(-len(data) // common), False)


# WAV


def _pcm_seconds(data: bytes) -> Fraction | None:
    """All that follows the head of the data, whatever length it claims; None if it is no plain PCM."""
    at = 12
    frame_bytes = sample_rate = 0
    for _ in range(_CHUNKS_MAX):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if len(name) < 4:
            return None
        at += 8
        if name == b"fmt ":
            found = _pcm_format(data[at : at + size])
            if found is None:
                return None
            frame_bytes, sample_rate = found
        elif name == b"data":
            break
        at += size + size % 2
    if not frame_bytes:
        return None
    return Fraction(max(0, len(data) - at), frame_bytes * sample_rate)


def _pcm_format(chunk: bytes) -> tuple[int, int] | None:
    """Bytes of one sample of all channels, and samples a second."""
    if len(chunk) < 16:
        return None
    tag, channels = int.from_bytes(chunk[:2], "little"), int.from_bytes(chunk[2:4], "little")
    sample_rate, bits = int.from_bytes(chunk[4:8], "little"), int.from_bytes(chunk[14:16], "little")
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(chunk[24:26], "little")
    if bits not in _SAMPLE_BITS.get(tag, ()):
        return None
    if not 1 <= channels <= _CHANNELS_MAX or not 1 <= sample_rate <= _SAMPLE_RATE_MAX:
        return None  # no decoder plays this, or not as it says
    return channels * bits // 8, sample_rate


# MP3


def _frames() -> dict[int, tuple[int, int, int]]:
    """Three bytes of a header: sync, version, layer, bit rate, sample rate, padding -> bytes, samples, samples a second.

    Free format has no entry: its frames say nothing about their length.
    """
    found = {}
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
                        found[bits] = (size, samples, sample_rate)
    return found


_CHECKED_BITS = 0xFFFEFE
"""All but the protection bit, and the private one."""
_FRAMES = _frames()


def _header(data: bytes, at: int) -> int:
    return (data[at] << 16 | data[at + 1] << 8 | data[at + 2]) & _CHECKED_BITS


def _mp3_seconds(data: bytes) -> Fraction:
    """Frame by frame. Bytes between frames are counted at the lowest bit rate: a decoder may find more in them than we."""
    at, end = _first_after_tags(data), len(data)
    if data[-128:-125] == b"TAG":
        end -= 128
    counts: dict[tuple[int, int], int] = {}
    between = walked = 0
    frames = _FRAMES
    while at + 4 <= end and walked < _FRAMES_MAX:
        frame = frames.get((data[at] << 16 | data[at + 1] << 8 | data[at + 2]) & _CHECKED_BITS)
        walked += 1
        if frame is None:
            following = data.find(b"\xff", at + 1, end)
            following = end if following < 0 else following
            between += following - at
            at = following
            continue
        size, samples, sample_rate = frame
        key = (samples, sample_rate)
        counts[key] = counts.get(key, 0) + 1
        at += size
    between += max(0, end - at)
    sound = sum((Fraction(count * samples, rate) for (samples, rate), count in counts.items()), Fraction(0))
    return sound + Fraction(between, _MP3_LOWEST)


def _first_after_tags(data: bytes) -> int:
    """Behind the ID3v2 tag at the beginning, which may hold a whole picture."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return min(len(data), 10 + size)
