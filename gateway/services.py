"""The parts the gateway is made of, brought to life in the order they need each other.

What a crash left behind is booked before anybody calls. Nothing else picks a backend.
"""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway.accounts import Accounts
from gateway.addresses import Networks, trusted_networks
from gateway.admission import Admission
from gateway.assets.library import AssetBounds, Library
from gateway.assets.links import AssetLinks, public_base_url
from gateway.assets.opening import open_asset_store
from gateway.audit import AuditLog
from gateway.auth import AdminAuthenticator, Authenticator
from gateway.booking import Booking
from gateway.cache.place import CachePlace
from gateway.cache.responses import ResponseCache
from gateway.cache.sqlite import SqliteCache
from gateway.calls import Calls
from gateway.catalog import Catalog, Price, ProviderRow
from gateway.config import Settings, provider_key
from gateway.counters.base import Counters, CounterSeeds
from gateway.counters.opening import open_counters
from gateway.counters.rebuild import rebuild_counters
from gateway.counters.window_seeds import seed_new_windows, windows_added
from gateway.credits import Credits
from gateway.dashboard.sessions import SessionBook
from gateway.errors import ConfigError, StoreError
from gateway.housekeeping import drop_old_entries, give_back, tidy, watch
from gateway.idempotency import Idempotency
from gateway.instances.base import AloneInstance
from gateway.instances.news import FORGOTTEN, listen
from gateway.instances.opening import open_instances
from gateway.kept_images import KeptImages
from gateway.ledger.database import Database
from gateway.ledger.expiry import expire_credits
from gateway.ledger.gauges import LedgerGauges
from gateway.ledger.identity import database_id
from gateway.ledger.opening import open_database
from gateway.ledger.orphans import book_orphans
from gateway.ledger.reloads import count_reload
from gateway.live import Changes, Live
from gateway.lookout import Lookout
from gateway.metrics import Metrics
from gateway.notices.signals import Signals
from gateway.pipeline import Pipeline
from gateway.providers.anthropic import Anthropic
from gateway.providers.base import Provider
from gateway.providers.fal import Fal
from gateway.providers.gemini import Gemini
from gateway.providers.litellm_adapter import LiteLlm, require_library
from gateway.providers.mock import MockProvider
from gateway.providers.openai_compatible import OpenAICompatible
from gateway.repeats import Repeats
from gateway.responses.state import ResponseStore
from gateway.routing import Deployments
from gateway.schema_checker import SchemaChecker
from gateway.sealing import Sealer
from gateway.secrets import Secrets, load_secrets
from gateway.tasks import spawn
from gateway.telemetry import open_telemetry
from policies.types import Plan

if TYPE_CHECKING:
    from gateway.instances.shared import SharedInstances

_log = structlog.get_logger()

DIALECTS: Mapping[str, Callable[[ProviderRow, str, Settings], Provider]] = {
    "anthropic": Anthropic,
    "fal": Fal,
    "gemini": Gemini,
    "litellm": LiteLlm,
    "mock": MockProvider,
    "openai": OpenAICompatible,
}
"""A provider is one module and one line here."""

