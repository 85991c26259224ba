"""`router_settings`, `litellm_settings`, `general_settings` and the rest -> settings of the gateway, a plan, and advice."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from gateway.litellm_config.source import At

__all__ = ["Found", "read_settings"]

_MIB = 2**20
_RETRIES_MAX = 5
_ATTEMPTS_MAX = 10
_MONTHS = re.compile(r"(30d|31d|1mo|monthly|1 ?month)", re.IGNORECASE)
_DAYS = re.compile(r"([0-9]{1,5})d")
_KINDS_OF_CACHE: Mapping[str, frozenset[str]] = {
    "CHAT": frozenset({"completion", "acompletion", "anthropic_messages", "responses", "aresponses"}),
    "COMPLETION": frozenset({"text_completion", "atext_completion"}),
    "EMBEDDING": frozenset({"embedding", "aembedding"}),
    "IMAGE": frozenset({"image_generation", "aimage_generation"}),
}
_TRACES = "set GATEWAY_OTEL_ENDPOINT (extra `otel`), if it takes OTLP; /metrics is always there for Prometheus"
_SPENDING = "every call is in the ledger: GET /admin/ledger, as CSV too"
_ADVICE: Mapping[str, Mapping[str, str]] = {
    "router_settings": {
        "routing_strategy_args": "there is one strategy: shares by weight, health first",
        "context_window_fallbacks": "a prompt that does not fit is told to the caller: 400 context_length_exceeded",
        "content_policy_fallbacks": "a refusal of the model's is told to the caller",
        "retry_policy": "retries go by model, whatever the error; a caller's mistake is never repeated (docs/providers.md)",
        "model_group_retry_policy": "retries go by model: its key retries",
        "allowed_fails_policy": "failures in a row count: GATEWAY_CIRCUIT_FAILURES_MAX",
        "retry_after": "pauses follow the provider's retry-after, else 0.25 s doubling up to 5 s",
        "enable_pre_call_checks": "a prompt above context_tokens_max of the model is never believed to be free: holds go by it",
        "enable_tag_filtering": "no routing by tags: give deployments model names of their own",
        "tag_filtering_match_any": "no routing by tags",
        "default_litellm_params": "there are no defaults for fields of requests",
        "disable_cooldowns": "GATEWAY_CIRCUIT_FAILURES_MAX=0 turns the circuit breaker off",
        "cache_responses": "the plan's cache decides",
        "cache_kwargs": "the plan's cache decides",
        "provider_budget_config": "plans have limits towards providers, in requests and tokens",
        "set_verbose": "GATEWAY_LOG_LEVEL=debug",
        "debug_level": "GATEWAY_LOG_LEVEL=debug",
    },
    "litellm_settings": {
        "drop_params": "what a dialect does not have is left out where it is harmless, else refused by name (docs/providers.md)",
        "modify_params": "requests are sent as callers wrote them, but for what docs/providers.md names",
        "set_verbose": "GATEWAY_LOG_LEVEL=debug",
        "json_logs": "logs are JSON lines unless GATEWAY_LOG_FORMAT=console",
        "turn_off_message_logging": "prompts and answers are never logged",
        "redact_messages_in_exceptions": "prompts and answers are never logged",
        "redact_user_api_key_info": "logs hold ids, never keys",
        "max_budget": "no budget over all creators: each has its plan's; GATEWAY_NOTICE_DAY_COST_USD tells of a dear day",
        "budget_duration": "no budget over all creators: each has its plan's, for a calendar month",
        "upperbound_key_generate_params": "a key's overrides never go beyond its creator's plan",
        "key_generation_settings": "keys are made by admins: POST /admin/creators/ID/keys",
        "context_window_fallbacks": "a prompt that does not fit is told to the caller: 400 context_length_exceeded",
        "content_policy_fallbacks": "a refusal of the model's is told to the caller",
        "ssl_verify": "TLS is always verified, against the system's certificates",
        "force_ipv4": "the system's resolver decides",
        "langfuse_default_tags": "tags come with calls: x-gateway-feature, x-gateway-agent, x-gateway-tags",
        "disable_end_user_cost_tracking": "metrics have no label of a user",
        "enable_json_schema_validation": "structured outputs are checked where the provider does not (docs/endpoints.md)",
        "default_team_settings": "accounts are creators: one for each team, with a plan of its own",
        "public_model_groups": "GET /v1/models wants a virtual key",
        "tag_budget_config": "no budgets by tag: GET /admin/costs?group_by=feature tells what was spent",
    },
    "general_settings": {
        "database_url": "LiteLLM's database is never opened; set GATEWAY_DATABASE_URL to one of the gateway's own, or nothing",
        "database_connection_pool_limit": "the pool is the gateway's own",
        "database_connection_timeout": "the pool is the gateway's own",
        "store_model_in_db": "models stand in pricing.toml and nowhere else",
        "store_prompts_in_spend_logs": "prompts are never stored beside the ledger",
        "disable_spend_logs": _SPENDING,
        "disable_spend_updates": _SPENDING,
        "custom_auth": "virtual keys are the only way in; networks can be bound by a plan: addresses",
        "enable_jwt_auth": "virtual keys are the only way in",
        "enable_oauth2_auth": "virtual keys are the only way in",
        "litellm_jwtauth": "virtual keys are the only way in",
        "allowed_routes": "write it yourself: endpoints in a plan",
        "public_routes": "only /health, /docs and signed URLs of images are open",
        "enforce_user_param": "who is charged follows from the key, never from the body",
        "max_parallel_requests": "write it yourself: concurrent_calls in a plan",
        "background_health_checks": "health follows from the calls themselves: no calls are made to ask",
        "health_check_interval": "health follows from the calls themselves: no calls are made to ask",
        "health_check_details": "GET /admin/providers tells",
        "alert_types": "every notice goes to every target (docs/notices.md)",
        "alerting_threshold": "no alert on slow calls by itself: deploy/prometheus/alerts.yml",
        "alerting_args": "docs/notices.md says what is told, and when",
        "pass_through_endpoints": "there are no pass-through endpoints",
        "key_management_system": "provider keys come from the environment; put your secret manager in front of it",
        "key_management_settings": "provider keys come from the environment; put your secret manager in front of it",
        "infer_model_from_keys": "the catalog says what there is",
        "completion_model": "a request names its model",
        "allow_requests_on_db_unavailable": "a call that cannot be booked is refused",
        "proxy_batch_write_at": "an entry is durable before its call ends",
        "proxy_budget_rescheduler_min_time": "budgets are those of the calendar month: nothing is reset",
        "proxy_budget_rescheduler_max_time": "budgets are those of the calendar month: nothing is reset",
        "maximum_spend_logs_retention_interval": "closed months are dropped when a month is closed",
        "ui_access_mode": "admins and creators see their own pages at /dashboard",
        "service_account_settings": "a service is a creator, or a key with the scope act_for",
    },
}
_WHOLE: Mapping[str, str] = {
    "guardrails": "no content filters: call a moderation model from the app, or through /v1/moderations",
    "mcp_servers": "no MCP servers",
    "mcp_tools": "no MCP servers",
    "vector_store_registry": "no vector stores",
    "search_tools": "no search tools",
    "prompts": "no prompt templates",
    "agent_list": "no agents",
    "finetune_settings": "no fine-tuning endpoints",
    "files_settings": "no file endpoints",
    "assistant_settings": "no assistants endpoints",
    "callback_settings": _TRACES,
    "credential_list": "write the key's environment variable into litellm_params: api_key",
    "policies": "no content filters",
    "policy_attachments": "no content filters",
}


@dataclass
class Found:
    """What the other parts of the file come to."""

    settings: dict[str, str] = field(default_factory=dict)
    """`GATEWAY_*` -> value."""
    secrets: dict[str, str] = field(default_factory=dict)
    """Environment variable -> what it is for; the value is the reader's to put there."""
    plan: dict[str, object] = field(default_factory=dict)
    """Keys of a plan; empty: the packaged plans will do."""
    retries: int = 0
    fallbacks: list[tuple[At, str, list[str]]] = field(default_factory=list)
    default_fallbacks: list[tuple[At, str]] = field(default_factory=list)
    aliases: list[tuple[At, str, str]] = field(default_factory=list)


