"""How long a file lasts at most, and likely, by its bytes."""

import io
import struct
import wave

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio_duration import Duration, duration_of, kind_of

MP3_FRAME = b"\xff\xfb\x90\x00" + bytes(413)  # 128 kbit/s, 44.1 kHz: 1152 samples in 417 bytes
LOW_FRAME = b"\xff\xf3\x18\x00" + bytes(32)  # version 2, 8 kbit/s, 16 kHz: 576 samples in 36 bytes


def wav(seconds: float, *, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(round(seconds * rate) * channels * width))
    return buffer.getvalue()


def wav_of(fmt: bytes, data: bytes, *, claims: int | None = None, before: bytes = b"") -> bytes:
    size = len(data) if claims is None else claims
    chunks = before + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def pcm(*, tag: int = 1, channels: int = 1, rate: int = 8_000, bits: int = 16, byte_rate: int | None = None) -> bytes:
    each = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * each if byte_rate is None else byte_rate, each, bits)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        pytest.param(wav(1.0), 1, id="one second"),
        pytest.param(wav(1.001), 2, id="rounded up"),
        pytest.param(wav(3600, rate=8_000, width=1), 3600, id="an hour"),
        pytest.param(wav(10, rate=48_000, channels=2, width=3), 10, id="24 bit stereo"),
        pytest.param(wav_of(pcm(tag=3, bits=32), bytes(64_000)), 2, id="floating point"),
        pytest.param(wav_of(pcm(tag=7, bits=8), bytes(16_000)), 2, id="mu-law"),
        pytest.param(wav_of(pcm(tag=0xFFFE) + bytes(8) + b"\x01\x00", bytes(16_000)), 1, id="extensible"),
        pytest.param(wav_of(pcm(), bytes(16_000), before=b"LIST\x03\x00\x00\x00abc\x00"), 1, id="an odd chunk before"),
        pytest.param(wav_of(pcm(), bytes(160_000), claims=16_000), 10, id="more than it claims"),
        pytest.param(wav_of(pcm(), bytes(16_000), claims=0xFFFFFFFF), 1, id="a stream's claim"),
        pytest.param(wav_of(pcm(byte_rate=10**9), bytes(16_000)), 1, id="a byte rate that lies"),
        pytest.param(wav_of(pcm(), b""), 1, id="no sample at all"),
    ],
)
def test_samples_in_wav_last_as_long_as_their_bytes(data: bytes, seconds: int) -> None:
    assert duration_of(data) == Duration(seconds, seconds, True)


@pytest.mark.parametrize(
    "fmt",
    [
        pytest.param(pcm(tag=2), id="ADPCM"),
        pytest.param(pcm(tag=0x55), id="MP3 inside"),
        pytest.param(pcm(rate=0), id="no sample rate"),
        pytest.param(pcm(rate=4_000_000_000, byte_rate=1), id="a sample rate nobody plays"),
        pytest.param(pcm(channels=0), id="no channel"),
        pytest.param(pcm(channels=60_000, rate=1, bits=8), id="channels nobody plays"),
        pytest.param(pcm(bits=12), id="bits nobody writes"),
        pytest.param(b"\x01\x00", id="a short format"),
    ],
)
def test_any_other_wav_is_held_by_its_size(fmt: bytes) -> None:
    data = wav_of(fmt, bytes(100_000))
    assert duration_of(data) == Duration(-(-len(data) // 1_000), -(-len(data) // 8_000), False)


def test_a_wav_without_a_format_is_held_by_its_size() -> None:
    assert not duration_of(b"RIFF\0\0\0\0WAVEdata\x10\0\0\0" + bytes(16)).is_exact
    assert not duration_of(b"RIFF\0\0\0\0WAVE").is_exact
    endless = b"RIFF\0\0\0\0WAVE" + b"JUNK\0\0\0\0" * 5_000
    assert duration_of(endless).seconds_most == -(-len(endless) // 1_000)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        # 100 x 1152 / 44100 = 2.61; 1000 x 576 / 16000 = 36
        pytest.param(MP3_FRAME * 100, 3, id="128 kbit/s"),
        pytest.param(LOW_FRAME * 1_000, 36, id="8 kbit/s"),
        pytest.param(b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(2048) + MP3_FRAME * 100, 3, id="behind a tag"),
        pytest.param(MP3_FRAME * 100 + b"TAG" + bytes(125), 3, id="before a tag"),
        # What is no frame counts by the lowest bit rate: 10 000 bytes are ten seconds more.
        pytest.param(MP3_FRAME * 100 + bytes(10_000), 13, id="and something else"),
        pytest.param(MP3_FRAME * 50 + b"\xff" * 5_000 + MP3_FRAME * 50, 8, id="with a gap"),
    ],
)
def test_mp3_is_counted_frame_by_frame(data: bytes, seconds: int) -> None:
    assert duration_of(data) == Duration(seconds, seconds, True)


def test_a_variable_bit_rate_is_no_way_around() -> None:
    """A file that begins with 128 kbit/s and goes on with 8 is as long as its frames, not as its first one says."""
    assert duration_of(MP3_FRAME * 10 + LOW_FRAME * 10_000).seconds_most == 361


@pytest.mark.parametrize(
    ("start", "kind", "lowest", "common"),
    [
        (b"fLaC", "flac", 4_000, 50_000),
        (b"OggS", "ogg", 750, 4_000),
        (b"\x1aE\xdf\xa3", "webm", 750, 4_000),
        (b"\0\0\0\x18ftypM4A ", "mp4", 1_000, 12_000),
        (b"what?", "", 750, 8_000),
    ],
)
def test_what_does_not_tell_is_held_by_its_size(start: bytes, kind: str, lowest: int, common: int) -> None:
    data = start + bytes(600_000 - len(start))
    assert kind_of(data) == kind
    assert duration_of(data) == Duration(600_000 // lowest, 600_000 // common, False)


def test_nothing_lasts_no_time() -> None:
    assert duration_of(b"") == Duration(0, 0)


@given(
    st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"ID3\x04\0\0", b"ID3\x04\0\0\0\0\0\x05", b"fLaC", b"\xff\xfb\x90\x00"]),
    st.binary(max_size=400),
)
def test_any_bytes_have_a_length_that_covers_what_is_likely(start: bytes, data: bytes) -> None:
    found = duration_of(start + data)
    assert 0 <= found.seconds_likely <= found.seconds_most
    assert (found.seconds_most > 0) == bool(start + data)