_CLOCK_DIFFERS_S = 5.0
"""Between this machine and the database: holds and windows measured by the one are read by the other."""
_BELIEVED_S = 60.0
"""How long a key is believed unheard of where others write to the same database, and are heard: every change is announced."""
_UNHEARD_S = 1.0

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Services:
    """Everything with the lifetime of the process."""

    settings: Settings
    live: Live
    database: Database
    instances: "AloneInstance | SharedInstances"
    counters: Counters
    accounts: Accounts
    credits: Credits
    authenticator: Authenticator
    admin_authenticator: AdminAuthenticator
    sessions: SessionBook
    audit: AuditLog
    trusted_proxies: Networks
    calls: Calls
    metrics: Metrics
    deployments: Deployments
    admission: Admission
    pipeline: Pipeline
    providers: Mapping[str, Provider]
    provider_keys: Mapping[str, str]
    kept_images: KeptImages
    response_store: ResponseStore
    cache: ResponseCache
    idempotency: Idempotency
    lookout: Lookout
    clock: Clock

    @property
    def catalog(self) -> Catalog:
        """As it stands now: a reload replaces it."""
        return self.live.catalog

    async def reload(self) -> Changes:
        """Read plans and catalog again; what differs counts on the next call. Raises `ConfigError`, changing nothing."""
        changes = await self.live.reload(
            record_prices=self.database.record_prices,
            plans_in_use=self.accounts.plans_in_use,
            before_swap=self._seed_added_windows,
        )
        self.authenticator.invalidate()
        _log.info("reloaded", **changes.to_json())
        return changes

    async def reload_everywhere(self) -> Changes:
        """`reload`, and every other process does the same within a second: what it cannot do it logs. Raises `ConfigError`
        where this process cannot, and `StoreError` where the others cannot be told."""
        changes = await self.reload()
        if isinstance(self.instances, AloneInstance):
            return changes
        self.instances.reloads = await self.database.run(count_reload)
        return changes

    async def announce(self, word: str, rest: str) -> None:
        """Tells the other processes, of which each does its part. Raises `StoreError`."""
        if not isinstance(self.instances, AloneInstance):
            await self.database.run(lambda transactions: transactions.announce(f"{word} {rest}"))

    async def _seed_added_windows(self, plans: Mapping[str, Plan]) -> None:
        """Windows that no plan had before begin with what was used already."""
        added = windows_added(self.live.plans.values(), plans.values())
        await seed_new_windows(self.counters, self.database, fields=added, now=self.clock())

    def readiness(self) -> dict[str, str]:
        """Each dependency by name: `ok`; `degraded: why`, where calls are taken by the rule for trouble; or what is wrong."""
        degraded = {what: f"degraded: {why}" for what, why in self.degraded().items() if why}
        checks = {
            "database": "ok" if self.database.ledger.is_ready else "the ledger cannot be written",
            "counters": "ok" if self.counters.is_available else "the counters cannot be reached",
            "gateway": "draining" if self.calls.is_draining else "ok",
        }
        for what, why in degraded.items():
            if checks.get(what, "ok") == "ok":
                checks[what] = why
        return checks

    def degraded(self) -> dict[str, str]:
        """What works by the rule for trouble, and why; empty where it does not."""
        ledger, ahead_s = self.database.ledger, abs(self.database.clock_ahead_ms) / 1000
        waiting = f"{ledger.spooled} settles wait on local disk" if ledger.spooled else ""
        return {
            "database": waiting if ledger.is_ready else "the ledger cannot be written",
            "counters": self.counters.degraded if self.counters.is_available else "the counters cannot be reached",
            "clock": f"{ahead_s:.0f} s from the database's" if ahead_s > _CLOCK_DIFFERS_S else "",
        }

    def is_ready(self) -> bool:
        """Whether calls are taken. A provider in trouble does not end that: other models may be well."""
        return all(state == "ok" or state.startswith("degraded") for state in self.readiness().values())

    def state(self) -> dict[str, Any]:
        """What handlers find in `request.app.state`."""
        return {
            "settings": self.settings,
            "live": self.live,
            "plans": self.live.plans,
            "database": self.database,
            "counters": self.counters,
            "accounts": self.accounts,
            "credits": self.credits,
            "admission": self.admission,
            "window_headers": self.admission.window_headers,
            "calls": self.calls,
            "trusted_proxies": self.trusted_proxies,
            "clock": self.clock,
            "reload": self.reload_everywhere,
            "announce": self.announce,
            "authenticator": self.authenticator,
            "admin_authenticator": self.admin_authenticator,
            "sessions": self.sessions,
            "audit": self.audit,
            "metrics": self.metrics,
            "readiness": self.readiness,
            "deployments": self.deployments,
            "providers": self.providers,
            "provider_keys": self.provider_keys,
            "kept_images": self.kept_images,
            "response_store": self.response_store,
            "cache": self.cache,
            "notices": self.lookout.notices,
            "notice_delivery": self.lookout.delivery,
        }


