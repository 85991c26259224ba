"""Versions of what the gateway is made of, and whether what the settings want is installed. Imports none of it."""

import platform
import sqlite3
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway.catalog import Catalog
from gateway.commands.examinations.finding import Finding, bad, ok, warn
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Settings

__all__ = ["examine_parts"]


def examine_parts(settings: "Settings", catalog: Catalog | None) -> Iterator[Finding]:
    """`catalog` with the keys that are there, or None where it cannot be read."""
    yield ok("parts", "gateway", f"{_version('llm-gateway')}, Python {platform.python_version()}")
    yield ok("parts", "SQLite", sqlite3.sqlite_version)
    yield from _extras(settings)
    yield _litellm(catalog)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras(settings: "Settings") -> Iterator[Finding]:
    wanted = (
        ("asyncpg", "postgres", settings.postgres_url is not None),
        ("redis", "redis", settings.redis_url is not None),
        ("botocore", "s3", (settings.assets_url or "").startswith("s3://")),
        ("opentelemetry-sdk", "otel", settings.otel_endpoint is not None),
    )
    for name, extra, is_wanted in wanted:
        version = _version(name)
        if version is not None:
            yield ok("parts", name, version)
        elif is_wanted:
            advice = f"pip install 'llm-gateway[{extra}]'"
            yield bad("parts", name, "the settings need it, and it is not installed", advice)


def _litellm(catalog: Catalog | None) -> Finding:
    """The versions that must not be used are refused by the start as well, where a model needs the library."""
    from gateway.providers.litellm_adapter import refused_version, require_library

    version = _version("litellm") if find_spec("litellm") is not None else None
    try:
        if catalog is not None:
            require_library(catalog)
    except ConfigError as exc:
        return bad("parts", "litellm", str(exc), "install a version that may be used")
    if version is None:
        return ok("parts", "litellm", "not installed, and not needed")
    if refused_version(version):
        why = f"{version} must not be used: stolen credentials, or known holes"
        return warn("parts", "litellm", why, "pip install --upgrade 'llm-gateway[providers]'")
    return ok("parts", "litellm", version)
