"""`/dashboard/static/...`: scripts and styles of the pages, out of the package, kept in memory and known by their digest.

A page names a file with its digest, `static_url("app.css")`, and browsers keep what they got under that name for ever. A
name with another digest, or none, is answered with what there is, but asked for again each time: while two versions of
the gateway run side by side, neither's file may be kept under the other's name.
"""

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import NotFound

__all__ = ["routes", "static_url"]

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
"""What is served. Licences and notes lie beside the files, for people who look into the package."""
_DIGEST_CHARS = 12
_KEPT_FOR_EVER = "public, max-age=31536000, immutable"
_ASKED_AGAIN = "public, no-cache"


class _File(NamedTuple):
    content: bytes
    packed: bytes
    """The same, gzipped."""
    media_type: str
    digest: str


@cache
def static_url(name: str) -> str:
    """Where a browser finds the file `name`. Raises `KeyError` for one that the package does not have."""
    return f"/dashboard/static/{name}?v={_files()[name].digest}"


async def show_file(request: Request) -> Response:
    found = _files().get(request.path_params["name"])
    if found is None:
        raise NotFound("There is nothing at this path.")
    is_packed = "gzip" in _codings(request.headers.get("accept-encoding", ""))
    # Two encodings are two representations, and need two tags.
    tag = f'"{found.digest}{"-gzip" if is_packed else ""}"'
    headers = {
        "cache-control": _KEPT_FOR_EVER if request.query_params.get("v") == found.digest else _ASKED_AGAIN,
        "etag": tag,
        "vary": "accept-encoding",
    }
    if tag in [known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")]:
        return Response(None, 304, headers)
    if is_packed:
        headers["content-encoding"] = "gzip"
    return Response(found.packed if is_packed else found.content, 200, headers, found.media_type)


def _codings(accepted: str) -> set[str]:
    """What `Accept-Encoding` names and does not refuse by `q=0`."""
    named = (coding.lower().replace(" ", "").partition(";q=") for coding in accepted.split(","))
    return {name for name, _, weight in named if weight.strip("0.") or not weight}


@cache
def _files() -> dict[str, _File]:
    """Every file by its name. A few hundred kilobytes, read and packed once."""
    return {
        path.relative_to(_FOLDER).as_posix(): _read(path)
        for path in sorted(_FOLDER.rglob("*"))
        if path.is_file() and path.suffix in _TYPES
    }


def _read(path: Path) -> _File:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_DIGEST_CHARS]
    return _File(content, gzip.compress(content, mtime=0), _TYPES[path.suffix], digest)


routes = [Route("/dashboard/static/{name:path}", show_file, methods=["GET"])]