def read_settings(root: At) -> Found:
    """Everything but `model_list`; fallbacks and aliases are spoken of by whoever resolves them."""
    found = Found()
    for name, advice in _ADVICE.items():
        section = root.get(name)
        for at in section.below() if section is not None else ():
            key = str(at.path[-1])
            if key in advice:
                at.not_taken(advice[key])
    for name, why in _WHOLE.items():
        if (whole := root.get(name)) is not None:
            whole.not_taken(why)
    for section_name in ("litellm_settings", "router_settings"):
        if (section := root.get(section_name)) is not None:
            _routing(section, found)
    if (section := root.get("litellm_settings")) is not None:
        _callbacks(section)
        _cache(section, found)
        _plan(section, found)
    if (section := root.get("router_settings")) is not None:
        _redis(section, found)
    if (section := root.get("general_settings")) is not None:
        _general(section, found)
    if (section := root.get("environment_variables")) is not None:
        _environment(section, found)
    return found


# Routing


def _routing(section: At, found: Found) -> None:
    if (at := section.get("routing_strategy")) is not None:
        if at.value == "simple-shuffle":
            at.taken("shares by weight")
        else:
            at.differently("shares by weight, healthy deployments first: there is one strategy")
    if (at := section.get("num_retries")) is not None:
        wanted = _whole(at, 0, 1_000)
        if wanted is None:
            at.not_taken("is no whole number")
        else:
            found.retries = min(wanted, _RETRIES_MAX)
            note = f"retries = {found.retries} of every model"
            (at.taken if wanted <= _RETRIES_MAX else at.differently)(note)
    if (at := section.get("allowed_fails")) is not None and (number := _whole(at, 0, 10_000)) is not None:
        found.settings["GATEWAY_CIRCUIT_FAILURES_MAX"] = str(number + 1)
        at.differently(f"GATEWAY_CIRCUIT_FAILURES_MAX={number + 1}: failures in a row, not those of a minute")
    _seconds(section, "cooldown_time", "GATEWAY_CIRCUIT_OPEN_S", found)
    _seconds(section, "timeout", "GATEWAY_TOTAL_TIMEOUT_S", found)
    _seconds(section, "request_timeout", "GATEWAY_TOTAL_TIMEOUT_S", found)
    _seconds(section, "stream_timeout", "GATEWAY_FIRST_BYTE_TIMEOUT_S", found)
    if (at := section.get("fallbacks")) is not None:
        found.fallbacks += _pairs_of_fallbacks(at)
    if (at := section.get("default_fallbacks")) is not None and isinstance(at.value, list):
        found.default_fallbacks += [(each, each.value) for each in at.below() if isinstance(each.value, str)]
    if (at := section.get("model_group_alias")) is not None:
        for each in at.below() if isinstance(at.value, dict) else ():
            found.aliases += _alias(each)


