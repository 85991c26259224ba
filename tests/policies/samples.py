"""A call, an account and an instant to vary."""

from datetime import UTC, datetime

from policies.types import Account, Call, Plan

PLAN = Plan(name="pro", requests_per_hour=100, quota_nano_usd_per_month=50_000_000_000)
CALL = Call(
    endpoint="chat",
    requested_model="gpt-big",
    model="gpt-big",
    provider="openai",
    tier="premium",
    hold_nano_usd=1_234,
)
ACCOUNT = Account(creator="ada", account_id="ada", key_id="k1", plan=PLAN)
NOW = datetime(2025, 6, 15, 12, 30, tzinfo=UTC)
