"""Where somebody wanted to go who had to sign in first: an address of a page here, or nothing.

It comes back from a browser in a link that anybody may have written. What is not plainly one of our own pages is
forgotten, so that signing in leads nowhere else.
"""

import re
from urllib.parse import quote, unquote, urlencode, urlsplit

from starlette.types import Scope

__all__ = ["SIGN_IN", "own_path", "sign_in_path"]

SIGN_IN = "/dashboard/sign-in"
_CHARS_MAX = 2_000
_OWN = re.compile(r"/dashboard(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+/?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?")
"""No host, no scheme, no `//`, no backslash, no fragment, nothing that a browser would take away or turn round."""
_NO_PAGES = (SIGN_IN, "/dashboard/sign-out", "/dashboard/static/", "/dashboard/export/")
"""A file that is downloaded would leave its reader at the form for signing in."""
_DOTS = frozenset({".", ".."})
_UNQUOTED = "/!$&'()*+,;=:@-._~"


def own_path(text: str) -> str:
    """`text`, path and query, where it is a page below `/dashboard`; else nothing."""
    if len(text) > _CHARS_MAX or _OWN.fullmatch(text) is None:
        return ""
    path = text.partition("?")[0]
    if unquote(path).startswith(_NO_PAGES) or not _DOTS.isdisjoint(map(unquote, path.split("/"))):
        return ""
    return text


def sign_in_path(scope: Scope) -> str:
    """The form for signing in, which leads back to the page that was asked for, or that the form was on."""
    wanted = own_path(_asked(scope) if scope["method"] in ("GET", "HEAD") else _referer(scope))
    return f"{SIGN_IN}?{urlencode({'next': wanted}, safe='/')}" if wanted else SIGN_IN


def _asked(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return quote(scope["path"], safe=_UNQUOTED) + (f"?{query}" if query else "")


def _referer(scope: Scope) -> str:
    sent = [value.decode("latin-1") for name, value in scope["headers"] if name == b"referer"]
    try:
        parts = urlsplit(sent[0] if sent else "")
    except ValueError:
        return ""
    return parts.path + (f"?{parts.query}" if parts.query else "")
