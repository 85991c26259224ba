"""The table of contents: what the gateway is made of, and which path leads where.

`open_services` brings the parts to life in the order they need each other and books what a crash left behind;
`build_app` puts the paths in front of them. Nothing else picks a backend.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.accounts import Accounts
from gateway.admission import Admission
from gateway.auth import AdminAuthenticator, Authenticator
from gateway.calls import Calls
from gateway.catalog import Catalog, ProviderRow, load_catalog
from gateway.config import Settings, provider_key
from gateway.counters.memory import MemoryCounters
from gateway.counters.rebuild import rebuild_counters
from gateway.endpoints import EXCEPTION_HANDLERS, health, models
from gateway.endpoints.admin import AdminOnly, admin_routes, control_app
from gateway.endpoints.chat_completions import ChatCompletions
from gateway.endpoints.guard import CreatorOnly, RequestLog
from gateway.ledger.database import Database
from gateway.ledger.orphans import book_orphans
from gateway.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.plans import load_plans
from gateway.providers.base import Provider
from gateway.providers.mock import MockProvider
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.secrets import load_secrets
from gateway.tasks import spawn
from policies.types import Plan

_log = structlog.get_logger()

DIALECTS: Mapping[str, Callable[[ProviderRow, str, Settings], Provider]] = {
    "mock": MockProvider,
    "openai": OpenAICompatible,
}
"""A provider is one module and one line here."""

_WATCH_EVERY_S = 1.0


@dataclass(slots=True)
class Services:
    """Everything with the lifetime of the process."""

    settings: Settings
    catalog: Catalog
    plans: Mapping[str, Plan]
    database: Database
    accounts: Accounts
    authenticator: Authenticator
    admin_authenticator: AdminAuthenticator
    calls: Calls
    metrics: Metrics
    pipeline: Pipeline

    def readiness(self) -> dict[str, str]:
        """Each dependency by name: `ok`, or what is wrong."""
        return {
            "database": "ok" if self.database.ledger.is_ready else "the ledger cannot be written",
            "counters": "ok",
            "gateway": "draining" if self.calls.is_draining else "ok",
        }

    def is_ready(self) -> bool:
        return all(state == "ok" for state in self.readiness().values())

    def state(self) -> dict[str, Any]:
        """What handlers find in `request.app.state`."""
        return {
            "settings": self.settings,
            "catalog": self.catalog,
            "plans": self.plans,
            "database": self.database,
            "accounts": self.accounts,
            "authenticator": self.authenticator,
            "admin_authenticator": self.admin_authenticator,
            "metrics": self.metrics,
            "readiness": self.readiness,
        }


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """The parts, alive as long as the context is entered. Raises `ConfigError`. Opens no network connection."""
    catalog = load_catalog(settings.pricing_file).with_keys(provider_key)
    plans = load_plans(settings.plans_file)
    secrets = load_secrets(settings)
    async with AsyncExitStack() as stack:
        # The embedded store has one process: every hold that is open now belongs to one that died.
        instance_id = uuid.uuid4().hex
        database = await Database.open(settings.database_path, settings=settings, instance_id=instance_id)
        stack.push_async_callback(database.close)
        await _book_crashed(database)
        await database.record_prices({model.name: model.price for model in catalog.models.values()})
        authenticator = Authenticator(database, plans, secrets)
        counters = MemoryCounters()
        await rebuild_counters(counters, database, plans)
        providers, keys = await _open_providers(catalog, settings, stack)
        calls = Calls(settings.calls_max)
        services: Services
        metrics = Metrics(calls_in_flight=lambda: len(calls), is_ready=lambda: services.is_ready())
        services = Services(
            settings=settings,
            catalog=catalog,
            plans=plans,
            database=database,
            accounts=Accounts(database, plans, secrets, authenticator),
            authenticator=authenticator,
            admin_authenticator=AdminAuthenticator(database, secrets, settings.admin_key),
            calls=calls,
            metrics=metrics,
            pipeline=Pipeline(
                settings=settings,
                admission=Admission(
                    catalog=catalog,
                    providers=providers,
                    counters=counters,
                    ledger=database.ledger,
                    metrics=metrics,
                ),
                provider_keys=keys,
                authenticator=authenticator,
                counters=counters,
                ledger=database.ledger,
                calls=calls,
                metrics=metrics,
            ),
        )
        watch = spawn(_watch(services), "watch-calls")
        stack.callback(watch.cancel)
        yield services


def build_app(services: Services) -> ASGIApp:
    """The public app: hot paths first, then health, then everything that needs a key."""
    pages = Starlette(routes=[*health.routes, *models.routes, *admin_routes()], exception_handlers=EXCEPTION_HANDLERS)
    pages.router.redirect_slashes = False
    pages.add_middleware(CreatorOnly)
    pages.add_middleware(AdminOnly)
    pages.add_middleware(RequestLog)
    for name, value in services.state().items():
        setattr(pages.state, name, value)
    chat = ChatCompletions(services.pipeline, services.settings.body_bytes_max)
    hot: Mapping[str, ASGIApp] = {chat.path: chat}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hot.get(scope.get("path", ""), pages)(scope, receive, send)

    return app


def build_control_app(services: Services) -> ASGIApp:
    """The admin API for the Unix socket, whose file mode says who may call."""
    return control_app(services.state())


async def _open_providers(
    catalog: Catalog, settings: Settings, stack: AsyncExitStack
) -> tuple[dict[str, Provider], dict[str, str]]:
    providers: dict[str, Provider] = {}
    keys: dict[str, str] = {}
    for row in catalog.providers.values():
        if row.dialect in DIALECTS:
            keys[row.name] = (provider_key(row.api_key_env) if row.api_key_env else None) or ""
            provider = providers[row.name] = DIALECTS[row.dialect](row, keys[row.name], settings)
            stack.push_async_callback(provider.close)
    return providers, keys


async def _book_crashed(database: Database) -> None:
    booked = await book_orphans(database)
    if booked:
        _log.warning("orphaned_holds_booked", count=len(booked), note="calls a crash cut off; see outcome=crashed")


async def _watch(services: Services) -> None:
    """Once a second: calls past their deadline, and now and then holds whose call is gone."""
    sweep_every = max(1, int(services.settings.hold_timeout_s / 4))
    turn = 0
    while True:
        await asyncio.sleep(_WATCH_EVERY_S)
        turn += 1
        try:
            services.calls.interrupt_overdue()
            if turn % sweep_every == 0:
                await book_orphans(
                    services.database,
                    older_than_s=services.settings.hold_timeout_s,
                    is_alive=services.calls.__contains__,
                )
        except Exception:
            # A store in trouble now must not mean that nobody watches later.
            _log.exception("watch_failed")


__all__ = ["DIALECTS", "Services", "build_app", "build_control_app", "open_services"]
