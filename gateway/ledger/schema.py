"""The tables, once, for every store: SQLAlchemy Core, no ORM.

Instants (`*_at`) are integer milliseconds since 1970 UTC, money is integer nano-dollars (1e-9 USD), and no column may
hold a float: on SQLite the tables are STRICT, so that a float is refused instead of stored. JSON is text, written by us.
An entry's columns are those of `gateway.ledger.records`, flattened; `ENTRY_COLUMNS` and `HOLD_COLUMNS` fix their order.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    case,
    literal_column,
    text,
    true,
)
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.types import TypeEngine

from gateway.ledger.records import Attribution, Route
from gateway.usage import Usage

BigInt = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere. STRICT tables of SQLite know the word INTEGER only."""


class Flag(TypeDecorator[bool]):
    """A boolean, kept as 0 or 1 on SQLite, whose STRICT tables have no boolean."""

    impl = Boolean
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Integer() if dialect.name == "sqlite" else Boolean())

    def process_bind_param(self, value: bool | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name != "sqlite" else int(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bool | None:
        return None if value is None else bool(value)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    }
)


def _table(name: str, *parts: Any) -> Table:
    """A table with a text key that rows are clustered by: one b-tree less to write than with a hidden rowid."""
    return Table(name, metadata, *parts, sqlite_strict=True, sqlite_with_rowid=False)


def _text(name: str, *parts: Any, default: str | None = None) -> Column[str]:
    return Column(name, Text, *parts, nullable=False, server_default=default)


def _number(name: str, *, default: int | None = None) -> Column[int]:
    return Column(name, BigInt, nullable=False, server_default=None if default is None else text(str(default)))


def _instant(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInt, nullable=nullable)


def _flag(name: str) -> Column[bool]:
    return Column(name, Flag, nullable=False)


def _attribution(*, without: str = "") -> list[Column[Any]]:
    names = [name for name in Attribution._fields if name != without]
    return [_instant(name) if name == "admitted_at" else _text(name) for name in names]


def _route() -> list[Column[Any]]:
    return [_text(name) for name in Route._fields]


def _buckets(prefix: str = "") -> list[Column[Any]]:
    return [_number(prefix + name) for name in Usage._fields]


IS_CORRECTION = text("corrects IS NOT NULL")
IS_CREDITS = text("payer IN ('credits', 'promo_credits')")
IS_KEPT = text("size_bytes > 0")
IS_PENDING = text("state = 'pending'")
IS_CREDITS_ENTRY = text("entries.payer IN ('credits', 'promo_credits')")
"""Conditions of partial indexes, the last one for joins. A query uses such an index only if it says the same words,
without bound values."""


def _partial_index(name: str, *columns: str, where: TextClause) -> Index:
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


creators = _table(
    "creators",
    Column("id", Text, primary_key=True),  # given by the admin, never reused: a deleted creator keeps its row
    _text("account_id"),
    _text("name", default=""),
    _text("plan"),
    _text("overrides", default="{}"),
    _text("metadata", default="{}"),
    _flag("is_active"),
    _instant("created_at"),
    _instant("deleted_at", nullable=True),
)

virtual_keys = _table(
    "virtual_keys",
    Column("id", Text, primary_key=True),  # the public part, 12 characters
    _text("creator_id", ForeignKey("creators.id")),
    _text("account_id"),
    _text("name", default=""),
    _text("digest"),  # hex HMAC of the secret part
    _text("last4"),
    Column("models", Text),  # JSON list; null allows all
    _text("overrides", default="{}"),
    _text("scopes", default="[]"),
    _instant("created_at"),
    _instant("expires_at", nullable=True),
    _instant("revoked_at", nullable=True),
    Column("replaced_by", Text),
    Column("default_plan", Text),  # of creators whom a key with the scope `act_for` brings along
    # The first of the keys it replaced, by rotation: on whose counters its own limits are counted. Null: its own.
    Column("limits_id", Text),
    _instant("paused_at", nullable=True),  # its calls are refused until an admin resumes it
    UniqueConstraint("digest"),
    Index(None, "creator_id"),  # the foreign key's own look-up, and the list of one creator's keys
)

admin_keys = _table(
    "admin_keys",
    Column("id", Text, primary_key=True),
    _text("digest"),
    _instant("created_at"),
    _instant("revoked_at", nullable=True),
    _text("name", default=""),  # of the admin who has it
    _text("role", default="owner"),  # see `gateway.roles`
    UniqueConstraint("digest"),
)

sessions = _table(
    "sessions",  # of people who signed in to the pages; those that are over are deleted by the next sign-in
    Column("id", Text, primary_key=True),  # hex HMAC of the token, which only the browser has
    _text("kind"),  # `admin` or `creator`
    _text("key_digest"),  # of the admin key or virtual key it began with: over with that key
    _instant("created_at"),
    _instant("seen_at"),  # to the minute
    _instant("expires_at"),
)

