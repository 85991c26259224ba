"""How long a file of audio lasts, as far as its bytes tell: for the price of a call before it is made, and for answers that
do not say it. Pure, without a decoder, and bounded by the size of the file.

Two figures. `seconds_most` is what a common decoder can hear at most: where the bytes fix that, exactly (samples of WAV by
their size, frames of MP3 and FLAC, packets of Opus in Ogg, whatever the headers claim beside that), else the size at the
lowest bit rate anybody uses in such a container. `seconds_likely` is the same where it is exact, else the size at a common
bit rate; it is good for a guess, never for a bill. What a container claims to last is not asked: the caller wrote it. A file
that two decoders might take for two things is not exact.

Bit rates, in bytes a second (lowest, common):
- Ogg 250 and 4 000: Speex goes down to 2.15 kbit/s; browsers record Opus at 32 kbit/s and more;
- FLAC 500 and 50 000, where its frames cannot be told; the common one is halved 16 bit at 48 kHz mono;
- MP4, M4A 500 and 12 000: AMR in 3GP has 4.75 kbit/s, voice recorders 96;
- WebM 500 and 4 000: Opus goes down to 6 kbit/s (RFC 6716, 2.1.1);
- MP3 whose frames leave a doubt 500 and 8 000: free format may be below the 8 kbit/s of the table;
- WAV with any other coding 500 and 8 000: G.723.1 has 5.3 kbit/s;
- anything else 500 and 8 000.

Silence may be coded in less (but FLAC is looked for everywhere), and MP4 may name the same bytes many times over: of those only the provider's report tells.
How FFmpeg reads WAV and what it takes for something else: libavformat wavdec.c, riffdec.c, spdifdec.c, act.c and mov.c.
"""

from fractions import Fraction
from typing import NamedTuple

from gateway.audio_frames import ATOMS, begins_with_frames, hides_frames, mp3_seconds
from gateway.audio_packets import flac_seconds, opus_seconds

__all__ = ["Duration", "duration_of", "kind_of"]

_CHUNKS_MAX = 1_000
"""Of a WAV."""
_SAMPLE_BITS = {1: (8, 16, 24, 32), 3: (32, 64), 6: (8,), 7: (8,)}
"""Of samples that each have their place: integers, floating point, A-law and µ-law."""
_FORMAT_BYTES_MAX = 64
_CHANNELS_MAX = 8
_SAMPLE_RATE_MAX = 192_000
_EXTENSIBLE = 0xFFFE
_EXTENSIBLE_TAIL = bytes.fromhex("000000001000800000aa00389b71")
"""Behind the two bytes of a tag, in the GUID that stands for it."""
_OTHER_FORMATS = frozenset({b"XMA2", b"SMV0"})
"""Chunks that say another coding than `fmt ` does."""
_PROBED_BYTES = 2**19
"""Of samples, what a decoder may look through for something else that is packed as samples."""
_PACKED = tuple(
    map(bytes.fromhex, ("0b77", "770b", "7ffe8001", "fe7f0180", "1fffe800", "ff1f00e8", "56e0", "f8726fba"))
)
"""How AC-3, DTS, LATM and TrueHD begin."""
_PACKED_MAX = 2
_PACKED_ANYWHERE = tuple(map(bytes.fromhex, ("72f81f4e", "f8724e1f", "7ffe8001", "fe7f0180", "1fffe800", "ff1f00e8")))
"""How each burst of IEC 61937 and each frame of DTS begins; decoders want more than one, and so may sound that is clipped."""
_FRAMES_IN_SAMPLES = 16
"""Of MPEG audio, one behind the other: no sound looks like that by chance."""
_BYTES_PER_SECOND = {
    "flac": (500, 50_000),
    "mp4": (500, 12_000),
    "ogg": (250, 4_000),
    "webm": (500, 4_000),
    "mp3": (500, 8_000),
    "wav": (500, 8_000),
    "": (500, 8_000),
}


class Duration(NamedTuple):
    """In whole seconds, rounded up; 0 for an empty file only."""

    seconds_most: int
    seconds_likely: int
    is_exact: bool = True
    """Both are what the bytes fix."""


