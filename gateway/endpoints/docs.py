"""`/docs` and `/openapi.json`: the documentation, open to everybody who reaches the gateway. It tells of nobody's data.

Answers have a tag, so that browsers keep them and ask whether they still hold, and the headers of the dashboard's pages.
"""

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.dashboard.guard import PAGE_HEADERS

if TYPE_CHECKING:
    from gateway.docs_site.site import File, Site

__all__ = ["is_docs_path", "routes"]

_ROOT = "/docs"
_OPENAPI = "/openapi.json"
_WORDS_CHARS_MAX = 200


def is_docs_path(path: str) -> bool:
    """Whether it is answered without a key, by this module."""
    return path in (_ROOT, _OPENAPI) or path.startswith(f"{_ROOT}/")


async def show_index(request: Request) -> Response:
    return _answer(request, (await _site()).pages[""])


async def show_page(request: Request) -> Response:
    name, site = request.path_params["name"], await _site()
    plain = name.removesuffix("/").removesuffix(".md").lower()
    if (name != plain or not name) and plain in site.pages:
        return _guarded(RedirectResponse(f"{_ROOT}/{plain}" if plain else _ROOT, 308))
    found = site.pages.get(name) if name else None
    return _answer(request, site.missing(), 404) if found is None else _answer(request, found)


async def search(request: Request) -> Response:
    """For browsers without scripts, which ask here what others find in the index themselves."""
    words = request.query_params.get("q", "")[:_WORDS_CHARS_MAX]
    return _answer(request, await asyncio.to_thread((await _site()).search, words))


async def show_search_index(request: Request) -> Response:
    return _answer(request, (await _site()).search_index)


async def show_image(request: Request) -> Response:
    site = await _site()
    found = await asyncio.to_thread(site.image, request.path_params["name"])
    return _answer(request, site.missing(), 404) if found is None else _answer(request, found)


async def show_openapi(request: Request) -> Response:
    return _answer(request, (await _site()).openapi)


async def _site() -> "Site":
    return await asyncio.to_thread(_open_site)


def _open_site() -> "Site":
    # Whoever never reads the documentation pays neither its memory nor, at the start, its time.
    from gateway.docs_site.site import open_site

    return open_site()


def _answer(request: Request, file: "File", status: int = 200) -> Response:
    headers = {"etag": file.tag, "cache-control": "no-cache", "content-length": str(len(file.content))}
    known = request.headers.get("if-none-match", "")
    if status == 200 and file.tag in [each.strip().removeprefix("W/") for each in known.split(",")]:
        del headers["content-length"]
        return _guarded(Response(None, 304, headers))
    content = None if request.method == "HEAD" else file.content
    return _guarded(Response(content, status, headers, file.media_type))


def _guarded(answer: Response) -> Response:
    headers = MutableHeaders(raw=answer.raw_headers)
    for name, value in PAGE_HEADERS:
        headers[name.decode()] = value.decode()
    return answer


routes = [
    Route(_ROOT, show_index, methods=["GET"]),
    Route(f"{_ROOT}/search", search, methods=["GET"]),
    Route(f"{_ROOT}/search.json", show_search_index, methods=["GET"]),
    Route(f"{_ROOT}/img/{{name:path}}", show_image, methods=["GET"]),
    Route(f"{_ROOT}/{{name:path}}", show_page, methods=["GET"]),
    Route(_OPENAPI, show_openapi, methods=["GET"]),
]
