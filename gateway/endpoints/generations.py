"""`/v1/generations`: the images a creator had made, the newest first, and which one of a request it chose.

`GET /v1/generations` is a list in OpenAI's shape: pages go on with `after=<last_id>` while `has_more` is true. An image the
gateway keeps comes with a signed URL, good for a while and new in every answer; `url` is null where it keeps none, or no
longer. Somebody else's image does not exist: 404. With `format=csv` the list is a file with all that fits, without links.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import Form, json_response, read_form
from gateway.endpoints.csv_files import csv_of_pages
from gateway.endpoints.parameters import choice, database_of, known_parameters, pages_only, refuse, whole_number
from gateway.errors import NotFound
from gateway.kept_images import KeptImages
from gateway.ledger.database import Database
from gateway.ledger.generations import (
    generation_of_creator,
    generations_of_creator,
    is_generation_id,
    select_generation,
)
from gateway.ledger.periods import rfc3339
from gateway.ledger.statements import Row

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
_COLUMNS = """id created_at request_id index endpoint model provider prompt revised_prompt size quality selected content_type
    bytes""".split()


class Choice(Form):
    """Nothing but the path says what is chosen."""


async def list_generations(request: Request) -> Response:
    query = known_parameters(request.query_params, {"limit", "after", "request_id", "format"})
    if choice(query, "format", {"json", "csv"}, "json") == "csv":
        pages_only(query, "limit", "after")
        every = _every(database_of(request), _creator(request), query.get("request_id"))
        return await csv_of_pages("images", _COLUMNS, every, _line)
    limit = whole_number(query, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    after = query.get("after")
    if after is not None and not is_generation_id(after):
        refuse("after", "takes the `last_id` of an answer")
    rows = await generations_of_creator(
        database_of(request), _creator(request), limit=limit + 1, before=after, request_id=query.get("request_id")
    )
    data = [_shown(request, row) for row in rows[:limit]]
    return json_response(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": len(rows) > limit,
        }
    )


async def _every(database: Database, creator: str, request_id: str | None) -> AsyncIterator[list[Row]]:
    before: str | None = None
    while rows := await generations_of_creator(
        database, creator, limit=LIMIT_MAX, before=before, request_id=request_id
    ):
        yield rows
        before = rows[-1]["id"]


async def show_generation(request: Request) -> Response:
    return json_response(_shown(request, await _found(request)))


async def choose_generation(request: Request) -> Response:
    """Selects it among the images of its request, in place of the one that was. Doing it again changes nothing."""
    await read_form(request, Choice)
    if not await select_generation(database_of(request), _creator(request), _id(request)):
        raise _unknown()
    return json_response(_shown(request, await _found(request)))


async def _found(request: Request) -> Row:
    row = await generation_of_creator(database_of(request), _creator(request), _id(request))
    if row is None:
        raise _unknown()
    return row


def _shown(request: Request, row: Row) -> dict[str, Any]:
    kept = cast(KeptImages, request.app.state.kept_images)
    is_kept = row["content_type"] is not None and kept.library.is_open
    link = kept.links.make(row["asset_id"], kept.library.now_ms() / 1000) if is_kept else None
    return {
        **_about(row),
        "url": None if link is None else link.url,
        "url_expires_at": None if link is None else link.expires_at,
        "content_type": row["content_type"],
        "bytes": row["size_bytes"],
    }


def _line(row: Row) -> dict[str, Any]:
    """Of a file, which is opened when links have ended."""
    kept = {"content_type": row["content_type"], "bytes": row["size_bytes"]}
    return {**_about(row), **kept, "created_at": rfc3339(row["created_at"])}


def _about(row: Row) -> dict[str, Any]:
    size, _, quality = row["variant"].partition("/")
    return {
        "id": row["id"],
        "object": "generation",
        "created_at": row["created_at"] // 1000,
        "request_id": row["request_id"],
        "index": row["position"],
        "endpoint": row["endpoint"],
        "model": row["model"],
        "provider": row["provider"],
        "prompt": row["prompt"],
        "revised_prompt": row["revised_prompt"] or None,
        "size": size or None,
        "quality": quality or None,
        "selected": row["is_selected"],
    }


def _id(request: Request) -> str:
    return str(request.path_params["id"])


def _creator(request: Request) -> str:
    return str(request.state.account.creator)


def _unknown() -> NotFound:
    return NotFound("There is no generation with this id.", code="generation_not_found")


routes = [
    Route("/v1/generations", list_generations, methods=["GET"]),
    Route("/v1/generations/{id}", show_generation, methods=["GET"]),
    Route("/v1/generations/{id}/select", choose_generation, methods=["POST"]),
]
