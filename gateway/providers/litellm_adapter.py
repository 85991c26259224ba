"""Every dialect the gateway does not speak itself, through litellm: chat, embeddings and images. The only importer of it.

The library is the extra `providers`. It is loaded at the first call, in a thread (2 s of importing, 120 MB; measured with
1.106.2), and told to fetch, report, cache, count, log and repeat nothing. What it sends leaves through `litellm_wire`, so
deadlines, bounds, the one host and what was sent are known as they are of any other provider. What it is asked is written
in `litellm_request`, what it answers in `litellm_answers`.

A row names the library's provider in `litellm_provider`. `base_url` is what the library calls `api_base`: where it is set
nothing else is called; empty, the library's own address of that provider. Without a key in the row the library looks for
credentials where that provider's own tools do (Bedrock: the AWS environment).
"""

import asyncio
import contextlib
import gc
import importlib.metadata
import importlib.util
import logging
import threading
from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from gateway.catalog import Catalog, ProviderRow
from gateway.config import Settings, set_library_defaults
from gateway.errors import ConfigError, RequestError
from gateway.providers.base import Exchange, UpstreamFailure, UpstreamRequest
from gateway.providers.litellm_answers import (
    chat_answer,
    embeddings_answer,
    error_bytes,
    images_answer,
    kind_of,
    message_of,
)
from gateway.providers.litellm_exchange import LibraryAnswer, LibraryCall, LibraryStream
from gateway.providers.litellm_request import Asked, asked_of, fitted
from gateway.providers.translated import Untranslatable
from gateway.tasks import spawn

if TYPE_CHECKING:
    from gateway.providers.litellm_wire import Line

__all__ = ["LiteLlm", "refused_version", "require_library"]

_log = structlog.get_logger()

_VERSION_LEAST = (1, 84)
_VERSIONS_REFUSED = frozenset({"1.82.7", "1.82.8"})
"""Carried code that stole credentials."""
_SUPPORTED_KEPT = 1_000
_REQUEST_TYPES = {"chat": "chat_completion", "embeddings": "embeddings"}
_IMAGE_ARGUMENTS = frozenset("prompt n size quality style response_format".split())


def require_library(catalog: Catalog) -> None:
    """Raises `ConfigError` when an active model needs litellm and it is missing or must not be used. Imports nothing."""
    names = {row.name for row in catalog.providers.values() if row.dialect == "litellm"}
    needing = sorted(model.name for model in catalog.models.values() if model.active and _providers_of(model) & names)
    if not needing:
        return
    wanted = (
        f'{needing[0]} is served through litellm: install the extra `providers` (pip install "llm-gateway[providers]")'
    )
    if importlib.util.find_spec("litellm") is None:
        raise ConfigError(f"{wanted}, or unset its provider's key or say active = false")
    version = importlib.metadata.version("litellm")
    if refused_version(version):
        raise ConfigError(f"{wanted}: {version} is installed, which must not be used; 1.84 is the least")


def refused_version(version: str) -> bool:
    """Whether a version of litellm must not be used."""
    return version in _VERSIONS_REFUSED or _numbers(version) < _VERSION_LEAST


def _providers_of(model: Any) -> set[str]:
    return {model.provider, *(each.model.provider for each in model.deployments)}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


