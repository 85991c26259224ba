"""`/dashboard/static/...`: scripts and styles of the pages, out of the package, kept in memory and known by their digest.

A page names a file with its digest, `static_url("app.css")`, so that browsers may keep it for ever.
"""

import hashlib
import mimetypes
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import NotFound

__all__ = ["routes", "static_url"]

_FOLDER = Path(__file__).parent / "static"
_DIGEST_CHARS = 12
_KEPT_S = 31_536_000


@cache
def static_url(name: str) -> str:
    """Where a browser finds the file `name`. Raises `KeyError` for one that the package does not have."""
    content, _ = _files()[name]
    return f"/dashboard/static/{name}?v={hashlib.sha256(content).hexdigest()[:_DIGEST_CHARS]}"


async def show_file(request: Request) -> Response:
    found = _files().get(request.path_params["name"])
    if found is None:
        raise NotFound("There is nothing at this path.")
    content, media_type = found
    return Response(content, 200, {"cache-control": f"public, max-age={_KEPT_S}, immutable"}, media_type)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Every file by its name, with its type. A few hundred kilobytes."""
    return {
        str(path.relative_to(_FOLDER)): (path.read_bytes(), mimetypes.guess_type(path.name)[0] or "text/plain")
        for path in sorted(_FOLDER.rglob("*"))
        if path.is_file()
    }


routes = [Route("/dashboard/static/{name:path}", show_file, methods=["GET"])]