audit_log = _table(
    "audit_log",  # what admins did; rows are never changed, triggers see to it
    Column("id", Text, primary_key=True),  # grows with time, as those of entries
    _text("request_id"),
    _text("phase"),  # `asked`, written before anything is done, or `done`, with the status
    _text("admin_key_id"),
    _text("admin_name"),
    _text("role"),
    _text("action"),  # method and route: `POST /admin/creators/{id}/keys`
    _text("target"),  # what the route's braces stood for, whose key that is, and what was made: `id=acme,made=k1`
    _text("details"),  # JSON object: what was sent, without what names people and without secrets
    _text("address"),
    _number("status"),  # of the answer; 0 while there is none
    _instant("created_at"),
    Index(None, "request_id"),
    Index(None, "target", "request_id"),
)

# No foreign keys from here on: creators are never deleted from their table, and a look-up a row is paid on every call.
holds = _table(
    "holds",
    Column("id", Text, primary_key=True),  # the request id
    _text("instance_id"),
    *_attribution(without="request_id"),
    *_route(),
    _number("amount_nano_usd"),
    *_buckets("orphan_"),
    _number("orphan_cost_nano_usd"),
    _instant("created_at"),
    _number("orphan_charge_nano_usd", default=0),
    _text("charge_price_version", default=""),
    _text("downgrade_reason", default=""),
    _text("decision", default=""),
)
# No secondary index: the table holds the calls in flight only, and every one would be written twice a call.

entries = _table(
    "entries",
    Column("id", Text, primary_key=True),  # uuid7 made at posting: the order of posting, what cursors follow
    *_attribution(),
    *_route(),
    _number("attempt"),
    _flag("final"),
    _text("kind"),
    *_buckets(),
    _text("usage_source"),
    _number("cost_nano_usd"),
    _number("charge_nano_usd"),
    _number("payer_amount"),
    _text("outcome"),
    _text("flags"),
    _text("error"),
    _number("status"),
    _flag("cached"),
    _flag("is_streaming"),
    _number("latency_ms"),
    Column("ttft_ms", BigInt),
    _text("upstream_request_id"),
    _text("free_attempts"),
    _text("downgrade_reason"),
    _text("period_day"),  # YYYY-MM-DD of admitted_at, UTC
    _text("period_month"),
    _instant("created_at"),  # the instant inside `id`
    Column("corrects", Text),  # id of the entry a refund, an adjustment or an expiry is about
    _text("variant", default=""),
    _text("charge_price_version", default=""),
    # After all that lists show, for it is the longest and seldom asked for: in a large row it lies on pages that other
    # readers never touch.
    _text("decision", default=""),
    _number("saved_nano_usd", default=0),  # what a cached answer cost when it was bought
    # A call is booked once, whatever goes wrong above; also finds an entry by its answer's x-request-id.
    UniqueConstraint("request_id", "attempt"),
    # One creator's latest entries, the commonest page, without a walk through everybody's.
    Index(None, "creator", "id"),
    # What corrects an entry, and all corrections there are; a creator's credit history. Partial, so that calls the quota
    # pays for have nothing to write. Nothing else has an index: sums by day, model or feature read usage_daily, and
    # other filters walk `id` backwards from the newest.
    _partial_index("ix_entries_corrects", "corrects", where=IS_CORRECTION),
    _partial_index("ix_entries_credits", "creator", "id", where=IS_CREDITS),
)

USAGE_DAILY_KEY = (
    "period_day",
    "account_id",
    "creator",
    "key_id",
    "feature",
    "agent",
    "endpoint",
    "requested_model",
    "served_model",
    "provider",
    "kind",
    "payer",
    "cached",
    "outcome",
)
USAGE_DAILY_SUMS = (
    "calls",  # final entries of calls: no grant, refund and the like
    "attempts",  # all entries
    *Usage._fields,
    "cost_nano_usd",
    "charge_nano_usd",
    "payer_amount",
    "errors",  # calls that ended neither `ok` nor `client_gone`
    "saved_nano_usd",
)

usage_daily = _table(
    "usage_daily",
    *(_flag(name) if name == "cached" else _text(name) for name in USAGE_DAILY_KEY),
    *(_number(name, default=0 if name == "saved_nano_usd" else None) for name in USAGE_DAILY_SUMS),
    PrimaryKeyConstraint(*USAGE_DAILY_KEY),  # the day first: every question about sums names a range of days
    # One creator's own sums, which creators ask for again and again; a row's key is written here once, not its sums.
    Index(None, "creator", "period_day"),
    _partial_index("ix_usage_daily_credits", "payer", "creator", where=IS_CREDITS),  # a balance is of all days
)