@asynccontextmanager
async def open_services(settings: Settings, *, clock: Clock = utc_now) -> AsyncIterator[Services]:
    """The parts, alive as long as the context is entered. Raises `ConfigError`. Connects to nobody but the stores that
    the settings name.

    `clock` says when calls are admitted; tests set it.
    """
    # Asked several times a call: the plain clock costs a tenth of one made from an instant.
    wall_clock: Callable[[], float] = time.time if clock is utc_now else lambda: clock().timestamp()
    live = Live(settings.pricing_file, settings.plans_file, provider_key)
    trusted_proxies = trusted_networks(settings.trusted_proxies)
    secrets = load_secrets(settings)
    async with AsyncExitStack() as stack:
        instance_id = uuid.uuid4().hex
        database = await open_database(settings, instance_id=instance_id)
        # When the last hold has ended this process is gone, to the others.
        instances = await open_instances(settings, instance_id)
        reloads = 0
        if not isinstance(instances, AloneInstance):
            # Others may have been told meanwhile to read them again; from here on this process is, too.
            reloads, live = instances.reloads, Live(settings.pricing_file, settings.plans_file, provider_key)
        stack.push_async_callback(instances.aclose)
        stack.push_async_callback(database.close)
        dead = []
        if not settings.has_shared_stores:
            # Alone: every hold that is open now belongs to a process that died, and nothing is in flight yet.
            dead = await book_orphans(database)
            await expire_credits(database, clock(), late_holds_s=0)
        await database.record_prices(live.catalog.prices())

        async def rebuild(seeds: CounterSeeds) -> None:
            await rebuild_counters(seeds, database, plans=live.plans, now=clock())

        counters = await open_counters(
            settings,
            rebuild,
            database=database,
            instances=instances,
            wall_clock=wall_clock,
            database_id=await database_id(database) if settings.redis_url is not None else "",
        )
        stack.push_async_callback(counters.aclose)
        await give_back(counters, dead)
        authenticator = Authenticator(database, live.plans, secrets, wall_clock=wall_clock)
        if settings.has_shared_stores:
            authenticator.believe(_BELIEVED_S)
        credit_book = Credits(
            database,
            lambda: live.credit_packages,
            counters,
            authenticator,
            wall_clock=wall_clock,
        )

        async def seed_windows(fields: Collection[str], creators: Collection[str]) -> None:
            await seed_new_windows(counters, database, fields=fields, creators=creators, now=clock())

        require_library(live.catalog)
        provider_objects, keys = await _open_providers(live.catalog, settings, stack)
        kept_images = _open_kept_images(settings, secrets, database, wall_clock)
        stack.push_async_callback(kept_images.close)
        response_store = ResponseStore(database, wall_clock=wall_clock)
        schema_checker = SchemaChecker()
        stack.push_async_callback(schema_checker.close)
        calls = Calls(settings.calls_max)
        cache_place = stack.enter_context(CachePlace(settings.data_dir, settings.workers))
        cache = _open_cache(settings, cache_place.path, secrets, wall_clock)
        stack.push_async_callback(cache.close)
        idempotency = Idempotency(
            database,
            secrets,
            ttl_s=settings.idempotency_ttl_s,
            answer_bytes_max=settings.idempotency_answer_bytes_max,
            bytes_max=settings.idempotency_bytes_max,
            wall_clock=wall_clock,
            is_alive=calls.__contains__,
            has_others=lambda: instances.count > 1,
        )
        services: Services

        async def announce_forgotten(creator: str) -> None:
            await services.announce(FORGOTTEN, creator)

        metrics = Metrics(
            calls_in_flight=lambda: len(calls),
            is_ready=lambda: services.is_ready(),
            degraded=lambda: {what: bool(why) for what, why in services.degraded().items()},
            instances=lambda: instances.count,
            is_leader=lambda: instances.is_leader,
            spooled_settles=lambda: database.ledger.spooled,
            deployments=lambda: deployments.up(live.catalog),
        )
        metrics.ledger = LedgerGauges(database, wall_clock=wall_clock)

        async def record_price(model: str, price: Price) -> None:
            await database.record_prices({model: price})

        deployments = Deployments(
            failures_max=settings.circuit_failures_max, open_s=settings.circuit_open_s, clock=time.monotonic
        )
        admission = Admission(
            catalog=lambda: live.catalog,
            providers=provider_objects,
            deployments=deployments,
            counters=counters,
            ledger=database.ledger,
            metrics=metrics,
            record_price=record_price,
            schema_checker=schema_checker,
            attempts_max=settings.attempts_max,
            is_observing=settings.policy_mode == "observe",
            clock=clock,
        )
        signals = Signals()
        telemetry = open_telemetry(settings, metrics)
        if telemetry is not None:
            stack.push_async_callback(telemetry.close)
        booking = Booking(
            ledger=database.ledger, counters=counters, metrics=metrics, signals=signals, telemetry=telemetry
        )
        repeats = Repeats(
            cache=cache,
            idempotency=idempotency,
            admission=admission,
            booking=booking,
            metrics=metrics,
            recorded_bytes_max=settings.answers_bytes_max,
            wall_clock=wall_clock,
        )
        accounts = Accounts(
            database,
            live.plans,
            secrets,
            authenticator,
            wall_clock=wall_clock,
            seed_windows=seed_windows,
            forget=(response_store.forget, kept_images.forget, idempotency.forget, cache.forget, announce_forgotten),
            has_settings_key=settings.admin_key is not None,
        )
        listen(instances, authenticator, cache)
        lookout = Lookout(
            settings=settings,
            secrets=secrets,
            database=database,
            counters=counters,
            accounts=accounts,
            authenticator=authenticator,
            signals=signals,
            instances=instances,
            wall_clock=wall_clock,
        )
        stack.push_async_callback(lookout.close)
        admin_authenticator = AdminAuthenticator(database, secrets, settings.admin_key)
        services = Services(
            settings=settings,
            live=live,
            database=database,
            instances=instances,
            counters=counters,
            accounts=accounts,
            credits=credit_book,
            authenticator=authenticator,
            admin_authenticator=admin_authenticator,
            sessions=SessionBook(database, secrets, authenticator, admin_authenticator, wall_clock=wall_clock),
            audit=AuditLog(database),
            trusted_proxies=trusted_proxies,
            calls=calls,
            metrics=metrics,
            deployments=deployments,
            admission=admission,
            pipeline=Pipeline(
                settings=settings,
                admission=admission,
                deployments=deployments,
                provider_keys=keys,
                authenticator=authenticator,
                counters=counters,
                ledger=database.ledger,
                booking=booking,
                cache=cache,
                repeats=repeats,
                signals=signals,
                calls=calls,
                metrics=metrics,
                schema_checker=schema_checker,
                trusted_proxies=trusted_proxies,
                telemetry=telemetry,
            ),
            providers=provider_objects,
            provider_keys=keys,
            kept_images=kept_images,
            response_store=response_store,
            cache=cache,
            idempotency=idempotency,
            lookout=lookout,
            clock=clock,
        )
        if telemetry is not None:
            telemetry.watch_page()
        if not isinstance(instances, AloneInstance):
            _keep_up(instances, services, reloads)
        if orphaned := await services.accounts.orphaned_plans():
            _log.warning("plans_missing", plans=orphaned, note="calls of creators on them are refused")
        for work, name in (
            (watch(services), "watch-calls"),
            (tidy(services), "remove-what-expired"),
            (drop_old_entries(services), "drop-old-entries"),
        ):
            stack.callback(spawn(work, name).cancel)
        yield services


