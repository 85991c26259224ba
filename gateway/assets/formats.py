"""What kind of image some bytes are, by their first bytes: nobody's word is taken for it. Pure.

Only kinds that browsers show and that run nothing: SVG is a document with scripts, and is none of them.
"""

from collections.abc import Sequence

__all__ = ["image_type"]

_SIGNATURES: Sequence[tuple[bytes, str]] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


def image_type(data: bytes) -> str | None:
    """The content type, None for anything that is no image we serve."""
    for signature, content_type in _SIGNATURES:
        if data.startswith(signature):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:12] == b"ftypavif":
        return "image/avif"
    return None