refusals_daily = _table(
    "refusals_daily",
    _text("creator"),
    _text("day"),
    _text("reason"),
    _number("count"),
    PrimaryKeyConstraint("creator", "day", "reason"),
)

month_charges = _table(
    "month_charges",
    _text("creator"),
    _text("month"),
    _number("charge_nano_usd"),
    _number("cost_nano_usd"),
    _number("calls"),
    _text("units"),  # JSON object: payer -> units taken
    _instant("closed_at"),
    PrimaryKeyConstraint("creator", "month"),
)

dropped_months = _table(
    "dropped_months",  # closed months of which entries were dropped, or are about to be
    Column("month", Text, primary_key=True),
    _text("rollups_sha256"),  # of the month's rows of `usage_daily`, which stay: see `gateway.ledger.dropped`
    _instant("begun_at"),
    _instant("swept_at", nullable=True),  # when all that was posted in this month had been gone through
)

dropped_sums = _table(
    "dropped_sums",  # the sums of the dropped entries, by the month of their calls' admission
    _text("month"),
    _text("creator"),
    _text("payer"),
    _number("entries"),
    _number("calls"),
    _number("cost_nano_usd"),
    _number("charge_nano_usd"),
    _number("payer_amount"),
    PrimaryKeyConstraint("month", "creator", "payer"),
)

credit_grants = _table(
    "credit_grants",
    Column("entry_id", Text, primary_key=True),  # the entry of kind `grant`
    _text("creator"),
    _text("payer"),  # `credits` or `promo_credits`
    _number("credits"),
    _instant("expires_at", nullable=True),
    _instant("created_at"),
    Column("expired_entry_id", Text),  # the entry of kind `expiry`, once what was left is booked as gone
    Index(None, "creator"),
)

postings = _table(
    "postings",  # what an admin posted once: asked for again, the answer is the entry that is there
    _text("creator"),
    _text("idempotency_key"),
    _text("digest"),
    _text("entry_id"),
    _instant("created_at"),
    PrimaryKeyConstraint("creator", "idempotency_key"),
)

price_rows = _table(
    "price_rows",
    _text("model"),
    _text("version"),
    _text("row"),  # JSON: the price as it stood, so that an old entry can be computed again
    _instant("first_used_at"),
    PrimaryKeyConstraint("model", "version"),
)

responses = _table(
    "responses",  # what the Responses API is asked for again: whose it is, and what it said
    Column("id", Text, primary_key=True),  # `resp_...`: ours, or the provider's own
    _text("account_id"),
    _text("creator"),
    _text("model"),  # that served it
    _text("provider"),  # that keeps it; empty where the gateway does
    _text("status"),
    _text("previous_id", default=""),
    _text("conversation_id", default=""),
    _number("context_tokens"),  # input and output together: what a follow-up begins with
    _instant("created_at"),
    _text("body"),  # JSON: the response; empty where the provider keeps it
    _text("input"),  # JSON list: the items it was asked with; likewise
    Index(None, "creator", "id"),
)

conversations = _table(
    "conversations",
    Column("id", Text, primary_key=True),
    _text("account_id"),
    _text("creator"),
    _text("metadata", default="{}"),
    _instant("created_at"),
    Index(None, "creator", "id"),
)

conversation_items = _table(
    "conversation_items",
    _text("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE")),
    _number("position"),  # rising, with gaps where items were deleted
    _text("id"),
    _text("body"),  # JSON: the item
    PrimaryKeyConstraint("conversation_id", "position"),
    UniqueConstraint("conversation_id", "id"),
)

generations = _table(
    "generations",  # images a creator had made: the history, one row an image
    Column("id", Text, primary_key=True),
    _text("account_id"),
    _text("creator"),
    _text("request_id"),  # of the ledger entry that paid for it
    _number("position"),  # among the images of its request, from 0
    _text("endpoint"),
    _text("model"),
    _text("provider"),
    _text("prompt"),  # cut to what fits a list
    _text("revised_prompt", default=""),
    _text("variant", default=""),  # size/quality
    _text("asset_id", default=""),  # where the gateway keeps the image
    _flag("is_selected"),
    _instant("created_at"),
    Index(None, "creator", "id"),
    UniqueConstraint("request_id", "position"),
)

assets = _table(
    "assets",  # files the gateway keeps: what is in the store under `id`
    Column("id", Text, primary_key=True),
    _text("account_id"),
    _text("creator"),
    _text("content_type"),
    _number("size_bytes"),
    _text("sha256"),
    _instant("created_at"),
    Index(None, "creator"),
)