class LiteLlm:
    """Lifetime: the process."""

    def __init__(self, row: ProviderRow, api_key: str, settings: Settings) -> None:
        self.name = row.name
        self._row = row
        self._api_key = api_key
        self._settings = settings
        self._loading: asyncio.Task[Any] | None = None
        self._line: Line | None = None
        self._supported: dict[tuple[str, str], frozenset[str]] = {}

    async def open(self, request: UpstreamRequest, gate: Awaitable[None]) -> Exchange:
        """One call. A stream is here when its first chunk is, any other answer when all of it is.

        Raises `RequestError` for what the provider cannot be asked, before anything is sent; `UpstreamFailure`, or whatever
        `gate` raises.
        """
        asked = asked_of(request)
        litellm = await self._library()
        arguments = fitted(asked, await self._supported_by(litellm, asked))
        from gateway.providers.litellm_wire import Wire

        assert self._line is not None  # noqa: S101 -- made with the library
        bytes_max = self._settings.stream_bytes_max if request.is_streaming else self._settings.answer_bytes_max
        wire = Wire(self._line, request, answer_bytes_max=bytes_max)
        call = LibraryCall(wire, asked, request, asyncio.get_running_loop().time() + request.deadlines.total_s)
        await gate
        try:
            return await self._answer(litellm, call, arguments)
        except BaseException:
            call.leave()
            raise

    async def close(self) -> None:
        if self._line is not None:
            await self._line.transport.aclose()

    # The library

    async def _library(self) -> Any:
        """litellm, loaded at the first call. What cannot be used stays so until the gateway starts again."""
        if self._loading is None:
            self._loading = spawn(self._load(), "load-litellm")
        litellm = await asyncio.shield(self._loading)
        if litellm is None:
            raise UpstreamFailure("invalid", "litellm cannot be used", is_sent=False, is_fully_sent=False)
        return litellm

    async def _load(self) -> Any:
        """None where it cannot be used; why is logged, once."""
        try:
            litellm = await asyncio.to_thread(_loaded)
        except Exception as exc:
            _log.error("litellm_unusable", provider=self.name, reason=f"{type(exc).__name__}: {exc}")
            return None
        name = self._row.litellm_provider
        if name not in {getattr(each, "value", each) for each in litellm.provider_list}:
            _log.error("litellm_unusable", provider=self.name, reason=f"it has no provider {name}")
            return None
        from gateway.providers.litellm_wire import Line

        self._line = Line.to(self._row, self._settings)
        return litellm

    async def _supported_by(self, litellm: Any, asked: Asked) -> frozenset[str]:
        """Names of OpenAI's fields that the library can say to this model's provider."""
        if asked.endpoint == "images":
            return _IMAGE_ARGUMENTS
        key = (asked.endpoint, asked.model)
        found = self._supported.get(key)
        if found is None:
            if len(self._supported) >= _SUPPORTED_KEPT:
                self._supported.clear()
            # In a thread: the first question about a provider imports what speaks to it.
            names = await asyncio.to_thread(
                litellm.get_supported_openai_params,
                asked.model,
                custom_llm_provider=self._row.litellm_provider,
                request_type=_REQUEST_TYPES[asked.endpoint],
            )
            found = self._supported[key] = frozenset(names or ())
        return found

    def _arguments(self, asked: Asked, arguments: Mapping[str, Any], call: "LibraryCall") -> dict[str, Any]:
        """Everything the library is told, so that it looks for nothing itself."""
        told: dict[str, Any] = {
            **arguments,
            "model": asked.model,
            "custom_llm_provider": self._row.litellm_provider,
            "api_key": self._api_key or None,
            "api_base": self._row.base_url or None,
            # Kept by the wire, to the tick; this one only has to be no shorter.
            "timeout": call.request.deadlines.total_s,
            "max_retries": 0,
            "num_retries": 0,
            "caching": False,
            "no-log": True,
        }
        if asked.endpoint == "images":
            # Here alone the library looks for its provider in the model's name only.
            told["model"] = f"{self._row.litellm_provider}/{asked.model}"
        else:
            told["drop_params"] = False
        if asked.endpoint == "chat":
            # No tool is looked up or run here; the library would import its whole proxy to find out.
            told["_skip_mcp_handler"] = True
        if arguments.get("stream") and "stream_options" in self._supported[("chat", asked.model)]:
            told["stream_options"] = {"include_usage": True}
        return told

    # One call

    async def _answer(self, litellm: Any, call: "LibraryCall", arguments: Mapping[str, Any]) -> Exchange:
        asked = call.asked
        function = {
            "chat": litellm.acompletion,
            "embeddings": litellm.aembedding,
            "images": litellm.aimage_generation,
        }[asked.endpoint]
        try:
            async with call.running():
                answer = await function(**self._arguments(asked, arguments, call))
                if asked.arguments.get("stream"):
                    stream = LibraryStream(call, answer, self._api_key)
                    await stream.begin()
                    return stream
        except (RequestError, UpstreamFailure):
            raise
        except Exception as exc:
            return self._refusal(call, exc)
        try:
            body = self._told(call, answer)
        except Untranslatable as exc:
            raise call.wire.failed("invalid", str(exc)) from exc
        if not call.wire.is_sent:
            # Not by any client that is watched; what it cost must be booked all the same.
            call.request.on_dial()
        return LibraryAnswer(call, 200, body)

    def _told(self, call: "LibraryCall", answer: Any) -> bytes:
        asked = call.asked
        if asked.endpoint == "embeddings":
            count = len(asked.arguments["input"])
            return embeddings_answer(answer, model=asked.model, count=count, is_base64=asked.is_base64)
        if asked.endpoint == "images":
            return images_answer(answer)
        return chat_answer(answer, model=asked.model, answer_id=call.answer_id)

    def _refusal(self, call: "LibraryCall", exc: Exception) -> Exchange:
        """What an exception of the library means: who it was that failed tells the wire, not the exception's class."""
        wire = call.wire
        if wire.failure is not None:
            raise wire.failure from exc
        if wire.status >= 300:
            return LibraryAnswer(call, wire.status, error_bytes(exc, self._api_key))
        if wire.status or wire.is_sent:
            raise wire.failed("invalid", f"the library could not read the answer: {type(exc).__name__}") from exc
        kind = kind_of(exc)
        if kind.type == "invalid_request_error":
            raise RequestError(message_of(exc, self._api_key), status=400, code=kind.code) from exc
        # It never came to a request: credentials it could not get, a provider it does not know, a bug.
        raise wire.failed("invalid", f"the library sent nothing: {type(exc).__name__}") from exc


