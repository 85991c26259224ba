"""How long a file lasts at most, and likely, by its bytes."""

import io
import re
import struct
import wave
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import audio_frames, audio_packets
from gateway.audio_duration import Duration, duration_of, kind_of

MP3_FRAME = b"\xff\xfb\x90\x00" + bytes(413)  # 128 kbit/s, 44.1 kHz: 1152 samples in 417 bytes
TAG = b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(2048)
INDEX_FRAME = (b"\xff\xf3\x88\xc0" + bytes(9) + b"Info\x00\x00\x00\x0f\x00\x00\x00\x01").ljust(288, b"\0")
LOW_FRAME = b"\xff\xf3\x18\x00" + bytes(32)  # version 2, 8 kbit/s, 16 kHz: 576 samples in 36 bytes


QUIET = b"".join(struct.pack("<h", (n * n + 13 * n) % 211 * (n % 7) % 61 - 30) for n in range(40_000))


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


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data


def pcm(*, tag: int = 1, channels: int = 1, rate: int = 8_000, bits: int = 16, byte_rate: int | None = None) -> bytes:
    each = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * each if byte_rate is None else byte_rate, each, bits)


def extensible(*, bits: int = 16, valid_bits: int = 16, guid: str = "0100000000001000800000aa00389b71") -> bytes:
    return pcm(tag=0xFFFE, bits=bits) + struct.pack("<HHI", 22, valid_bits, 4) + bytes.fromhex(guid)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        pytest.param(wav(1.0), 1, id="one second"),
        pytest.param(wav(1.001), 2, id="rounded up"),
        pytest.param(wav(3600, rate=8_000, width=1), 3600, id="an hour"),
        pytest.param(wav(10, rate=48_000, channels=2, width=3), 10, id="24 bit stereo"),
        pytest.param(wav_of(pcm(tag=3, bits=32), bytes(64_000)), 2, id="floating point"),
        pytest.param(wav_of(pcm(tag=7, bits=8), bytes(16_000)), 2, id="mu-law"),
        pytest.param(wav_of(extensible(), bytes(16_000)), 1, id="extensible"),
        pytest.param(wav_of(extensible(valid_bits=12), bytes(16_000)), 1, id="valid bits of the same bytes"),
        pytest.param(wav_of(pcm(), bytes(16_000), before=b"LIST\x03\x00\x00\x00abc\x00"), 1, id="an odd chunk before"),
        pytest.param(wav_of(pcm(), bytes(160_000), claims=16_000), 10, id="more than it claims"),
        pytest.param(wav_of(pcm(), bytes(16_000), claims=0xFFFFFFFF), 1, id="a stream's claim"),
        pytest.param(wav_of(pcm(byte_rate=10**9), bytes(16_000)), 1, id="a byte rate that lies"),
        pytest.param(wav_of(pcm(), b""), 1, id="no sample at all"),
        pytest.param(wav_of(pcm(), bytes(160_000), claims=0), 10, id="a stream that did not know"),
        pytest.param(wav_of(pcm(), bytes(1_600)) + chunk(b"data", bytes(158_392)), 10, id="several data"),
        pytest.param(b"RF64" + wav_of(pcm(), bytes(160_000), claims=0xFFFFFFFF)[4:], 10, id="RF64"),
        pytest.param(wav_of(pcm(), QUIET), 5, id="quiet sound, full of what looks like headers of frames"),
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
        pytest.param(pcm()[:12] + b"\x04\x00" + pcm()[14:], id="a block that lies"),
        pytest.param(extensible(bits=32, valid_bits=8), id="valid bits that some take for the size"),
        pytest.param(extensible(guid="01000000" + "00" * 12), id="a GUID of another coding"),
        pytest.param(pcm(tag=0xFFFE) + bytes(8) + b"\x01\x00", id="a short extension"),
    ],
)
def test_any_other_wav_is_held_by_its_size(fmt: bytes) -> None:
    data = wav_of(fmt, bytes(100_000))
    assert duration_of(data) == Duration(-(-len(data) // 500), -(-len(data) // 8_000), False)


def test_a_wav_without_a_format_is_held_by_its_size() -> None:
    assert not duration_of(b"RIFF\0\0\0\0WAVEdata\x10\0\0\0" + bytes(16)).is_exact
    assert not duration_of(b"RIFF\0\0\0\0WAVE").is_exact
    endless = b"RIFF\0\0\0\0WAVE" + b"JUNK\0\0\0\0" * 5_000
    assert duration_of(endless).seconds_most == -(-len(endless) // 500)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        # 100 x 1152 / 44100 = 2.61; 1000 x 576 / 16000 = 36
        pytest.param(MP3_FRAME * 100, 3, id="128 kbit/s"),
        pytest.param(LOW_FRAME * 1_000, 36, id="8 kbit/s"),
        pytest.param(b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(2048) + MP3_FRAME * 100, 3, id="behind a tag"),
        pytest.param(MP3_FRAME * 100 + b"TAG" + bytes(125), 3, id="before a tag"),
        pytest.param(MP3_FRAME * 100 + b"APETAGEX" + bytes(24) + b"TAG" + bytes(125), 3, id="before two tags"),
        pytest.param(MP3_FRAME * 100 + bytes(10_000), 3, id="and nothing else"),
        pytest.param(INDEX_FRAME + LOW_FRAME * 1_000, 37, id="behind an encoder's index"),
        pytest.param(MP3_FRAME * 50 + TAG + LOW_FRAME * 1_000, 38, id="stitched"),
        pytest.param(MP3_FRAME * 100 + MP3_FRAME[:300], 3, id="cut off"),
    ],
)
def test_mp3_is_counted_frame_by_frame(data: bytes, seconds: int) -> None:
    assert duration_of(data) == Duration(seconds, seconds, True)


def test_a_variable_bit_rate_is_no_way_around() -> None:
    """A file that begins with 128 kbit/s and goes on with 8 is as long as its frames, not as its first one says."""
    assert duration_of(MP3_FRAME * 20 + LOW_FRAME * 10_000) == Duration(361, 361)


@pytest.mark.parametrize(
    ("start", "kind", "lowest", "common"),
    [
        (b"fLaC", "flac", 500, 50_000),
        (b"OggS", "ogg", 250, 4_000),
        (b"\x1aE\xdf\xa3", "webm", 500, 4_000),
        (b"\0\0\0\x18ftypM4A ", "mp4", 500, 12_000),
        (b"what?", "", 500, 8_000),
    ],
)
def test_what_does_not_tell_is_held_by_its_size(start: bytes, kind: str, lowest: int, common: int) -> None:
    data = start + bytes(600_000 - len(start))
    assert kind_of(data) == kind
    assert duration_of(data) == Duration(600_000 // lowest, 600_000 // common, False)


# Files that two decoders hear as two things. What each of them is to FFmpeg 8 was tried.

DEAR = pcm(channels=8, rate=192_000, bits=32)
CHEAP = pcm(bits=8)
SOUND = LOW_FRAME * 1_000  # 36 seconds, and a fraction of one as samples of `DEAR`
TRANSPORT = (b"G" + bytes(187)) * 400


def low_tag(head: bytes) -> bytes:
    return b"ID3" + head + bytes(20) + SOUND


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(wav_of(DEAR, bytes(100_000), before=chunk(b"fmt ", CHEAP)), id="two formats"),
        pytest.param(wav_of(CHEAP, bytes(100_000)) + chunk(b"fmt ", DEAR), id="a format behind the data"),
        pytest.param(wav_of(DEAR, bytes(100_000), before=chunk(b"XMA2", CHEAP)), id="another coding's format"),
        pytest.param(wav_of(DEAR, bytes(100_000), before=chunk(b"LIST", b"odd") + b"f"), id="a chunk in the filling"),
        pytest.param(wav_of(DEAR, SOUND), id="MP3 as samples"),
        pytest.param(wav_of(DEAR, bytes(400) + SOUND), id="MP3 behind silence as samples"),
        pytest.param(wav_of(DEAR, LOW_FRAME * 7 + b"abcd" * 999), id="a little MP3 as samples"),
        pytest.param(wav_of(DEAR, b"abcd" * 99 + SOUND), id="MP3 among samples"),
        pytest.param(wav_of(DEAR, (b"\xff\xf1\x60\x40\x02\x1f\xfc" + bytes(9)) * 999), id="ADTS as samples"),
        pytest.param(wav_of(DEAR, b"\x0b\x77" + bytes(100_000)), id="AC-3 as samples"),
        pytest.param(wav_of(DEAR, (b"\x72\xf8\x1f\x4e" + bytes(6_140)) * 9), id="bursts as samples"),
        pytest.param(wav_of(DEAR, bytes(212) + b"\x84" + bytes(100_000)), id="a voice recorder's"),
        pytest.param(b"RIFFmoov" + wav_of(DEAR, bytes(100_000))[8:], id="WAV that is MP4"),
        pytest.param(low_tag(b"\x04\x00\x00\xff\xff\xff\xff"), id="a tag of eight bits"),
        pytest.param(b"ID3\x04\x00\x00\x00\x00\x00\x94" + bytes(148) + SOUND, id="a tag of eight bits that fits"),
        pytest.param(low_tag(b"\x04\x00\x00\x7f\x7f\x7f\x7f"), id="a tag that claims all"),
        pytest.param(low_tag(b"\x04\x00\x10\x00\x00\x00\x14"), id="a tag with a footer"),
        pytest.param(low_tag(b"\x05\x00\x00\x00\x00\x00\x14"), id="a tag of no version"),
        pytest.param(
            b"ID3\x04\x00\x00\x00\x02\x19\x20" + SOUND + MP3_FRAME * 20,
            id="a tag that holds the sound",
        ),
        pytest.param(MP3_FRAME * 20 + b"x" + SOUND, id="frames behind a gap"),
        pytest.param(MP3_FRAME * 10 + SOUND, id="kinds that change too soon"),
        pytest.param((MP3_FRAME + LOW_FRAME) * 1_000, id="kinds that take turns"),
        pytest.param(MP3_FRAME[:3] + b"\xc0" + MP3_FRAME[4:] + MP3_FRAME * 99, id="a first frame nobody believes in"),
        pytest.param(MP3_FRAME * 20 + (b"\xff\xf3\x08\x00" + bytes(30)) * 999, id="free format behind frames"),
        pytest.param((b"\xff\xf3\x08\x00" + bytes(30)) * 999, id="free format"),
        pytest.param(bytes(100) + SOUND, id="zeros before"),
        pytest.param(b"\xff\xfb\x90\x00moov" + bytes(409) + MP3_FRAME * 99, id="MP3 that is MP4"),
        pytest.param(TAG + b"\xff\xfb\x90\x00moov" + bytes(409) + MP3_FRAME * 99, id="MP3 that is MP4 behind a tag"),
        pytest.param(
            b"".join(MP3_FRAME[:4] + TRANSPORT[at + 4 : at + 417] for at in range(0, 70_000, 417)),
            id="MP3 that is MPEG-TS",
        ),
        pytest.param(b"OggS\0\x02" + bytes(20) + b"\x01\x1e\x01vorbis" + bytes(23), id="Vorbis"),
        pytest.param(b"fLaC\x80\0\0\x22" + bytes(40_000), id="FLAC of no sample rate"),
    ],
)
def test_a_file_that_may_be_heard_as_another_is_held_and_billed_by_its_size(data: bytes) -> None:
    found = duration_of(data)
    assert not found.is_exact
    assert found.seconds_most >= len(data) // 500


