"""Schemas that several operations name: entries, calls, limits, creators, keys, errors."""

from collections.abc import Iterable
from typing import get_args

from gateway.creator_view import CALL_FIELDS
from gateway.ledger.entry_json import ENTRY_FIELDS
from gateway.ledger.records import Kind, Outcome, UsageSource
from gateway.openapi.shapes import (
    Schema,
    array,
    boolean,
    choice,
    integer,
    nullable,
    number,
    record,
    ref,
    text,
    whatever,
)
from gateway.plan_fields import PLAN_FIELDS
from gateway.roles import ROLES

__all__ = ["component_schemas", "sums"]

INSTANT = text("RFC 3339, UTC.", format="date-time")
_DOLLARS = "US dollars, exact, as a decimal string."
_NANO = "Nano-dollars (1e-9 USD), exact."
_ENTRY: dict[str, Schema] = {
    "id": text("Of the entry; ids grow with time."),
    "request_id": text("As the answer carried it in `x-request-id`."),
    "attempt": integer("1 for the first deployment that was dialled."),
    "attempts": integer("How many entries this request has had with this one."),
    "final": boolean("Whether it is the request's last."),
    "kind": choice(get_args(Kind)),
    "tags": array(text()),
    "metadata": {"type": "object"},
    "cost_nano_usd": integer(f"What the provider takes. {_NANO}"),
    "cost_usd": text(f"What the provider takes. {_DOLLARS}"),
    "charge_nano_usd": integer(f"What the creator owes in money. {_NANO}"),
    "charge_usd": text(f"What the creator owes in money. {_DOLLARS}"),
    "payer": text("`quota`, `credits`, `promo_credits` or `free_images`; empty where nobody paid."),
    "payer_unit": text(),
    "payer_amount": integer("In the payer's unit."),
    "usage_source": choice(get_args(UsageSource), "Who said how much was used."),
    "outcome": choice(get_args(Outcome)),
    "flags": array(text()),
    "cached": boolean("Answered from the cache."),
    "is_streaming": boolean(),
    "status": nullable(integer("Of the answer.")),
    "latency_ms": nullable(integer()),
    "ttft_ms": nullable(integer("To the first token.")),
    "free_attempts": array(whatever("A deployment that failed and cost nothing.")),
    "corrects": nullable(text("The entry that this one corrects.")),
    "admitted_at": INSTANT,
    "created_at": INSTANT,
    "saved_nano_usd": integer(f"What a kept answer would have cost. {_NANO}"),
    "saved_usd": text(f"What a kept answer would have cost. {_DOLLARS}"),
}
_COUNTS = frozenset({"images", "audio_seconds", "characters"})


def component_schemas() -> dict[str, Schema]:
    return {
        "Error": record(
            {
                "error": record(
                    {
                        "message": text("What was wrong and what to change."),
                        "type": text(),
                        "param": nullable(text("The field at fault.")),
                        "code": nullable(text("For programs.")),
                        "metadata": {"type": "object", "description": "Facts of the limit that refused."},
                    },
                    required=["message", "type", "param", "code"],
                )
            },
            "OpenAI's envelope.",
        ),
        "AnthropicError": record(
            {
                "type": {"const": "error"},
                "error": record(
                    {"type": text(), "message": text(), "details": {"type": "object"}}, required=["type", "message"]
                ),
            },
            "Anthropic's envelope; the gateway's code is `error.details.error_code`.",
        ),
        "Entry": _entry(ENTRY_FIELDS, "A ledger entry. It is never changed; corrections are entries of their own."),
        "Call": _entry(CALL_FIELDS, "A call, as its creator is told of it."),
        "Limit": _limit(),
        "Plan": record(
            {"name": text(), **dict.fromkeys(PLAN_FIELDS, whatever()), "budget_is_auto": boolean()},
            "A plan with the keys of plans.toml; null: no limit. Money is a decimal string of US dollars.",
        ),
        "Me": _me(),
        "Creator": record(_creator_fields(), is_open=True),
        "Key": record(_key_fields(), "A virtual key, without its text.", is_open=True),
        "NewKey": record(
            {"key": text("The key itself; shown in this answer and nowhere else."), **_key_fields()}, is_open=True
        ),
        "AdminKey": record(_admin_key_fields(), is_open=True),
        "NewAdminKey": record(
            {"key": text("The key itself; shown in this answer and nowhere else."), **_admin_key_fields()},
            is_open=True,
        ),
        "Model": _model(),
        "Images": record(
            {
                "created": integer(),
                "data": array(record({"b64_json": text(), "url": text()}, required=[], is_open=True)),
                "usage": whatever(),
            },
            required=["data"],
            is_open=True,
        ),
        "Generation": _generation(),
        "Estimate": _estimate(),
        "Sums": record(sums(), "Sums of calls.", is_open=True),
    }


def sums() -> dict[str, Schema]:
    counts = "calls attempts errors input_tokens cached_input_tokens output_tokens reasoning_tokens images".split()
    money = {f"{name}_nano_usd": integer(_NANO) for name in ("cost", "charge", "saved")}
    return {**{name: integer() for name in counts}, **money, "cost_usd": text(_DOLLARS), "charge_usd": text(_DOLLARS)}


def _entry(names: Iterable[str], description: str) -> Schema:
    return record({name: _of_entry(name) for name in names}, description)