# Loading

_load_lock = threading.Lock()
_library: Any = None


def _loaded() -> Any:
    """litellm, set up. Runs in a thread; the second caller waits for the first."""
    global _library
    with _load_lock:
        if _library is None:
            set_library_defaults()
            with _no_collection():
                import litellm

                _set_up(litellm)
            _library = litellm
    return _library


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Importing makes hundreds of thousands of objects that stay: looking for garbage among them would stop every call
    for 80 ms (25 without). What was made is not looked at later either."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _set_up(litellm: Any) -> None:
    """Nothing is fetched, cached, counted, reported, logged or repeated, and every client ends in the guard."""
    import httpx
    from litellm.llms.custom_httpx import http_handler

    from gateway.providers.litellm_wire import BlockedTransport, GuardedTransport

    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
    for name, value in _LIBRARY_SETTINGS.items():
        setattr(litellm, name, value)
    for name in _CALLBACKS:
        setattr(litellm, name, [])

    def client(*_: Any, **__: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=GuardedTransport(), trust_env=False, follow_redirects=False)

    def blocked_client(*_: Any, **__: Any) -> httpx.Client:
        return httpx.Client(transport=BlockedTransport(), trust_env=False, follow_redirects=False)

    http_handler.AsyncHTTPHandler.create_client = client
    http_handler.HTTPHandler.create_client = blocked_client
    litellm.module_level_aclient.client = litellm.aclient_session = client()
    litellm.module_level_client.client = litellm.client_session = blocked_client()


_LIBRARY_SETTINGS: Mapping[str, Any] = {
    "telemetry": False,
    "suppress_debug_info": True,
    "set_verbose": False,
    "drop_params": False,
    "modify_params": False,
    "cache": None,
    "num_retries": None,
    "model_fallbacks": None,
    "use_litellm_proxy": False,
    "disable_token_counter": True,
    "disable_streaming_logging": True,
    "redact_messages_in_exceptions": True,
    "include_cost_in_streaming_usage": False,
    "enable_json_schema_validation": False,
    "disable_aiohttp_transport": True,
    "user_url_validation": True,
    "user_url_allowed_hosts": [],
}
_CALLBACKS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "service_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
    "pre_call_rules",
    "post_call_rules",
)
