"""What a server listens on: its port, alone or shared by several processes, and the control socket in the data folder."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError

__all__ = ["base_url", "bind_control", "bind_port", "bind_shared_port", "socket_address"]


def bind_port(host: str, port: int) -> socket.socket:
    """Bound, not yet listening; nobody else can have the port. Raises `ConfigError`."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return _bound(socket.socket(family, kind, proto), address)
    except OSError as exc:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({exc.strerror}): set GATEWAY_HOST and GATEWAY_PORT"
        ) from exc


def bind_shared_port(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` sockets on one port: the kernel spreads connections over those that listen. Raises `ConfigError`.

    The first takes the port for itself alone and shares it only then, so that a gateway of another folder on the same port
    is refused, as it would be without sharing.
    """
    first = bind_port(host, port)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listeners = [first]
    for _ in range(count - 1):
        listener = socket.socket(first.family, first.type, first.proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listeners.append(_bound(listener, first.getsockname()))
    return listeners


def _bound(listener: socket.socket, address: Any) -> socket.socket:
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@contextmanager
def bind_control(path: Path) -> Iterator[socket.socket]:
    """A Unix socket at `path`, mode 0600, bound and not yet listening; the file goes with the context.

    Only who holds the data folder's lock may ask for it: what lies there was left behind by a process that was killed.
    """
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # The mask lets the file exist with no other mode.
        with _umask(0o177):
            listener.bind(socket_address(path))
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def base_url(listener: socket.socket) -> str:
    """What a client on this machine reaches it by."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def socket_address(path: Path) -> str:
    """A Unix socket's path may have about 100 bytes: the shorter of the absolute and the relative one."""
    return min(str(path.absolute()), os.path.relpath(path), key=len)


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
