"""URLs of assets: signed, expiring, and good for one asset each.

    <public url>/assets/<id>?expires=<seconds since 1970>&signature=<hex HMAC-SHA256>

Whoever has such a URL can see the image until it expires, without a key: it is meant for `<img src>`. The HMAC's key is
derived from the root secret for this purpose alone, so an asset's URL outlives a restart and dies with the secret.
"""

from collections.abc import Callable
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.errors import ConfigError, RequestError

__all__ = ["ASSETS_PATH", "AssetLinks", "Link", "public_base_url"]

ASSETS_PATH = "/assets/"
_EXPIRES_CHARS_MAX = 11


class Link(NamedTuple):
    url: str
    expires_at: int
    """Seconds since 1970: the first second in which it is no longer good."""


class AssetLinks:
    """Makes and checks them. Lifetime: the process."""

    def __init__(self, hasher: Callable[[bytes], bytes], base_url: str, *, ttl_s: int) -> None:
        """`hasher` is `Secrets.hasher("asset-links")`, `base_url` what `public_base_url` returned."""
        self._hasher = hasher
        self._base_url = base_url
        self._ttl_s = ttl_s

    def make(self, id: str, now_s: float) -> Link:
        expires_at = int(now_s) + self._ttl_s
        query = f"expires={expires_at}&signature={self._signature(id, str(expires_at))}"
        return Link(f"{self._base_url}{ASSETS_PATH}{id}?{query}", expires_at)

    def check(self, id: str, expires: str, signature: str, now_s: float) -> int:
        """How many seconds it is still good for, at least 1. Raises `RequestError` 403."""
        expected = self._signature(id, expires).encode()
        if len(expires) > _EXPIRES_CHARS_MAX or not compare_digest(expected, signature.encode("utf-8", "replace")):
            raise RequestError(
                "This URL is not one the gateway signed: use it exactly as it was given out.",
                status=403,
                code="invalid_signature",
            )
        # Signed by us, so it is a number.
        left_s = int(expires) - int(now_s)
        if left_s <= 0:
            raise RequestError(
                "This URL has expired: `GET /v1/generations` gives out new ones.", status=403, code="url_expired"
            )
        return left_s

    def _signature(self, id: str, expires: str) -> str:
        return self._hasher(f"{id}\n{expires}".encode("utf-8", "replace")).hex()


def public_base_url(public_url: str | None, host: str, port: int) -> str:
    """What URLs begin with, no slash at the end: the setting, or where the gateway listens.

    Never what a client says in `Host`: its URLs would then lead wherever somebody wants. Raises `ConfigError`.
    """
    if not public_url:
        return f"http://{_reachable(host)}:{port}"
    try:
        parts = urlsplit(public_url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if (
        not is_good
        or not public_url.isascii()
        or any(char in public_url for char in ' @?#\\"<>')
        or not public_url.isprintable()
    ):
        raise ConfigError(
            "GATEWAY_PUBLIC_URL must be where clients reach this gateway, such as https://llm.example.com, "
            "without user, query or fragment"
        )
    return public_url.rstrip("/")


def _reachable(host: str) -> str:
    """A gateway that listens on every address is at least reached on this machine."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return "[::1]" if address.is_unspecified else f"[{address}]"
    return "127.0.0.1" if address.is_unspecified else str(address)
