"""Where a call came from: the peer's address, or what a trusted proxy says of it.

A header is only worth what its sender is worth. `X-Forwarded-For` is read when the peer itself is a proxy the operator
named, and from the right, because every proxy appends whom it saw and everything further left may be the client's own
invention. `Forwarded`, `X-Real-IP` and the like are never read.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from gateway.errors import ConfigError

__all__ = ["Networks", "client_address", "is_trusted_peer", "trusted_networks"]

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

_HOPS_MAX = 32
"""Proxies in a row that are believed; a longer chain is junk."""
_ADDRESS_CHARS_MAX = 64
_CACHED_ADDRESSES_MAX = 8_192
_MAPPED_BITS = 96


def trusted_networks(text: str) -> Networks:
    """The networks of `GATEWAY_TRUSTED_PROXIES`: addresses and CIDR blocks with commas between; none for an empty text.

    Raises `ConfigError` naming the setting and what of it is wrong.
    """
    networks = []
    for part in [part.strip() for part in text.split(",")] if text.strip() else []:
        try:
            networks.append(_unmapped(ip_network(part)))
        except ValueError as exc:
            raise ConfigError(
                f"GATEWAY_TRUSTED_PROXIES has {part!r}, which is no network ({exc}): "
                "list addresses or CIDR blocks, such as 10.0.0.0/8,192.0.2.7"
            ) from None
    return tuple(networks)


def client_address(peer: str | None, headers: Iterable[tuple[bytes, bytes]], trusted: Networks) -> str:
    """The caller's IP address in its shortest form; IPv4 inside IPv6 (`::ffff:192.0.2.1`) as IPv4.

    `peer` is the other end of the connection; without an IP address (a Unix socket) the answer is empty. If it is within
    `trusted`, the answer is the right-most address of `X-Forwarded-For` that is not, or the left-most one if all are.
    A header that cannot be read leaves the peer. Header names are lower-case.
    """
    near = _read(peer) if peer else None
    if near is None:
        return ""
    if trusted and _is_within(near.address, trusted):
        # Several lines of one header are one list, in their order.
        lines = [value for name, value in headers if name == b"x-forwarded-for"]
        if lines:
            near = _forwarded(b",".join(lines), trusted) or near
    return near.text


def is_trusted_peer(peer: str | None, trusted: Networks) -> bool:
    """Whether the other end of the connection is a proxy whose headers are believed."""
    near = _read(peer) if peer else None
    return near is not None and _is_within(near.address, trusted)


class _Found(NamedTuple):
    address: Address
    text: str


def _forwarded(value: bytes, trusted: Networks) -> _Found | None:
    """Whom the chain of trusted proxies began with; None where the chain is broken."""
    hops = value.decode("latin-1").rsplit(",", _HOPS_MAX)
    if len(hops) > _HOPS_MAX:
        hops[0] = ""  # the rest of a chain that is too long
    found: _Found | None = None
    for hop in reversed(hops):
        found = _read(_without_port(hop.strip(" \t")))
        if found is None or not _is_within(found.address, trusted):
            break
    return found


def _without_port(text: str) -> str:
    """Some proxies write `192.0.2.1:4711` or `[2001:db8::1]:4711`."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def _read(text: str) -> _Found | None:
    # Looked at before the cache, which would keep the text.
    return _parse(text) if len(text) <= _ADDRESS_CHARS_MAX else None


@lru_cache(_CACHED_ADDRESSES_MAX)
def _parse(text: str) -> _Found | None:
    """Without the zone of a link-local address, which only means something on the machine that wrote it."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return _Found(address, str(address))


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """IPv4 inside IPv6 as IPv4, as addresses are."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _is_within(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)