idempotency = _table(
    "idempotency",  # calls that came with an `Idempotency-Key`, and what they were answered
    Column("id", Text, primary_key=True),  # HMAC of virtual key, creator and the caller's value
    _text("fingerprint"),  # of method, path and body
    _text("request_id"),  # of the call it stands for
    _text("account_id"),
    _text("creator"),
    _instant("created_at"),
    _instant("expires_at"),
    _text("state"),  # `open`, `kept`, `too_large` or `dropped`
    _number("status", default=0),  # of the answer
    _number("size_bytes", default=0),  # of `answer`
    Column("answer", LargeBinary),  # sealed: headers and body; null unless it is kept
    Index(None, "expires_at"),
    Index(None, "creator"),
    _partial_index(
        "ix_idempotency_kept", "size_bytes", where=IS_KEPT
    ),  # how much there is, without reading the answers
)

notices = _table(
    "notices",  # what people are told about money and trouble: once for each `once`, for ever
    Column("id", Text, primary_key=True),  # grows with time, as those of entries
    _text("kind"),  # `quota.80_percent`
    _text("once"),  # kind, subject and period: what must not be told twice
    _text("creator", default=""),
    _text("message"),  # one sentence for people
    _text("data"),  # JSON object: the figures
    _instant("created_at"),
    UniqueConstraint("once"),
    Index(None, "creator", "id"),
)

notice_deliveries = _table(
    "notice_deliveries",  # the outbox: a row for each notice and place it goes to
    _text("notice_id", ForeignKey("notices.id", ondelete="CASCADE")),
    _text("target"),  # `webhook`, `slack` or `mail`
    _text("state"),  # `pending`, `delivered` or `given_up`
    _number("attempts", default=0),
    _instant("next_at"),  # when it is tried next, or was ended
    _text("error", default=""),  # of the last attempt: a word, or a status
    PrimaryKeyConstraint("notice_id", "target"),
    _partial_index("ix_notice_deliveries_pending", "next_at", where=IS_PENDING),
)

usage_hourly = _table(
    "usage_hourly",  # what was posted in each hour, summed from entries in the background: what is usual
    _text("hour"),  # YYYY-MM-DDTHH of `created_at`, UTC
    _text("creator"),
    _text("feature"),
    _text("key_id"),
    _number("calls"),
    _number("cost_nano_usd"),
    PrimaryKeyConstraint("hour", "creator", "feature", "key_id"),
    Index(None, "creator", "feature", "hour"),
)

anomalies = _table(
    "anomalies",  # hours that were out of the usual, with the figures that made them so
    Column("id", Text, primary_key=True),  # grows with time
    _text("creator"),
    _text("feature"),
    _text("metric"),  # `calls` or `cost_nano_usd`
    _text("hour"),
    _number("value"),  # when it was found
    _number("median"),
    _number("deviation"),  # median absolute deviation
    _number("often"),  # 95th percentile
    _number("threshold"),
    _number("hours"),  # how many the median is of
    _text("action"),  # `notify`, `throttle` or `pause`
    _text("details", default="{}"),  # JSON object: what the action did
    _instant("created_at"),
    UniqueConstraint("creator", "feature", "metric", "hour"),
    Index(None, "creator", "id"),
)

throttles = _table(
    "throttles",  # creators who are slowed down for a while
    Column("creator", Text, primary_key=True),
    _number("requests_per_minute"),
    _instant("until_at"),
    _text("anomaly_id", default=""),
)

instances = _table(
    "instances",  # the processes that share this database; those that did not stop are removed a day after they were last seen
    Column("id", Text, primary_key=True),  # `holds.instance_id`
    _instant("started_at"),  # these two by the clock of the database
    _instant("seen_at"),
    _text("counting"),  # what it has acknowledged: `shared`, `local`, or a step between the two
    _number("round", default=0),  # which agreement to count locally that is about
    _text("agreed", default=""),  # who had stopped for it, by id, when it began to count locally
    _number("wants_local", default=0),  # 1: it cannot reach the store of the counters
)

leases = _table(
    "leases",  # who does what is to be done once
    Column("name", Text, primary_key=True),
    _text("holder"),  # an instance
    _instant("until_at"),  # by the clock of the database
)

meta = _table("meta", Column("key", Text, primary_key=True), _text("value"))

HOLD_COLUMNS = tuple(column.name for column in holds.columns)
ENTRY_COLUMNS = tuple(column.name for column in entries.columns)
_INSTEAD: dict[str, ColumnElement[Any]] = {
    "decision": literal_column("''").label("decision"),
    "saved_nano_usd": case((entries.c.cached.is_(true()), entries.c.saved_nano_usd), else_=0).label("saved_nano_usd"),
}
ENTRY_FACTS = tuple(_INSTEAD.get(column.name, column) for column in entries.columns)
"""What lists select of an entry, in the same order: everything but why it was admitted as it was, which is empty. What
lies behind that is read only where there can be any."""