def _pairs_of_fallbacks(at: At) -> list[tuple[At, str, list[str]]]:
    items = at.below() if isinstance(at.value, list) else (at,)
    pairs = (each for item in items if isinstance(item.value, dict) for each in item.below())
    return [(each, str(each.path[-1]), each.words()) for each in pairs]


def _alias(at: At) -> list[tuple[At, str, str]]:
    if isinstance(at.value, str):
        return [(at, str(at.path[-1]), at.value)]
    if (model := at.get("model")) is not None and isinstance(model.value, str):
        if (hidden := at.get("hidden")) is not None:
            hidden.not_taken("every active model is in GET /v1/models for whom the plan lets use it")
        return [(model, str(at.path[-1]), model.value)]
    return []


def _redis(section: At, found: Found) -> None:
    keys = [at for at in section.below() if str(at.path[-1]).startswith("redis_")]
    for at in keys:
        at.differently("GATEWAY_REDIS_URL: redis://[user:password@]host[:port], where processes share their counters")
    if keys:
        found.secrets["GATEWAY_REDIS_URL"] = "the Redis of router_settings, only if several processes share limits"


# Callbacks, cache, plan


def _callbacks(section: At) -> None:
    for key in ("callbacks", "success_callback", "failure_callback", "service_callbacks", "audit_log_callbacks"):
        at = section.get(key)
        for each in (at.below() if isinstance(at.value, list) else (at,)) if at is not None else ():
            if each.value == "prometheus":
                each.differently("/metrics is always there, with names of its own")
            else:
                each.not_taken(_TRACES)


