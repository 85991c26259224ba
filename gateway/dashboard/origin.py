"""Where a request of a browser came from: over https or not, and from a page of this gateway or another's."""

from urllib.parse import urlsplit

from starlette.types import Scope

from gateway.addresses import is_trusted_peer
from gateway.config import Settings
from gateway.errors import RequestError

__all__ = ["is_secure", "require_own_page"]

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def is_secure(scope: Scope) -> bool:
    """Whether the browser speaks https: to this process, to a trusted proxy that says so, or to `GATEWAY_PUBLIC_URL`."""
    if scope.get("scheme") == "https" or _public(scope)[0] == "https":
        return True
    peer = scope.get("client")
    if not is_trusted_peer(peer[0] if peer else None, scope["app"].state.trusted_proxies):
        return False
    lines = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
    return b"https" in [hop.strip().lower() for hop in b",".join(lines).split(b",")]


def require_own_page(scope: Scope) -> None:
    """Raises `RequestError` (403) unless the request comes from a page of this host.

    `SameSite=Strict` does not say that much: to it, another port of this host is the same site. Browsers send `Origin`
    with every form; where it is missing `Sec-Fetch-Site` will do, which no script can set.
    """
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    if origins:
        is_own = all(_is_own(scope, origin) for origin in origins)
    else:
        is_own = [value for name, value in scope["headers"] if name == b"sec-fetch-site"] == [b"same-origin"]
    if not is_own:
        raise RequestError(
            "This was not sent by a page of this gateway, or not under the address that the gateway has.",
            status=403,
            code="cross_origin",
        )


def _is_own(scope: Scope, origin: str) -> bool:
    scheme, host = _split(origin)
    if scheme not in _DEFAULT_PORTS or not host:
        return False  # `null` is the origin of what hides where it came from
    if scheme == "http" and is_secure(scope):
        return False  # whoever can change what is sent in clear could have sent it
    asked = [_host(value.decode("latin-1"), scheme) for name, value in scope["headers"] if name == b"host"]
    return asked == [host] or _public(scope) == (scheme, host)


def _public(scope: Scope) -> tuple[str, str]:
    """A proxy need not pass on the host that the browser asked for."""
    settings: Settings = scope["app"].state.settings
    return _split(settings.public_url or "")


def _split(url: str) -> tuple[str, str]:
    """Scheme and host, with the port unless it is the scheme's own; empty for what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, _host(parts.netloc, parts.scheme)


def _host(netloc: str, scheme: str) -> str:
    return netloc.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))
