"""Run by the Python that has litellm: `python -m tests.litellm.inside QUESTION` prints the answer as JSON.

Questions: `library` (its exception classes and what the gateway makes of them, every name a call of it takes, how it
stands once the gateway has loaded it, where it sends calls of a provider, what it may send when no call runs) and `start` (what is loaded when the gateway
serves).
"""

import ast
import asyncio
import importlib
import inspect
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.litellm.parameters import parameter_names


def exceptions() -> dict[str, Any]:
    from gateway.providers import litellm_answers
    from gateway.providers.litellm_adapter import _loaded

    module = importlib.import_module(f"{_loaded().__name__}.exceptions")
    classes = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, BaseException) and each.__module__ == module.__name__
    ]
    return {each.__name__: litellm_answers.KINDS.get(each.__name__) for each in classes}


def parameters() -> list[str]:
    from gateway.providers.litellm_adapter import _loaded

    litellm = _loaded()
    found: set[str] = set()
    for function in (litellm.completion, litellm.acompletion, litellm.embedding, litellm.image_generation):
        found |= parameter_names(function)
    types = importlib.import_module(f"{litellm.__name__}.types.utils")
    router = importlib.import_module(f"{litellm.__name__}.types.router")
    found |= set(types.all_litellm_params) | set(litellm.OPENAI_CHAT_COMPLETION_PARAMS)
    found |= set(router.GenericLiteLLMParams.model_fields)
    main = inspect.getsource(importlib.import_module(f"{litellm.__name__}.main"))
    found |= _taken_out_of_keywords(ast.parse(main))
    return sorted(name for name in found if name.isascii() and name not in ("args", "kwargs", "self"))


def _taken_out_of_keywords(tree: ast.AST) -> set[str]:
    """Names in `kwargs.get("NAME")` and `kwargs.pop("NAME")`."""
    names = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        of, first = node.func.value, node.args[0]
        is_ours = isinstance(of, ast.Name) and of.id in ("kwargs", "optional_params", "non_default_params")
        if is_ours and node.func.attr in ("get", "pop") and isinstance(first, ast.Constant):
            names.add(str(first.value))
    return names


def settings() -> dict[str, Any]:
    from gateway.providers import litellm_adapter

    litellm = litellm_adapter._loaded()
    wanted = {**litellm_adapter._LIBRARY_SETTINGS, **{name: [] for name in litellm_adapter._CALLBACKS}}
    different = {
        name: repr(getattr(litellm, name)) for name, value in wanted.items() if getattr(litellm, name) != value
    }
    loggers = [logging.getLogger(name) for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router")]
    return {
        "different": different,
        "loud": [each.name for each in loggers if each.isEnabledFor(logging.CRITICAL) or each.propagate],
        "has_unknown_callbacks": any(
            value for name, value in vars(litellm).items() if name.endswith("callback") and isinstance(value, list)
        ),
    }


def addresses() -> dict[str, str | None]:
    """Of the providers that an import knows the address of, where the library would send a call; None where it says so later."""
    from gateway.litellm_config.providers import _KNOWN
    from gateway.providers.litellm_adapter import _loaded

    find = _loaded().get_llm_provider
    return {name: find(f"{name}/any", api_key="sk-rig")[3] for name, known in _KNOWN.items() if known.base_url}


def outside() -> list[str]:
    """Sends something by every client the library may take, to the port in the environment."""
    from gateway.providers.litellm_adapter import _loaded

    litellm = _loaded()
    handler = importlib.import_module(f"{litellm.__name__}.llms.custom_httpx.http_handler")
    url = f"http://127.0.0.1:{os.environ['CANARY_PORT']}/"  # noqa: TID251 - how a child is told

    async def send() -> list[str]:
        handlers = [litellm.module_level_aclient, handler.AsyncHTTPHandler(), handler.get_async_httpx_client("cohere")]
        clients = [*(each.client for each in handlers), litellm.aclient_session]
        blocking = [litellm.module_level_client.client, handler.HTTPHandler().client, litellm.client_session]
        sendings = [*(each.get(url) for each in clients), *(asyncio.to_thread(each.get, url) for each in blocking)]
        return [await _name_of(sending) for sending in sendings]

    return asyncio.run(send())


async def _name_of(sending: Any) -> str:
    try:
        await sending
    except Exception as exc:
        return type(exc).__name__
    return "it was sent"


def start() -> dict[str, Any]:
    """Everything `gateway serve` brings to life, with an active model that is served through the library."""
    began = time.monotonic()
    from gateway.app import build_app
    from gateway.config import load_settings
    from gateway.services import open_services

    folder = Path(tempfile.mkdtemp())
    catalog = folder / "pricing.toml"
    catalog.write_text(os.environ["CATALOG"])  # noqa: TID251 - how a child is told

    async def serve() -> list[str]:
        async with open_services(load_settings(data_dir=folder, pricing_file=catalog)) as services:
            build_app(services)
            return sorted(model.name for model in services.catalog.models.values() if model.active)

    active = asyncio.run(serve())
    heavy = ("litellm", "openai", "aiohttp", "tiktoken", "boto3", "botocore", "httpx")
    return {
        "active": active,
        "loaded": sorted({name.partition(".")[0] for name in sys.modules} & set(heavy)),
        "seconds": time.monotonic() - began,
    }


def library() -> dict[str, Any]:
    return {each.__name__: each() for each in (exceptions, parameters, settings, addresses, outside)}


if __name__ == "__main__":
    print(json.dumps({"library": library, "start": start}[sys.argv[1]]()))
