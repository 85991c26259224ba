"""A connection to PostgreSQL that can be cut in the middle of a COMMIT: before the server hears of it, or before it is
heard what became of it. TCP through a thread of its own."""

import socket
import threading
from contextlib import suppress
from typing import Literal, Self
from urllib.parse import urlsplit

Cut = Literal["", "before", "after"]
_COMMIT = b"COMMIT\0"


class Proxy:
    """Serves from `with` on. `cut` says what happens to the next COMMIT, once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._server_port = parts.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{parts.port}/", f":{self._listener.getsockname()[1]}/")
        self.cut: Cut = ""
        self.cuts = 0
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                self._start(self._requests, client, server)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        """What the client says; a thread of its own brings the answers."""
        self._start(self._answers, client, server)
        with suppress(OSError):
            while said := client.recv(65_536):
                if _COMMIT in said and self.cut:
                    cut, self.cut = self.cut, ""
                    self.cuts += 1
                    if cut == "after":
                        client.shutdown(socket.SHUT_RDWR)  # no answer passes from now on
                        server.sendall(said)
                    break
                server.sendall(said)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while answer := server.recv(65_536):
                with suppress(OSError):
                    client.sendall(answer)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
