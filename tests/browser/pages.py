"""Which pages there are, and who looks at them: found in the gateway's own routes, so that a new page is tested at once.

A route with a parameter needs a value for it here, or its tests fail by saying so.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from starlette.routing import Route

from gateway.dashboard import dashboard_routes
from gateway.dashboard.render import NAVIGATION
from tests.browser.ledger_rows import HOSTILE_CREATOR, LARGEST
from tests.browser.site import Site

__all__ = ["HOSTILE_VIEWS", "PageOf", "all_pages", "main_pages", "pages_of"]

_NOT_PAGES = ("/dashboard/export/", "/dashboard/static/")
_PARTS = ("/dashboard/overview/live",)
"""What a page asks for to put into itself."""
_CREATORS = "/dashboard/me"
_SIGN_IN = "/dashboard/sign-in"
_GOES_ELSEWHERE = ("/dashboard", "/dashboard/")
"""Answered by a redirect."""
_PARAMETER = re.compile(r"(?P<word>[^/]+)/{[^}]+}")
_VALUES: dict[str, Callable[[Site], str]] = {
    "creators/{id}": lambda _: LARGEST,
    "keys/{key}": lambda site: site.keys[LARGEST].id,
    "calls/{request_id}": lambda site: site.newest_call,
    "months/{month}": lambda site: site.last_month,
    "models/{name:path}": lambda _: "gpt-5",
    "policies/{plan}": lambda _: "team",
}
"""A parameter, with the word before it -> what stands in its place."""


class PageOf(NamedTuple):
    """A page as its route names it, and who signs in to see it: `owner`, `creator`, `hostile` (a creator), or nobody."""

    path: str
    who: str

    def of(self, site: Site) -> str:
        """Its URL. Raises `LookupError` for a parameter that has no value above."""
        path = _PARAMETER.sub(lambda found: f"{found['word']}/{_value(found[0])(site)}", self.path)
        return site.url + path


def _value(parameter: str) -> Callable[[Site], str]:
    found = _VALUES.get(parameter)
    if found is None:
        raise LookupError(f"tests.browser.pages has no value for {parameter}")
    return found


@cache
def all_pages() -> tuple[PageOf, ...]:
    """Every page that is asked for with GET, in the order of the routes."""
    return tuple(PageOf(path, _who(path)) for path in dict.fromkeys(_paths()))


HOSTILE_VIEWS = (
    PageOf(f"/dashboard/creators/{HOSTILE_CREATOR}", "owner"),
    PageOf("/dashboard/creators?sort=name", "owner"),
    PageOf(f"/dashboard/calls?creator={HOSTILE_CREATOR}", "owner"),
    PageOf("/dashboard/explore?group=feature", "owner"),
    PageOf("/dashboard/notices", "owner"),
    PageOf("/dashboard/me", "hostile"),
    PageOf("/dashboard/me/calls", "hostile"),
)
"""Views of texts that somebody chose in bad faith."""


def pages_of(who: str) -> list[PageOf]:
    return [page for page in all_pages() if page.who == who]


def main_pages() -> list[tuple[str, PageOf]]:
    """Pages without parameters that somebody is led to, by a name for a file: `overview`, `me-calls`."""
    led_to = [place.path for place in NAVIGATION] + [_SIGN_IN]
    return [
        (page.path.removeprefix("/dashboard/").replace("/", "-"), page) for page in all_pages() if page.path in led_to
    ]


def _paths() -> Iterator[str]:
    for route in dashboard_routes():
        if isinstance(route, Route) and "GET" in (route.methods or ()) and _is_page(route.path):
            yield route.path


def _is_page(path: str) -> bool:
    return not path.startswith(_NOT_PAGES) and path not in (*_GOES_ELSEWHERE, *_PARTS)


def _who(path: str) -> str:
    if path == _SIGN_IN:
        return ""
    return "creator" if path == _CREATORS or path.startswith(f"{_CREATORS}/") else "owner"
