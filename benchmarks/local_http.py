"""The little HTTP a benchmark needs to set its targets up, on 127.0.0.1 and past any proxy."""

import json
import socket
import urllib.error
import urllib.request
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str | None) -> bool:
    """Whether `path` answers 2xx; without a path, whether the port takes connections."""
    try:
        if path is None:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        else:
            _OPENER.open(f"http://127.0.0.1:{port}{path}", timeout=5).close()
    except OSError:  # refused, reset, timed out, or an HTTP status above 299
        return False
    return True


def get_json(url: str, bearer: str = "") -> Any:
    """The parsed answer. Raises `RuntimeError` with the answer's text when the status is not 2xx."""
    return _ask(urllib.request.Request(url), bearer)


def post_json(url: str, bearer: str, body: dict[str, Any]) -> Any:
    """The parsed answer. Raises `RuntimeError` with the answer's text when the status is not 2xx."""
    content = json.dumps(body).encode()
    return _ask(urllib.request.Request(url, content, {"content-type": "application/json"}), bearer)


def _ask(request: urllib.request.Request, bearer: str) -> Any:
    if bearer:
        request.add_header("authorization", f"Bearer {bearer}")
    try:
        with _OPENER.open(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as exc:
        text = exc.read(500).decode(errors="replace")
        raise RuntimeError(f"{request.get_method()} {request.full_url}: {exc.code} {text}") from exc