def _cache(section: At, found: Found) -> None:
    at, params = section.get("cache"), section.get("cache_params")
    is_on = at is not None and at.value is True
    if at is not None:
        if is_on:
            at.differently(
                "cache of the plan; each creator is given its own answers only, unless cache_scope says shared"
            )
        else:
            at.taken("off, unless a call asks for it")
    if is_on:
        found.plan["cache"] = "on"
    for each in params.below() if params is not None and isinstance(params.value, dict) else ():
        key = str(each.path[-1])
        if not is_on:
            each.not_taken("the cache is off")
        elif key == "mode":
            if each.value == "default_off":
                found.plan["cache"] = "asked"
            each.taken(f'cache = "{found.plan["cache"]}" of the plan')
        elif key in ("ttl", "default_in_redis_ttl", "default_in_memory_ttl"):
            _ttl(each, found)
        elif key == "supported_call_types":
            _call_types(each, found)
        elif key == "type":
            each.differently("kept in cache.db of the data folder, which every process has for itself")
        else:
            each.not_taken("kept answers need no server and no bucket")


def _ttl(at: At, found: Found) -> None:
    number = at.number()
    if number is None or number < 0 or number > 10**9:
        at.not_taken("is no number of seconds")
        return
    for kind in _KINDS_OF_CACHE:
        found.settings.setdefault(f"GATEWAY_CACHE_{kind}_TTL_S", str(int(number)))
    at.taken("GATEWAY_CACHE_CHAT_TTL_S and the three others")


def _call_types(at: At, found: Found) -> None:
    wanted = set(at.words())
    for kind, words in _KINDS_OF_CACHE.items():
        if not wanted & words:
            found.settings[f"GATEWAY_CACHE_{kind}_TTL_S"] = "0"
    at.differently("a lifetime of 0 for what is not to be kept; sound is never kept")


def _plan(section: At, found: Found) -> None:
    """Limits that LiteLLM gives to new keys or users are those of the plan on which a creator is unless told otherwise."""
    names = ("default_internal_user_params", "default_key_generate_params")
    sources = [at for name in names if (at := section.get(name)) is not None and isinstance(at.value, dict)]
    for number, at in enumerate(sources):
        if number:
            at.not_taken("there is one plan for all that are given none, and default_internal_user_params says it")
            continue
        _limits(at, found)
        _budget(at, "max_budget", "budget_duration", found)
    if "budget_usd_per_month" not in found.plan:
        _budget(section, "max_internal_user_budget", "internal_user_budget_duration", found)
    else:
        for key in ("max_internal_user_budget", "internal_user_budget_duration"):
            if (other := section.get(key)) is not None:
                other.not_taken("default_internal_user_params says it")


def _limits(at: At, found: Found) -> None:
    keys = {
        "rpm_limit": "requests_per_minute",
        "tpm_limit": "tokens_per_minute",
        "max_parallel_requests": "concurrent_calls",
    }
    for key, ours in keys.items():
        if (each := at.get(key)) is None:
            continue
        if (number := _whole(each, 0, 10**9)) is None:
            each.not_taken("is no whole number up to 1 000 000 000")
        else:
            found.plan[ours] = number
            each.taken(f"{ours} of the plan")
    if (models := at.get("models")) is not None:
        words = [word for word in models.words() if not word.startswith(("all-", "no-default"))]
        if words:
            found.plan["models"] = words
            models.taken("models of the plan")
        else:
            models.taken("all models")
    for key, why in {
        "user_role": "admins have roles of their own: gateway admin-keys",
        "duration": "the end of a key is said when it is made: expires_at",
        "key_alias": "a key is named when it is made",
        "team_id": "accounts are creators",
        "teams": "accounts are creators",
        "metadata": "creators have metadata of their own",
    }.items():
        if (each := at.get(key)) is not None:
            each.not_taken(why)


def _budget(at: At, key: str, duration_key: str, found: Found) -> None:
    budget, duration = at.get(key), at.get(duration_key)
    if budget is None:
        if duration is not None:
            duration.not_taken(f"without {key} it says nothing")
        return
    amount = budget.number()
    whole_month = duration is not None and isinstance(duration.value, str) and _MONTHS.fullmatch(duration.value)
    if not whole_month:
        why = "budgets are those of a calendar month: set budget_usd_per_month of the plan to what fits"
        for each in (budget, duration):
            if each is not None:
                each.not_taken(why)
    elif amount is None or not 0 <= amount <= 10**9 or amount != round(amount, 9):
        budget.not_taken("is no amount of dollars")
    else:
        found.plan |= {"budget_usd_per_month": amount, "when_budget_reached": "deny"}
        budget.taken('budget_usd_per_month of the plan, with when_budget_reached = "deny"')
        if duration is not None:
            duration.differently("the calendar month, in UTC")