def _keep_up(instances: "SharedInstances", services: Services, reloads: int) -> None:
    """What others change counts here too, however long this process heard nothing of them. `reloads`: how often plans and
    prices had been read again when this process read them."""

    def hear(is_heard: bool) -> None:
        services.authenticator.believe(_BELIEVED_S if is_heard else _UNHEARD_S)
        if is_heard:
            services.authenticator.invalidate()
            spawn(services.cache.clear(), "clear-cache")  # answers may be among them that were to be removed

    async def reload() -> None:
        try:
            await services.reload()
        except (ConfigError, StoreError) as exc:
            _log.error("reload_refused", reason=str(exc))

    def begin_reload() -> None:
        spawn(reload(), "reload-as-others-did")

    instances.on_heard = hear
    instances.on_reloads = begin_reload
    hear(instances.is_heard)
    if instances.reloads != reloads:
        begin_reload()


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


def _open_kept_images(
    settings: Settings, secrets: Secrets, database: Database, wall_clock: Callable[[], float]
) -> KeptImages:
    access, secret = settings.assets_s3_access_key, settings.assets_s3_secret_key
    store = open_asset_store(
        settings.assets_url,
        settings.data_dir,
        endpoint=settings.assets_s3_endpoint,
        region=settings.assets_s3_region,
        access_key=access.get_secret_value() if access else None,
        secret_key=secret.get_secret_value() if secret else None,
    )
    bounds = AssetBounds(settings.asset_bytes_max, settings.creator_assets_bytes_max, settings.assets_bytes_max)
    links = AssetLinks(
        secrets.hasher("asset-links"),
        public_base_url(settings.public_url, settings.host, settings.port),
        ttl_s=settings.asset_url_ttl_s,
    )
    library = Library(database, store, bounds, wall_clock=wall_clock)
    return KeptImages(database, library, links, keeps_history=settings.generation_history)


def _open_cache(
    settings: Settings, path: Path | None, secrets: Secrets, wall_clock: Callable[[], float]
) -> ResponseCache:
    store = None
    if settings.cache_bytes_max and path is not None:
        sealer = Sealer(secrets, "cache-answers")
        store = SqliteCache(path, sealer, bytes_max=settings.cache_bytes_max, wall_clock=wall_clock)
    return ResponseCache(store, digest=secrets.hasher("cache-keys"), settings=settings, wall_clock=wall_clock)


__all__ = ["DIALECTS", "Services", "open_services"]
