"""What admins may ask of the books, and what they may post there."""

from typing import get_args

from gateway.endpoints.admin import credits as credit_forms
from gateway.endpoints.admin.costs import SUMS
from gateway.endpoints.admin.estimate import EstimateForm
from gateway.endpoints.admin.keys import NoForm
from gateway.ledger.queries import GROUPS
from gateway.ledger.records import Kind, Outcome
from gateway.ledger.schema import USAGE_DAILY_KEY
from gateway.openapi import errors
from gateway.openapi.admin_operation import CSV, CURSOR, OBJECT, YES_OR_NO, admin_operation, page_limit
from gateway.openapi.shapes import (
    Answer,
    Operation,
    Schema,
    array,
    boolean,
    choice,
    integer,
    listing,
    nullable,
    query,
    record,
    ref,
    text,
)

__all__ = ["books_operations"]

_IDEMPOTENCY: Schema = {
    "name": "idempotency-key",
    "in": "header",
    "description": "Sent again with the same content, nothing is posted twice.",
    "schema": {"type": "string", "maxLength": 255},
}


def books_operations() -> list[Operation]:
    return [*_credits(), *_ledger(), *_money()]


def _credits() -> list[Operation]:
    tag = "Credits and corrections"
    entry = Answer("The entry that was posted.", record({"id": text(), "kind": text()}, is_open=True), 201)
    return [
        admin_operation(
            "POST",
            "/admin/creators/{id}/credits",
            tag,
            "Grant credits",
            "Say `credits` or `package`; `promo_credits` may expire.",
            entry,
            (*errors.CREATOR_MISSING, *errors.GRANT),
            (_IDEMPOTENCY,),
            form=credit_forms.GrantForm,
            example={"credits": 100, "note": "welcome"},
        ),
        admin_operation(
            "GET",
            "/admin/creators/{id}/credits",
            tag,
            "Show a creator's credits",
            "The balance, and the grants page by page.",
            Answer("Balance and grants.", listing(OBJECT)),
            (*errors.CREATOR_MISSING, (400, "invalid_value"), (422, "unknown_field")),
            (page_limit(1_000, 100), CURSOR),
        ),
        admin_operation(
            "POST",
            "/admin/creators/{id}/adjustments",
            tag,
            "Adjust what a creator owes or has",
            "Money of this month, or credits; a negative amount takes away.",
            entry,
            (*errors.CREATOR_MISSING, *errors.ADJUSTMENT),
            (_IDEMPOTENCY,),
            form=credit_forms.AdjustmentForm,
            example={"payer": "quota", "amount_usd": "-0.5", "note": "goodwill"},
        ),
        admin_operation(
            "POST",
            "/admin/ledger/{request_id}/refunds",
            tag,
            "Refund a call",
            "All of it, or the amount that is said.",
            entry,
            (*errors.MISSING, *errors.REFUND),
            (_IDEMPOTENCY,),
            form=credit_forms.RefundForm,
            example={"note": "a broken image"},
        ),
        admin_operation(
            "GET",
            "/admin/credit-packages",
            tag,
            "List the credit packages",
            "In which credits are granted.",
            Answer("All.", listing(record({"name": text(), "credits": integer(), "price_usd": text()}))),
        ),
    ]


def _ledger() -> list[Operation]:
    tag = "Ledger"
    texts = ("creator", "feature", "agent", "provider", "endpoint", "request_id")
    filters = (
        query("from", "Posted since: a day or an RFC 3339 instant, inclusive."),
        query("to", "Exclusive."),
        *(query(name, "Exactly this.") for name in texts),
        query("model", "Asked for or served."),
        query("kind", "Only these.", choice(get_args(Kind))),
        query("outcome", "Only these.", choice(get_args(Outcome))),
        query("cached", "Only those answered from the cache, or only the others.", YES_OR_NO),
    )
    pages = (
        page_limit(1_000, 100),
        CURSOR,
        query("scan_max", "Look at no more entries than this.", integer(minimum=1, maximum=1_000_000)),
        query("format", "A file with all that fits.", choice(["json", "csv", "ndjson"], default="json")),
    )
    explained = record({"data": array(OBJECT), "open_hold": nullable(OBJECT)})
    return [
        admin_operation(
            "GET",
            "/admin/ledger",
            tag,
            "List entries",
            "The newest first.",
            Answer("A page.", listing(ref("Entry")), types=(*CSV, "application/x-ndjson")),
            errors.READS,
            (*filters, *pages),
        ),
        admin_operation(
            "GET",
            "/admin/ledger/{request_id}",
            tag,
            "Explain a call",
            "Attempts, decision, prices, corrections, and its hold while it is open.",
            Answer("All that is known.", explained),
            errors.MISSING,
        ),
    ]


def _money() -> list[Operation]:
    tag = "Costs and charges"
    keys = sorted({*USAGE_DAILY_KEY, "month", "model"} - {"kind", "outcome", "cached"})
    costs = (
        query("group_by", f"Any of {', '.join(sorted(GROUPS))}, joined by commas.", is_required=True),
        query("sums", f"Only these of {', '.join(SUMS)}, joined by commas."),
        query("from", "A day (UTC) of admission, inclusive."),
        query("to", "Exclusive."),
        *(query(name, "Exactly this.") for name in keys),
        query("kind", "Only these.", choice(get_args(Kind))),
        query("outcome", "Only these.", choice(get_args(Outcome))),
        query("cached", "Only those answered from the cache, or only the others.", YES_OR_NO),
        query("format", "A file.", choice(["json", "csv"], default="json")),
    )
    charges = record({"data": array(OBJECT), "month": text(), "closed": boolean(), "totals": OBJECT})
    closed = record({"month": text(), "creators": integer(), "closed_now": boolean()})
    return [
        admin_operation(
            "GET",
            "/admin/costs",
            tag,
            "Sum what calls cost",
            "By any keys, out of daily sums.",
            Answer("A line a group, and all together.", record({"data": array(OBJECT), "totals": OBJECT}), types=CSV),
            errors.READS,
            costs,
        ),
        admin_operation(
            "GET",
            "/admin/charges",
            tag,
            "Show what creators owe for a month",
            "An open month as of now, a closed one as it was written.",
            Answer("A line a creator.", charges, types=CSV),
            errors.READS,
            (
                query("month", "`YYYY-MM`.", is_required=True),
                query("format", "A file.", choice(["json", "csv"], default="json")),
            ),
        ),
        admin_operation(
            "GET",
            "/admin/charges/months",
            tag,
            "List months",
            "Each with its state and the sums over all creators.",
            Answer("The latest first.", record({"data": array(OBJECT)})),
            errors.READS,
            (
                query("to", "The last one, `YYYY-MM`; this month where nothing is said."),
                query("count", "How many.", integer(minimum=1, maximum=36, default=12)),
            ),
        ),
        admin_operation(
            "POST",
            "/admin/charges/{month}/close",
            tag,
            "Close a month",
            "One that is over and has no open call.",
            Answer("It is closed.", closed),
            errors.CLOSING,
            form=NoForm,
        ),
        admin_operation(
            "POST",
            "/admin/estimate",
            tag,
            "Ask what a call would cost a creator",
            "And who would pay, and what would become of it. Spends nothing.",
            Answer("What would become of it.", ref("Estimate")),
            (*errors.ESTIMATE, *errors.CREATOR_MISSING),
            form=EstimateForm,
            example={
                "creator": "default",
                "request": {"model": "mock-1", "messages": [{"role": "user", "content": "Hi"}]},
            },
        ),
    ]
