"""The first start on an empty database: one creator, one key, one admin key, told once."""

from dataclasses import dataclass, field

import structlog

from gateway.accounts import Accounts
from gateway.errors import ConfigError
from gateway.ledger.database import Conflict

_log = structlog.get_logger()
FIRST_CREATOR = "default"
_CHAT_BODY = '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What was made; the keys' texts exist nowhere else."""

    creator: str
    plan: str
    key: str = field(repr=False)
    admin_key: str | None = field(repr=False)
    """None when one is set by `GATEWAY_ADMIN_KEY` or was made before."""


async def prepare(accounts: Accounts, *, has_admin_key: bool, is_shared: bool = False) -> FirstRun | None:
    """Makes the first creator `default`, with a key, on a database that never had a creator; else changes nothing.

    `has_admin_key` says whether `GATEWAY_ADMIN_KEY` is set; an admin key is made only if that is not so and the database
    has none. All of it is one transaction: a start that dies half-way is a first run again. A root secret that is not
    the one the database's keys were made with is logged as an error: those keys are refused until it is back. Where other
    processes may use the database (`is_shared`) it raises `ConfigError`.
    """
    if not await accounts.record_secret(replace=not is_shared):
        if is_shared:
            raise ConfigError(
                "GATEWAY_SECRET is not the one that the keys in this database were made with: set it to the same value "
                "in every process"
            )
        _log.error(
            "secret_changed",
            advice="keys made before are refused: restore GATEWAY_SECRET or the data folder's `secret`",
        )
    if await accounts.has_creators():
        return None
    needs_admin_key = not has_admin_key and not await accounts.has_admin_keys()
    try:
        key, admin_key = await accounts.create_first(FIRST_CREATOR, with_admin_key=needs_admin_key)
    except Conflict:
        return None  # another process was faster, and told them
    return FirstRun(
        creator=FIRST_CREATOR,
        plan=accounts.default_plan,
        key=key.text,
        admin_key=None if admin_key is None else admin_key.text,
    )


def render(first_run: FirstRun, base_url: str, model: str | None) -> str:
    """What the operator reads, once. `base_url` is without `/v1`; `model` is one that answers chat, None if none does."""
    admin_key = first_run.admin_key or "$GATEWAY_ADMIN_KEY"
    shown_admin_key = first_run.admin_key or "the one in GATEWAY_ADMIN_KEY"
    lines = [
        "First run. These keys are shown once and cannot be read again:",
        "",
        f"  base URL   {base_url}/v1",
        f"  dashboard  {base_url}/dashboard   (sign in with either key)",
        f"  key        {first_run.key}   (creator `{first_run.creator}`, plan `{first_run.plan}`)",
        f"  admin key  {shown_admin_key}",
        "",
    ]
    if model is not None:
        lines += [
            "Chat:",
            "",
            f"  curl {base_url}/v1/chat/completions \\",
            f'    -H "Authorization: Bearer {first_run.key}" -H "Content-Type: application/json" \\',
            f"    -d '{_CHAT_BODY.format(model=model)}'",
            "",
        ]
    lines += [
        "What it cost:",
        "",
        f'  curl {base_url}/admin/ledger -H "Authorization: Bearer {admin_key}"',
        "",
    ]
    return "\n".join(lines)
