"""`GET /assets/{id}`: an image the gateway keeps, for whoever has a signed URL that has not expired. Needs no key.

The signature is checked before anything is looked up. Bytes come with the type that they themselves showed when they were
stored, and with headers by which no browser takes them for anything else, or runs what may be in them.
"""

from typing import cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gateway.assets.links import ASSETS_PATH
from gateway.kept_images import KeptImages


async def show_asset(request: Request) -> Response:
    kept = cast(KeptImages, request.app.state.kept_images)
    asset_id, query = str(request.path_params["id"]), request.query_params
    now_s = kept.library.now_ms() / 1000
    left_s = kept.links.check(asset_id, query.get("expires", ""), query.get("signature", ""), now_s)
    row = await kept.library.find(asset_id)
    headers = {
        "content-length": str(row.size_bytes),
        "cache-control": f"private, max-age={left_s}",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; sandbox",
        "referrer-policy": "no-referrer",
    }
    if request.method == "HEAD":
        return Response(None, 200, headers, row.content_type)
    return StreamingResponse(await kept.library.open(row), 200, headers, row.content_type)


routes = [Route(f"{ASSETS_PATH}{{id}}", show_asset, methods=["GET"])]
