"""What a browser says went wrong, gathered while a test drives it."""

import re
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Dialog, Request, Response, WebError

__all__ = ["Watch"]

_HOST = "127.0.0.1"
_WITHOUT_NETWORK = ("data", "about", "blob")
_ABANDONED = "net::ERR_ABORTED"
"""Asked for by a page that was left, or a download that Chromium took over: nobody misses it."""


class Watch:
    """Faults of every page of the contexts it is put over."""

    def __init__(self) -> None:
        self._found: list[str] = []
        self._expected: list[re.Pattern[str]] = []

    @property
    def faults(self) -> list[str]:
        """A sentence for each that no test expected."""
        return [fault for fault in self._found if not any(known.search(fault) for known in self._expected)]

    def expect(self, pattern: str) -> None:
        """A fault in which `pattern` is found is meant to happen in this test."""
        self._expected.append(re.compile(pattern))

    def over(self, context: BrowserContext) -> None:
        context.on("console", self._said)
        context.on("weberror", self._raised)
        context.on("request", self._asked)
        context.on("requestfailed", self._failed)
        context.on("response", self._answered)
        context.on("dialog", self._opened)

    def _said(self, message: ConsoleMessage) -> None:
        # A violation of the policy is an error here too; the browser's own words for a refused load come with `_answered`.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self._found.append(f"console: {message.text}")

    def _raised(self, error: WebError) -> None:
        self._found.append(f"uncaught: {error.error}")

    def _asked(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in _WITHOUT_NETWORK and url.hostname != _HOST:
            self._found.append(f"left the machine: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != _ABANDONED:
            self._found.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._found.append(f"answered {response.status}: {response.request.method} {response.url}")

    async def _opened(self, dialog: Dialog) -> None:
        self._found.append(f"dialog: {dialog.message}")
        await dialog.dismiss()
