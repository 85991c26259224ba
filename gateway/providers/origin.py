"""Where a provider is: the checked form of its base URL. Which hosts are allowed is the configuration's business."""

import ipaddress
import re
from typing import Final, NamedTuple

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*)",
    re.ASCII | re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


class Origin(NamedTuple):
    """Where a provider is. `base_path` is empty or begins with a slash, and never ends with one."""

    scheme: str
    host: str
    port: int
    base_path: str

    @classmethod
    def parse(cls, base_url: str) -> "Origin":
        """The origin a base URL names. Raises ValueError; its message never repeats the URL, which may hold a secret."""
        found = _URL.fullmatch(base_url)
        if found is None:
            raise ValueError(
                "a base URL is http:// or https://, an ASCII host name, a port if need be and a path: "
                "no user, query, fragment, blank or control character"
            )
        scheme = found["scheme"].lower()
        port = int(found["port"] or (443 if scheme == "https" else 80))
        if not 0 < port < 65536:
            raise ValueError("the port of a base URL is between 1 and 65535")
        path = found["path"].rstrip("/")
        if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
            raise ValueError("the path of a base URL has an empty or a dot segment")
        return cls(scheme, _host(found["ipv6"], found["name"]), port, path)

    @property
    def host_header(self) -> str:
        """What the `host` header says: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def _host(ipv6: str | None, name: str | None) -> str:
    try:
        if ipv6 is not None:
            return str(ipaddress.IPv6Address(ipv6))
        host = (name or "").lower()
        if _NUMBER.fullmatch(host.rpartition(".")[2]):
            # Resolvers read 2130706433, 127.1 and 0x7f.1 as addresses; whoever means one writes it out.
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise ValueError("the host of a base URL is neither a name nor a complete IP address") from None
    if len(host) > 253 or any(len(label) > 63 for label in host.split(".")):
        raise ValueError("the host name of a base URL is too long")
    return host
