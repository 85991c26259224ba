"""What a page's own address says: filters that were filled in, and addresses that keep them."""

from collections.abc import Collection, Mapping
from urllib.parse import urlencode

from starlette.requests import Request

from gateway.config import Settings
from gateway.errors import GatewayError, RequestError

__all__ = ["own_address", "page_query", "page_url", "problem_of", "refuse_unknown"]


def page_query(request: Request, *known: str) -> dict[str, str]:
    """The parameters that have a value, in the order of `known`. Raises `RequestError` for any other one: a filter that is
    not known would show everything as if it fitted."""
    refuse_unknown(request, known)
    given = dict(request.query_params)
    return {name: value for name in known if (value := given.get(name, "").strip())}


def refuse_unknown(request: Request, known: Collection[str]) -> None:
    """Raises `RequestError`, which names the parameter, when the address has one that is not `known`."""
    if unknown := request.query_params.keys() - set(known):
        named = "; it has: " + ", ".join(known) if known else ""
        raise RequestError(f"This page has no filter `{min(unknown)[:64]}`{named}.", code="unknown_parameter")


def page_url(path: str, query: Mapping[str, str | None], **changes: str | None) -> str:
    """`path` with the query, some of it changed; what is None is left out."""
    kept = {name: value for name, value in {**query, **changes}.items() if value}
    return f"{path}?{urlencode(kept)}" if kept else path


def problem_of(error: GatewayError) -> str:
    """What is said beside a form. Raises `error` where the form is not to blame: the viewer may not, or nothing works."""
    if error.status in (401, 403) or error.status >= 500:
        raise error
    return error.message


def own_address(request: Request) -> str:
    """What clients reach the gateway by: as the settings say, since behind a proxy nothing else knows; else as the browser did."""
    settings: Settings = request.app.state.settings
    return (settings.public_url or f"{request.url.scheme}://{request.url.netloc}").rstrip("/")