def _of_entry(name: str) -> Schema:
    if name in _ENTRY:
        return _ENTRY[name]
    return integer() if name.endswith("_tokens") or name in _COUNTS else nullable(text())


def _limit() -> Schema:
    return record(
        {
            "name": text("Such as `requests_per_hour`."),
            "unit": text(),
            "limit": nullable(integer("null: none.")),
            "used": integer(),
            "held": integer("By calls in flight."),
            "remaining": nullable(integer()),
            "reset_s": integer(),
            "resets_at": nullable(INSTANT),
        },
        required=["name", "unit", "limit", "used", "held", "remaining"],
        is_open=True,
    )


def _units(description: str) -> Schema:
    fields = {name: integer() for name in ("granted", "used", "held", "left")}
    return nullable(record(fields, description, is_open=True))


def _me() -> Schema:
    month = {
        "period": text("`YYYY-MM`."),
        "calls": integer(),
        "cost_nano_usd": integer(_NANO),
        "cost_usd": text(_DOLLARS),
        "charge_nano_usd": integer(_NANO),
        "charge_usd": text(_DOLLARS),
        "quota_usd": nullable(text(_DOLLARS)),
        "budget_usd": nullable(text(_DOLLARS)),
        "forecast_cost_usd": text("Where the month leads at its pace so far."),
    }
    downgrade = {
        "is_active": boolean("Whether the next call would be downgraded."),
        "limit_name": nullable(text()),
        "resumes_below_usd": nullable(text(_DOLLARS)),
        "calls_this_month": integer(),
    }
    return record(
        {
            "object": text(),
            "creator": text(),
            "plan": ref("Plan"),
            "limits": array(ref("Limit")),
            "free_images_today": _units("Of the plan, by the day (UTC)."),
            "credits": _units("Bought ones."),
            "promo_credits": _units("Given ones, which expire."),
            "month": record(month, is_open=True),
            "downgrade": record(downgrade),
        },
        is_open=True,
    )


def _creator_fields() -> dict[str, Schema]:
    return {
        "id": text(),
        "name": text(),
        "plan": text(),
        "overrides": nullable({"type": "object", "description": "Keys of plans.toml that differ from the plan."}),
        "metadata": {"type": "object"},
        "is_active": boolean(),
        "created_at": INSTANT,
    }


def _key_fields() -> dict[str, Schema]:
    return {
        "id": text(),
        "creator": text(),
        "name": text(),
        "last4": text("The last four characters of the key."),
        "status": choice(["active", "expired", "paused", "replaced", "revoked"]),
        "models": nullable(array(text(), "null: all.")),
        "overrides": nullable({"type": "object"}),
        "scopes": array(text()),
        "default_plan": nullable(text()),
        "created_at": INSTANT,
        "expires_at": nullable(INSTANT),
        "revoked_at": nullable(INSTANT),
        "paused_at": nullable(INSTANT),
        "replaced_by": nullable(text("The key it was rotated into.")),
    }


def _admin_key_fields() -> dict[str, Schema]:
    return {
        "id": text(),
        "name": text(),
        "role": choice(ROLES),
        "status": choice(["active", "revoked"]),
        "created_at": INSTANT,
        "revoked_at": nullable(INSTANT),
    }


def _model() -> Schema:
    return record(
        {
            "id": text(),
            "object": {"const": "model"},
            "created": integer("The same for all."),
            "owned_by": text("The provider."),
            "display_name": text(),
            "description": text(),
            "tier": text(),
            "endpoints": array(text()),
            "capabilities": array(text()),
            "context_tokens_max": nullable(integer()),
            "output_tokens_max": nullable(integer()),
            "price": {"type": "object", "description": "The keys of pricing.toml; US dollars as decimal strings."},
            "credits": whatever("What it takes in credits, where credits pay."),
            "downgrade_to": nullable(text()),
        }
    )


def _generation() -> Schema:
    return record(
        {
            "id": text(),
            "object": {"const": "generation"},
            "created_at": integer("Unix time, seconds."),
            "request_id": text(),
            "index": integer("Which image of the request."),
            "model": text(),
            "prompt": text(),
            "selected": boolean(),
            "url": nullable(text("Signed; null where the gateway keeps no image.")),
            "url_expires_at": nullable(number("Unix time, seconds.")),
            "content_type": nullable(text()),
            "bytes": nullable(integer()),
        },
        is_open=True,
    )


def _estimate() -> Schema:
    return record(
        {
            "object": {"const": "estimate"},
            "endpoint": text(),
            "would": choice(["admit", "downgrade", "refuse"]),
            "requested_model": text(),
            "model": text("Which would serve it."),
            "provider": text(),
            "expected_cost_nano_usd": integer(_NANO),
            "expected_cost_usd": text(_DOLLARS),
            "hold_nano_usd": integer(f"What would be set aside. {_NANO}"),
            "hold_usd": text(_DOLLARS),
            "charge_max_nano_usd": integer(_NANO),
            "charge_max_usd": text(_DOLLARS),
            "payer": nullable(record({"name": text(), "unit": text(), "amount_max": integer()})),
            "downgrades": array({"type": "object"}),
            "clamped_max_tokens": nullable(integer()),
            "limits": array(ref("Limit")),
            "refusal": nullable({"type": "object", "description": "The error it would be."}),
        },
        is_open=True,
    )