@pytest.mark.parametrize(
    "junk", [b"\xff\xfb\x90\x00" * 2**18, b"\xff" * 2**23 + b"\0"], ids=["too many lookalikes", "too much"]
)
def test_junk_is_not_searched_for_ever(junk: bytes) -> None:
    """No frame follows another in it, which would take too long to tell: some of it would not be in doubt."""
    assert duration_of(MP3_FRAME * 20 + junk[:100_000]).is_exact == (junk[0] == junk[1])
    assert not duration_of(MP3_FRAME * 20 + junk).is_exact
    assert not duration_of(b"ID3\x04\0\0\0\0\0\0" + junk).is_exact


class Counting:
    """A pattern that notes how much each search may look through."""

    def __init__(self) -> None:
        self.pattern = re.compile(rb"\xff[\xe2-\xff]\x00")
        self.widths: list[int] = []

    def search(self, data: bytes, start: int, end: int) -> re.Match[bytes] | None:
        self.widths.append(end - start)
        return self.pattern.search(data, start, end)


def test_a_search_goes_through_a_piece_at_a_time_and_misses_nothing_between_them() -> None:
    """A search holds all threads up until it returns."""
    data = bytearray(b"\xff" * 2**20)
    edges = [audio_frames.PIECE_BYTES - 2, audio_frames.PIECE_BYTES * 3 - 3, 2**20 - 3]
    for at in edges:
        data[at + 2] = 0
    counting = Counting()
    assert list(audio_frames.found(cast(Any, counting), bytes(data), 0, len(data))) == edges
    assert max(counting.widths) <= audio_frames.PIECE_BYTES + 2


