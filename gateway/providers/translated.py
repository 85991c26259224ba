"""An exchange whose answer is turned into another shape on its way: what lets the pipeline know only OpenAI's.

A provider that speaks another dialect wraps its exchange in OpenAI's shape; an endpoint that a provider does not have
(Responses, Messages) is answered over chat by wrapping the chat exchange in the endpoint's shape. Either way a translator
does it, which is pure, lives for one answer, and sees the bytes in any split.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from gateway.providers.base import Exchange, UpstreamFailure

__all__ = ["TranslatedExchange", "Translator", "Untranslatable"]

_ERROR_BYTES_MAX = 256 * 1024


class Untranslatable(Exception):
    """The answer is not what its dialect promises. The message is for logs: our own words, no text of the provider."""


class Translator(Protocol):
    """One answer from one shape into another. Lifetime: one answer. Raises `Untranslatable`."""

    def whole(self, body: bytes) -> bytes:
        """A complete JSON answer of status 2xx."""
        ...

    def refusal(self, status: int, body: bytes) -> bytes:
        """An error answer (status 300 and above), in the shape of the other side's errors. Must not raise."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The next bytes of an event stream; what can be told by now, possibly nothing. Only whole events come out."""
        ...

    def finish(self) -> bytes:
        """The stream's body has ended, properly or not. What is still to be said: the usage as far as it is known, and
        nothing that would make a broken stream look complete."""
        ...


@runtime_checkable
class TellsWait(Protocol):
    """A translator whose dialect tells in the body of a refusal how long to wait."""

    retry_after_s: int | None


class TranslatedExchange:
    """The `Exchange` around another one. `answer_bytes_max` bounds a whole answer, which has to be read before it is turned."""

    def __init__(self, inner: Exchange, translator: Translator, *, answer_bytes_max: int) -> None:
        self._inner = inner
        self._translator = translator
        self._answer_bytes_max = answer_bytes_max
        self._is_stream = inner.status < 300 and _is_event_stream(inner)
        self._has_ended = False
        self.status = inner.status
        self.headers = inner.headers if self._is_stream else {**inner.headers, "content-type": "application/json"}

    async def read(self) -> bytes:
        """The next translated bytes, `b""` at the end. Raises `UpstreamFailure`."""
        if self._has_ended:
            return b""
        if not self._is_stream:
            self._has_ended = True
            return await self._read_whole()
        while data := await self._inner.read():
            if translated := self._translated(lambda: self._translator.feed(data)):
                return translated
        self._has_ended = True
        return self._translated(self._translator.finish)

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """As `Exchange.pour`: `take` gets translated bytes."""
        if not self._is_stream:
            data = await self.read()
            return take(data) if data else True
        failure: list[UpstreamFailure] = []

        def take_translated(data: bytes) -> bool:
            try:
                translated = self._translated(lambda: self._translator.feed(data))
            except UpstreamFailure as exc:
                failure.append(exc)
                return False
            return take(translated) if translated else True

        if self._has_ended:
            return True
        try:
            ended = await self._inner.pour(take_translated)
        except UpstreamFailure:
            self._has_ended = True
            # What the translator knows by now of the call's usage is told before the failure is.
            if rest := self._translated(self._translator.finish):
                take(rest)
            raise
        if failure:
            raise failure[0]
        if not ended:
            return False
        self._has_ended = True
        rest = self._translated(self._translator.finish)
        # What `take` says to the last bytes stops nothing any more: the next `pour` reports the end.
        return take(rest) if rest else True

    def close(self) -> None:
        self._inner.close()

    async def _read_whole(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        bytes_max = self._answer_bytes_max if self.status < 300 else _ERROR_BYTES_MAX
        while data := await self._inner.read():
            size += len(data)
            if size > bytes_max:
                raise _invalid("an answer above the bound")
            parts.append(data)
        body = b"".join(parts)
        if self.status >= 300:
            refusal = self._translator.refusal(self.status, body)
            if isinstance(self._translator, TellsWait) and self._translator.retry_after_s is not None:
                self.headers.setdefault("retry-after", str(self._translator.retry_after_s))
            return refusal
        return self._translated(lambda: self._translator.whole(body))

    def _translated(self, translate: Callable[[], bytes]) -> bytes:
        try:
            return translate()
        except Untranslatable as exc:
            raise _invalid(str(exc)) from exc


def _is_event_stream(exchange: Exchange) -> bool:
    return exchange.headers.get("content-type", "").lower().startswith("text/event-stream")


def _invalid(detail: str) -> UpstreamFailure:
    return UpstreamFailure("invalid", detail, is_sent=True, is_fully_sent=True)