def kind_of(data: bytes) -> str:
    """What the file is by its first bytes: `wav`, `flac`, `ogg`, `webm`, `mp4`, `mp3`; empty if it is nothing we know."""
    if data[4:8] in ATOMS:
        return "mp4"
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "wav"
    for start, kind in ((b"fLaC", "flac"), (b"OggS", "ogg"), (b"\x1aE\xdf\xa3", "webm"), (b"ID3", "mp3")):
        if data.startswith(start):
            return kind
    return "mp3" if begins_with_frames(data, 0) and data[1] & 0x06 else ""


def duration_of(data: bytes) -> Duration:
    """How long the file lasts at most, and most likely.

    Takes up to 1 µs for each frame, packet or place that looks like one: milliseconds for 32 KiB, and for a large file
    seconds at worst. Such belong into a thread; no step of it keeps others waiting.
    """
    if not data:
        return Duration(0, 0)
    kind = kind_of(data)
    reader = _READERS.get(kind)
    exact = reader(data) if reader else None
    if exact is not None:
        seconds = max(1, -(-exact.numerator // exact.denominator))
        return Duration(seconds, seconds)
    lowest, common = _BYTES_PER_SECOND[kind]
    # Silence in FLAC has no lowest bit rate, and every container may hold it.
    packed = flac_seconds(data) or Fraction(0)
    most = max(-(-len(data) // lowest), -(-packed.numerator // packed.denominator))
    return Duration(most, -(-len(data) // common), False)


# WAV


def _pcm_seconds(data: bytes) -> Fraction | None:
    """All that follows the head of the first data, whatever length it claims and whatever chunks are in it. None if it is no
    plain PCM, or if not all would read the same format: the first of two, the last, or one behind the data."""
    at, start = 12, 0
    bytes_per_second = 0
    for _ in range(_CHUNKS_MAX):
        if at + 8 > len(data):
            break
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            if bytes_per_second or start:
                return None
            bytes_per_second = _pcm_bytes_per_second(data[at : at + min(size, _FORMAT_BYTES_MAX)])
        elif name in _OTHER_FORMATS:
            return None
        elif name == b"data" and not start:
            start = at
            if not size:
                break  # a stream that did not know
        at += size
        if size % 2 and not start and data[at : at + 1] != b"\0":
            return None  # not everybody skips the byte that fills up a chunk: it must not begin another
        at += size % 2
    if not bytes_per_second or not start or _is_something_else(data, start):
        return None
    return Fraction(len(data) - start, bytes_per_second)


def _pcm_bytes_per_second(chunk: bytes) -> int:
    """By the smallest sample anybody could take out of it; 0 if decoders might disagree on more than that."""
    if len(chunk) < 16:
        return 0
    tag, channels = int.from_bytes(chunk[:2], "little"), int.from_bytes(chunk[2:4], "little")
    sample_rate, block_bytes = int.from_bytes(chunk[4:8], "little"), int.from_bytes(chunk[12:14], "little")
    bits = int.from_bytes(chunk[14:16], "little")
    if tag == _EXTENSIBLE:
        valid_bits, tag = int.from_bytes(chunk[18:20], "little"), int.from_bytes(chunk[24:26], "little")
        is_whole = len(chunk) >= 40 and chunk[16] >= 22 and chunk[26:40] == _EXTENSIBLE_TAIL
        if not is_whole or (valid_bits and -(-valid_bits // 8) * 8 != bits):
            return 0  # some take the valid bits for the size of a sample
    if bits not in _SAMPLE_BITS.get(tag, ()) or block_bytes != channels * bits // 8:
        return 0
    if not 1 <= channels <= _CHANNELS_MAX or not 1 <= sample_rate <= _SAMPLE_RATE_MAX:
        return 0  # no decoder plays this, or not as it says
    return block_bytes * sample_rate


def _is_something_else(data: bytes, start: int) -> bool:
    """Whether a decoder might play what is packed as samples, at that coding's own rate."""
    probed = data[start : start + _PROBED_BYTES]
    first = start + len(probed) - len(probed.lstrip(b"\0"))
    if data.startswith(_PACKED, first) or begins_with_frames(data, first):
        return True
    if any(probed.count(word) >= _PACKED_MAX for word in _PACKED_ANYWHERE) or (
        data[256:257] == b"\x84" and not any(data[44:256])
    ):
        return True  # the last one is a voice recorder's G.729, behind the head of a WAV
    return hides_frames(data, start, start + len(probed), chained=_FRAMES_IN_SAMPLES)


_READERS = {"flac": flac_seconds, "mp3": mp3_seconds, "ogg": opus_seconds, "wav": _pcm_seconds}
