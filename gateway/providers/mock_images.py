"""The mock provider's pictures: one plain colour each, which follows from the prompt, so that equal calls look alike.

What the upstream model's name adds to what it does for chat (`gateway.providers.mock`):

    ...half...        returns half of the images asked for, rounded up
    ...none...        returns none
    ...premium...     says how it revised the prompt
    ...tokens...      reports usage in tokens, as models do that are priced by them
"""

import base64
import struct
import zlib
from hashlib import sha256
from typing import Any

_SIDE_PIXELS = 8
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_RGB = (8, 2, 0, 0, 0)
"""Bit depth, colour type, compression, filter and interlace methods of PNG's header chunk."""
_IMAGE_TOKENS = 272
"""What OpenAI's table names for a square image of low quality."""


def image_answer(body: dict[str, Any]) -> dict[str, Any]:
    """What `POST /images/generations` with this checked body is answered."""
    model, prompt = body["model"], body["prompt"]
    count = _count(model, body.get("n") or 1)
    answer: dict[str, Any] = {
        "created": 1_700_000_000,
        "data": [_image(model, prompt, number, body.get("response_format")) for number in range(count)],
    }
    if "tokens" in model:
        answer["usage"] = _usage(prompt, count)
    return answer


def _count(model: str, asked: int) -> int:
    if "none" in model:
        return 0
    return -(-asked // 2) if "half" in model else asked


def _image(model: str, prompt: str, number: int, response_format: object) -> dict[str, Any]:
    digest = sha256(f"{number} {prompt}".encode()).digest()
    image: dict[str, Any] = {}
    if response_format == "url":
        image["url"] = f"https://mock.invalid/images/{digest.hex()[:32]}.png"
    else:
        image["b64_json"] = base64.b64encode(_png(digest[:3])).decode()
    if "premium" in model:
        image["revised_prompt"] = f"A plain colour that stands for: {prompt}"
    return image


def _usage(prompt: str, count: int) -> dict[str, Any]:
    text, output = -(-len(prompt.encode()) // 4), _IMAGE_TOKENS * count
    return {
        "input_tokens": text,
        "output_tokens": output,
        "total_tokens": text + output,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
    }


def _png(colour: bytes) -> bytes:
    """A square of one colour; `colour` is its red, green and blue byte."""
    line = b"\0" + colour * _SIDE_PIXELS  # each line begins with its filter: none
    header = struct.pack(">II5B", _SIDE_PIXELS, _SIDE_PIXELS, *_EIGHT_BIT_RGB)
    pixels = zlib.compress(line * _SIDE_PIXELS)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
