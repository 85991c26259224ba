"""A picture and a sound, small and known to both sides."""

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))

_SAMPLES = bytes(16_000)
_FORMAT = bytes.fromhex("01000100 401f0000 803e0000 02001000")
SOUND = b"".join(
    [
        b"RIFF" + (36 + len(_SAMPLES)).to_bytes(4, "little") + b"WAVE",
        b"fmt " + len(_FORMAT).to_bytes(4, "little") + _FORMAT,
        b"data" + len(_SAMPLES).to_bytes(4, "little") + _SAMPLES,
    ]
)
"""One second of silence: 8 000 samples of 16 bits."""