# FLAC and Opus, whose silence has no lowest bit rate


def crc8(data: bytes) -> int:
    rest = 0
    for bit in (byte >> shift & 1 for byte in data for shift in range(7, -1, -1)):
        top = rest >> 7 ^ bit
        rest = (rest << 1 & 0xFF) ^ (0x07 if top else 0)
    return rest


def flac_frame(samples: int, number: int = 0, *, rate: bytes = b"\x00", hertz: bytes = b"") -> bytes:
    coded = bytes([number]) if number < 128 else bytes([0xC0 | number >> 6, 0x80 | number & 63])
    head = bytes([0xFF, 0xF8, 0x70 | rate[0], 0x08]) + coded + struct.pack(">H", samples - 1) + hertz
    return head + bytes([crc8(head)]) + bytes(4)


def flac(*frames: bytes, rate: int = 8_000) -> bytes:
    return b"fLaC\x80\0\0\x22" + bytes(10) + (rate << 12).to_bytes(4, "big") + bytes(20) + b"".join(frames)


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        pytest.param(flac(*(flac_frame(65_536, n) for n in range(500))), 4_096, id="silence"),
        pytest.param(flac(flac_frame(4_000)), 1, id="one frame"),
        pytest.param(
            flac(flac_frame(8_000, rate=b"\x0d", hertz=b"\x00\x10")), 500, id="a frame with a rate of its own"
        ),
        pytest.param(flac(flac_frame(8_000), flac_frame(8_000)[:7], bytes(99)), 1, id="a header without its sum"),
        pytest.param(flac(flac_frame(8_000), b"OggS", flac_frame(8_000)), 2, id="anything between"),
    ],
)
def test_flac_is_counted_frame_by_frame(data: bytes, seconds: int) -> None:
    assert duration_of(data) == Duration(seconds, seconds)


