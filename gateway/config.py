"""Settings: the only reader of the environment, but for shell completion, which cannot wait for them. Every field is
`GATEWAY_<NAME>`; units are in the names.

A wrong value stops the start: `load_settings` raises `ConfigError` with the variable's name and what to do.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.errors import ConfigError

_SAMPLE_KEYS = frozenset(
    "admin adminkey admin-key changeme change-me password secret example sample test-key your-admin-key".split()
)
_KEY_CHARS_MIN = 8
_HEADER = re.compile(r"[A-Za-z0-9-]+ *= *[\x20-\x7e]+")
_SQLITE_PREFIX = "sqlite:///"
_POSTGRES_SCHEMES = ("postgresql", "postgres")
_SIGNING_BYTES = 24, 64
"""What Standard Webhooks (its specification, version 1) asks of a secret."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="GATEWAY_", extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, le=256, description="Processes that `serve` starts; several need PostgreSQL and Redis."
    )
    data_dir: Path = Field(
        Path("data"), description="Folder of the database, the secret, the lock, the socket and the spool."
    )
    admin_key: SecretStr | None = Field(
        None, description="Key for /admin. Unset: one is made on the first run and printed once."
    )
    secret: SecretStr | None = Field(
        None, description="Root of every HMAC. Unset: a 0600 file `secret` in the data folder, made on the first run."
    )
    pricing_file: Path | None = Field(None, description="Catalog of models and prices. Unset: the packaged one.")
    plans_file: Path | None = Field(None, description="Plans; replaces the packaged file. Unset: the packaged one.")
    policy_mode: Literal["enforce", "observe"] = Field(
        "enforce",
        description="`observe`: limits, quotas and budgets are decided and logged, and refuse or downgrade nothing.",
    )
    trusted_proxies: str = Field(
        "",
        description="Networks (CIDR, comma-separated) whose `X-Forwarded-For` is believed. Empty: nobody's.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="`sqlite:///path` or `postgresql://user:password@host[:port]/name`. Unset: `gateway.db` in the data folder.",
    )
    ledger_retention_months: int = Field(
        0, ge=0, le=1_200, description="How many closed months keep their entries; older ones are dropped. 0: all."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="`redis://[user:password@]host[:port][/number]`, `rediss://` or `unix://path`: where counters are kept. Unset: in memory.",
    )
    redis_prefix: str = Field(
        "gw:",
        pattern=r"^[A-Za-z0-9._:-]{1,64}$",
        description="What the name of every key in Redis begins with: another one for each gateway on a server.",
    )
    redis_connect_timeout_s: float = Field(0.5, gt=0, le=60, description="Connecting to Redis.")
    redis_command_timeout_s: float = Field(0.5, gt=0, le=60, description="An answer of Redis; then calls get 503.")
    redis_connections: int = Field(4, ge=1, le=1_000, description="Open connections to Redis at most.")

    public_url: str | None = Field(
        None, description="What clients reach the gateway by, for URLs of images. Unset: `http://host:port`."
    )
    assets_url: str | None = Field(
        None,
        description="Where images are kept: `file:///folder`, `s3://bucket/prefix` or `off`. Unset: `assets` in the data folder.",
    )
    assets_s3_endpoint: str | None = Field(
        None, description="An S3-compatible server other than AWS: `https://host[:port]`."
    )
    assets_s3_region: str = Field("us-east-1", description="Region of the bucket.")
    assets_s3_access_key: SecretStr | None = Field(None, description="Access key of the bucket.")
    assets_s3_secret_key: SecretStr | None = Field(None, description="Secret key of the bucket.")
    asset_url_ttl_s: int = Field(3_600, ge=1, le=604_800, description="How long the URL of an image is good.")
    asset_bytes_max: int = Field(32 * 2**20, ge=1024, description="Largest image that is kept.")
    creator_assets_bytes_max: int = Field(
        2**30, ge=1024, description="Images of one creator together; above it the oldest go."
    )
    assets_bytes_max: int = Field(10 * 2**30, ge=1024, description="Images of all creators together; likewise.")
    generation_history: bool = Field(
        True, description="Whether prompts and models of images are kept for `/v1/generations`."
    )

    cache_bytes_max: int = Field(
        256 * 2**20, ge=0, description="Kept answers together; above it those unused longest go. 0: no cache."
    )
    cache_answer_bytes_max: int = Field(8 * 2**20, ge=1024, description="Largest answer that is kept.")
    cache_chat_ttl_s: int = Field(3_600, ge=0, description="How long an answer of a chat is kept; 0: not at all.")
    cache_completion_ttl_s: int = Field(604_800, ge=0, description="Likewise a text completion.")
    cache_embedding_ttl_s: int = Field(2_592_000, ge=0, description="Likewise an embedding.")
    cache_image_ttl_s: int = Field(7_776_000, ge=0, description="Likewise an image.")
    cache_image_prompts: Literal["exact", "normalised"] = Field(
        "exact",
        description="`normalised`: prompts of images that differ in case, spaces or a last full stop are the same.",
    )

    idempotency_ttl_s: int = Field(
        86_400, ge=60, le=30 * 86_400, description="How long an `Idempotency-Key` stands for its first call."
    )
    idempotency_answer_bytes_max: int = Field(2**20, ge=0, description="Largest answer that is kept for a repetition.")
    idempotency_bytes_max: int = Field(
        2**30, ge=0, description="Answers kept for repetitions together; above it the oldest go."
    )

    notices_every_s: float = Field(5.0, ge=0.05, le=3_600, description="How often it is looked for what to tell.")
    notice_day_cost_usd: Decimal | None = Field(
        Decimal(200), ge=0, decimal_places=9, description="A day's cost of all creators that is told. `none`: never."
    )
    notice_error_percent: Decimal | None = Field(
        Decimal(5), ge=0, le=100, decimal_places=2, description="Share of failed calls that is told. `none`: never."
    )
    notice_key_expiry_days: int = Field(7, ge=0, le=365, description="How long before a virtual key ends it is told.")
    webhook_url: SecretStr | None = Field(
        None, description="Where notices are posted, signed by the Standard Webhooks rules."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="`whsec_` and base64, 24 to 64 bytes. Unset: made of the root secret; `gateway notices secret`.",
    )
    slack_webhook_url: SecretStr | None = Field(
        None, description="An incoming webhook of Slack, or of what reads its format."
    )
    smtp_url: SecretStr | None = Field(
        None, description="`smtps://user:password@host[:port]`, or `smtp://` with STARTTLS. For notices by mail."
    )
    mail_from: str | None = Field(None, description="Sender of notices.")
    mail_to: str = Field("", description="Who gets notices, comma-separated.")

    otel_endpoint: str | None = Field(
        None,
        description="Where traces and metrics are sent by OTLP over HTTP, such as `http://collector:4318`. Unset: nowhere.",
    )
    otel_headers: SecretStr | None = Field(
        None, description="Headers that go with them: `name=value,name=value`. For services that want a key."
    )
    otel_service_name: str = Field("llm-gateway", min_length=1, max_length=255, description="`service.name` there.")
    otel_sample_ratio: Decimal = Field(
        Decimal(1), ge=0, le=1, description="Share of traces that is sent, of those the caller did not begin."
    )

    anomaly_factor: Decimal = Field(
        Decimal(6), gt=0, le=1_000, decimal_places=2, description="How many deviations above the median are unusual."
    )
    anomaly_hours_min: int = Field(24, ge=2, le=10_000, description="Hours with calls before anything is unusual.")
    anomaly_history_days: int = Field(14, ge=1, le=90, description="How far back the usual reaches.")
    anomaly_requests_min: int = Field(100, ge=0, description="Requests in an hour that are never unusual.")
    anomaly_cost_usd_min: Decimal = Field(
        Decimal(1), ge=0, decimal_places=9, description="Cost of an hour that is never unusual."
    )

    body_bytes_max: int = Field(32 * 2**20, ge=1024, description="Largest request body; above it 413.")
    answer_bytes_max: int = Field(64 * 2**20, ge=1024, description="Largest buffered (non-streamed) answer.")
    answers_bytes_max: int = Field(
        512 * 2**20, ge=1024, description="All buffered answers of the process together; likewise all recorded ones."
    )
    stream_bytes_max: int = Field(256 * 2**20, ge=1024, description="Longest relayed stream.")
    stream_event_bytes_max: int = Field(16 * 2**20, ge=1024, description="Largest single event of a stream.")
    calls_max: int = Field(10_000, ge=1, description="Calls in flight at once; above it 503.")
    upstream_connections_max: int = Field(4_096, ge=1, description="Open connections to one provider.")

    connect_timeout_s: float = Field(5.0, gt=0, description="DNS, TCP and TLS to the provider.")
    first_byte_timeout_s: float = Field(300.0, gt=0, description="From the request sent to the answer's first byte.")
    idle_timeout_s: float = Field(120.0, gt=0, description="Longest silence inside an answer.")
    total_timeout_s: float = Field(900.0, gt=0, description="A whole upstream call.")
    attempts_max: int = Field(
        3, ge=1, le=10, description="Attempts at most for one call, the first included, before a byte is relayed."
    )
    circuit_failures_max: int = Field(
        5, ge=0, description="Failures in a row after which a deployment is not tried for a while; 0: never."
    )
    circuit_open_s: float = Field(15.0, gt=0, description="How long it is then not tried, but for one call at a time.")
    gone_grace_s: float = Field(
        1.0, ge=0, description="How long a stream is read on after its client left, in case the usage is about to come."
    )
    settle_timeout_s: float = Field(
        5.0, gt=0, description="How long an answer waits for its ledger entry to be durable before it fails."
    )
    hold_timeout_s: float = Field(
        1_800.0, gt=0, description="Age at which a hold whose call is no longer alive is booked as crashed."
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        le=600,
        description="After SIGTERM: how long new calls are still taken, while `/health/ready` already says no and connections end with their answer.",
    )
    drain_grace_s: float = Field(30.0, ge=0, description="After SIGTERM: how long open calls may go on.")
    header_timeout_s: float = Field(10.0, gt=0, description="A client's silence before and inside request headers.")
    body_timeout_s: float = Field(30.0, gt=0, description="A client's whole request body, from the end of its headers.")
    stall_timeout_s: float = Field(
        120.0, gt=0, description="How long a client may leave what was sent to it unread before it is cut off."
    )
    keep_alive_s: float = Field(75.0, gt=0, description="How long an idle client connection is kept.")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level logged.")
    log_format: Literal["json", "console"] = Field("json", description="`json` lines or `console` for people.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("admin_key", "secret")
    @classmethod
    def _strong_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if len(text) < _KEY_CHARS_MIN or text.lower() in _SAMPLE_KEYS:
            raise ValueError(
                f"is empty, shorter than {_KEY_CHARS_MIN} characters or a sample: set a long random value or unset it"
            )
        return value

    @field_validator("notice_day_cost_usd", "notice_error_percent", mode="before")
    @classmethod
    def _none(cls, value: object) -> object:
        return None if isinstance(value, str) and value.lower() == "none" else value

    @field_validator("webhook_url", "slack_webhook_url")
    @classmethod
    def _web_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _has_host(value.get_secret_value(), ("http", "https")):
            raise ValueError("must be http://host[:port]/path or https://...")
        return value

    @field_validator("otel_endpoint")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        if value is not None and not _has_host(value, ("http", "https")):
            raise ValueError("must be http://host[:port] or https://..., without /v1/traces")
        return value

    @field_validator("otel_headers")
    @classmethod
    def _header_pairs(cls, value: SecretStr | None) -> SecretStr | None:
        parts = [] if value is None else [part for part in value.get_secret_value().split(",") if part.strip()]
        if any(not _HEADER.fullmatch(part.strip()) for part in parts):
            raise ValueError("must be name=value pairs with commas between")
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signing_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                size = len(base64.b64decode(value.get_secret_value().removeprefix("whsec_"), validate=True))
            except (binascii.Error, ValueError):
                size = 0
            if not _SIGNING_BYTES[0] <= size <= _SIGNING_BYTES[1]:
                raise ValueError("must be `whsec_` and the base64 of 24 to 64 random bytes")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _has_host(value.get_secret_value(), ("smtp", "smtps")):
            raise ValueError("must be smtp://[user:password@]host[:port] or smtps://...")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url = value.get_secret_value()
            if not url.startswith(_SQLITE_PREFIX) and not _has_host(url, _POSTGRES_SCHEMES):
                raise ValueError("must be sqlite:///path or postgresql://user:password@host[:port]/name")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url = value.get_secret_value()
            if not url.startswith("unix://") and not _has_host(url, ("redis", "rediss")):
                raise ValueError("must be redis://host[:port][/number], rediss://... or unix://path")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if faults := list(self.misfits()):
            raise ValueError("\n".join(faults))
        return self

    def misfits(self) -> Iterator[str]:
        """What is wrong between settings that are each right."""
        if self.smtp_url is not None and not (self.mail_from and self.mail_to.strip(", ")):
            yield "GATEWAY_SMTP_URL needs GATEWAY_MAIL_FROM and GATEWAY_MAIL_TO"
        if self.postgres_url is not None and self.secret is None:
            yield "GATEWAY_SECRET must be set with PostgreSQL, to the same value wherever the database is used"
        if self.workers > 1 and not self.has_shared_stores:
            yield (
                "GATEWAY_WORKERS (--workers) above 1 needs GATEWAY_DATABASE_URL=postgresql://... and GATEWAY_REDIS_URL: a "
                "file of SQLite has one writer, and limits counted in memory would be multiplied by the number of processes"
            )

    @property
    def database_path(self) -> Path:
        """The SQLite file. Raises `ConfigError` where the database is another one."""
        if self.postgres_url is not None:
            raise ConfigError("this works on a file of SQLite only, and GATEWAY_DATABASE_URL names a PostgreSQL server")
        if self.database_url is not None:
            return Path(self.database_url.get_secret_value().removeprefix(_SQLITE_PREFIX))
        return self.data_dir / "gateway.db"

    @property
    def has_shared_stores(self) -> bool:
        """Whether other processes may use the same ones at the same time."""
        return self.postgres_url is not None and self.redis_url is not None

    @property
    def postgres_url(self) -> str | None:
        """With the password in it; None where the database is a file."""
        url = "" if self.database_url is None else self.database_url.get_secret_value()
        return url if url.startswith(_POSTGRES_SCHEMES) else None


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, `overrides` above it. Raises `ConfigError`."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as exc:
        raise ConfigError("\n".join(_faults(exc))) from None


class ExaminableSettings(NamedTuple):
    """Settings for whoever looks for what is wrong with them. Nothing may be served or written with them."""

    settings: Settings
    """As they are, also where they do not fit together; those in `malformed` as if they were not set."""
    malformed: frozenset[str]
    faults: tuple[str, ...]
    """What `load_settings` raises, line by line, and what else it would find once that is mended."""


class _Unjoined(Settings):
    """Each setting is checked, and not whether they fit together."""

    @model_validator(mode="after")
    def _fits_together(self) -> "_Unjoined":
        return self


def examinable_settings() -> ExaminableSettings:
    """The settings of the environment with all that is wrong with them. Never raises."""
    try:
        return ExaminableSettings(Settings(), frozenset(), ())
    except ValidationError as exc:
        malformed = frozenset(str(error["loc"][0]) for error in exc.errors() if error["loc"])
        faults = _faults(exc)
    unset: dict[str, Any] = {name: Settings.model_fields[name].get_default() for name in malformed}
    settings = _Unjoined(**unset)
    return ExaminableSettings(settings, malformed, (*faults, *(settings.misfits() if malformed else ())))


def _faults(exc: ValidationError) -> list[str]:
    lines = []
    for error in exc.errors():
        name = "_".join(str(part) for part in error["loc"]).upper()
        reason = error["msg"].removeprefix("Value error, ")
        lines += [f"GATEWAY_{name} {reason}"] if name else reason.splitlines()
    return lines


def unknown_variables() -> list[str]:
    """Names in the environment that look like a setting's and are none: somebody else's, or a slip of the pen."""
    prefix = "GATEWAY_"
    known = {f"{prefix}{name.upper()}" for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.upper().startswith(prefix) and name.upper() not in known)


def _has_host(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


_LITELLM_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",  # or it reads a .env file of the working directory
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "CRITICAL",
    "LITELLM_DROP_PARAMS": "False",
    "LITELLM_MODIFY_PARAMS": "",
    "LITELLM_HTTP2": "False",
    "USE_LITELLM_PROXY": "False",
    "DISABLE_AIOHTTP_TRANSPORT": "True",
    "AIOHTTP_TRUST_ENV": "False",
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",  # no picture is ever fetched
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def set_library_defaults() -> None:
    """What litellm reads from the environment while it is imported, whatever was there: it must fetch, report and log
    nothing. Where it looks for keys and hosts is left alone; the gateway tells it both."""
    os.environ.update(_LITELLM_ENVIRONMENT)


def provider_key(variable: str) -> str | None:
    """The provider key in the environment variable a catalog row names; None when it is unset or empty."""
    return os.environ.get(variable) or None