# General settings


def _general(section: At, found: Found) -> None:
    if (at := section.get("master_key")) is not None:
        reference = at.value.removeprefix("os.environ/") if isinstance(at.value, str) else ""
        is_named = isinstance(at.value, str) and at.value.startswith("os.environ/") and reference.isidentifier()
        where = f"what {reference} holds" if is_named else "a long random value (a key does not belong into a file)"
        at.differently(f"GATEWAY_ADMIN_KEY, for /admin only: {where}")
        found.secrets["GATEWAY_ADMIN_KEY"] = (
            "key for /admin, of at least 8 characters; unset, one is made at the first start"
        )
    _size(section, "max_request_size_mb", "GATEWAY_BODY_BYTES_MAX", found)
    _size(section, "max_response_size_mb", "GATEWAY_ANSWER_BYTES_MAX", found)
    if (at := section.get("global_max_parallel_requests")) is not None and (number := _whole(at, 1, 10**9)) is not None:
        found.settings["GATEWAY_CALLS_MAX"] = str(number)
        at.taken("GATEWAY_CALLS_MAX")
    if (at := section.get("use_x_forwarded_for")) is not None:
        at.differently("GATEWAY_TRUSTED_PROXIES: the networks whose X-Forwarded-For is believed")
        found.secrets["GATEWAY_TRUSTED_PROXIES"] = "networks of your load balancers, such as 10.0.0.0/8"
    if (at := section.get("maximum_spend_logs_retention_period")) is not None:
        _retention(at, found)
    for key in ("alerting", "alert_to_webhook_url"):
        if (at := section.get(key)) is not None:
            at.differently("GATEWAY_SLACK_WEBHOOK_URL, GATEWAY_WEBHOOK_URL or GATEWAY_SMTP_URL (docs/notices.md)")
            found.secrets["GATEWAY_SLACK_WEBHOOK_URL"] = "where notices go, if to Slack"


def _retention(at: At, found: Found) -> None:
    days = _DAYS.fullmatch(at.value) if isinstance(at.value, str) else None
    if days is None or int(days[1]) > 30_000:
        at.not_taken("set GATEWAY_LEDGER_RETENTION_MONTHS, in closed months")
        return
    months = max(1, -(-int(days[1]) // 30))
    found.settings["GATEWAY_LEDGER_RETENTION_MONTHS"] = str(months)
    at.differently(f"GATEWAY_LEDGER_RETENTION_MONTHS={months}: closed months, not days")


def _environment(section: At, found: Found) -> None:
    for at in section.below():
        key = str(at.path[-1])
        if key.startswith(("LITELLM_", "REDIS_", "LANGFUSE_", "DATABASE_", "UI_", "SLACK_")):
            at.not_taken("nothing here reads it")
        else:
            at.differently("set it in the environment of the gateway, if it is a provider's: the file is not its place")


# Numbers


def _whole(at: At, at_least: int, at_most: int) -> int | None:
    number = at.number()
    return int(number) if number is not None and number == int(number) and at_least <= number <= at_most else None


def _seconds(section: At, key: str, setting: str, found: Found) -> None:
    if (at := section.get(key)) is None:
        return
    number = at.number()
    if number is None or not 0 < number <= 10**6:
        at.not_taken(f"set {setting}, in seconds above 0")
    elif setting in found.settings:
        at.not_taken(f"{setting} is already said") if found.settings[setting] != _plain(number) else at.taken(setting)
    else:
        found.settings[setting] = _plain(number)
        at.taken(setting)


def _size(section: At, key: str, setting: str, found: Found) -> None:
    if (at := section.get(key)) is None:
        return
    number = at.number()
    if number is None or not 1 <= number * _MIB <= 10**12 or number * _MIB < 1024:
        at.not_taken(f"set {setting}, in bytes")
    else:
        found.settings[setting] = str(int(number * _MIB))
        at.taken(setting)


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def attempts_for(retries: int, deployments: int) -> int:
    """Attempts a call may need: the first, the other deployments, and the retries."""
    return min(_ATTEMPTS_MAX, deployments + retries)