@pytest.mark.parametrize("before", [b"ID3\x04\0\0\0\0\0\x0a" + bytes(10), b"\0\0\0\x18ftypM4A ", b"\x1aE\xdf\xa3"])
def test_silence_in_flac_is_found_in_any_container(before: bytes) -> None:
    found = duration_of(before + flac(*(flac_frame(65_536, n) for n in range(500))))
    assert (found.seconds_most, found.is_exact) == (4_096, False)


def test_more_headers_than_can_be_looked_at_count_as_the_longest_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_packets, "_FLAC_HEADERS_MAX", 3)
    frames = [flac_frame(65_536, n) for n in range(9)]
    assert duration_of(flac(*frames)).seconds_most >= 9 * 65_536 // 8_000
    monkeypatch.setattr(audio_packets, "_PACKETS_MAX", 3)
    assert duration_of(opus(*[[b"\x0b\x06"] * 9] * 9)).seconds_most >= 81 * 0.12


def page(packets: list[bytes], *, flags: int = 0) -> bytes:
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    return b"OggS\0" + bytes([flags]) + bytes(20) + bytes([len(lacing)]) + lacing + b"".join(packets)


def opus(*pages: list[bytes]) -> bytes:
    head = page([b"OpusHead\x01\x01" + bytes(9)], flags=2) + page([b"OpusTags" + bytes(8)])
    return head + b"".join(map(page, pages))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        pytest.param(opus([b"\x08" + bytes(40)] * 50), 1, id="a frame of 20 ms each"),
        pytest.param(opus([b"\x08" + bytes(300)] * 100), 2, id="long packets"),
        pytest.param(opus([b"\x19\x00"] * 50), 6, id="two frames of 60 ms each"),
        pytest.param(opus(*[[b"\x0b\x06"] * 100] * 10), 120, id="silence in two bytes"),
        pytest.param(opus([b"\xe3\x3f"] * 64), 8, id="63 frames, which are too many"),
        pytest.param(opus([b"\xe0"] * 200, [b"\xe0"] * 200, [b"\x60"] * 100), 2, id="2.5 and 10 ms"),
    ],
)
def test_opus_is_counted_packet_by_packet(data: bytes, seconds: int) -> None:
    assert duration_of(data) == Duration(seconds, seconds)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(opus([bytes(9)] * 9) + b"x", id="something behind the pages"),
        pytest.param(opus([bytes(9)] * 9)[:-1], id="a page that is cut off"),
        pytest.param(opus([bytes(9)] * 9, [b"OggS\0" + bytes(22)]), id="a page in a page"),
        pytest.param(opus([bytes(9)] * 9) + page([b"\x01vorbis"], flags=2), id="another coding behind"),
        pytest.param(opus([bytes(9)] * 9) + page([bytes(9)], flags=1), id="a packet nobody began"),
        pytest.param(page([bytes(9)] * 9), id="no head"),
    ],
)
def test_ogg_that_may_be_read_another_way_is_held_by_its_size(data: bytes) -> None:
    found = duration_of(data)
    assert (found.seconds_most, found.is_exact) == (-(-len(data) // 250), False)


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
