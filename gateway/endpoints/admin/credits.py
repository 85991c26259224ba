"""What an admin books without a call: grants of credits, adjustments, refunds; and what a creator has left.

Each answers with the ledger entry it posted. Sent again with the same idempotency key (header `Idempotency-Key`, or the
field `idempotency_key`) and the same content, it posts nothing and answers with the first entry.
"""

from datetime import datetime
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field, PlainValidator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.credit_amounts import Amount, refusal
from gateway.credits import CreditPayer, Credits, MoneyPayer
from gateway.endpoints import Form, json_response, read_form
from gateway.endpoints.admin.creators import Name, page_of
from gateway.endpoints.admin.keys import Instant
from gateway.ledger.ids import is_entry_id

_KEY_CHARS_MAX = 255
_HEADER = "idempotency-key"


def _an_amount(value: Any) -> Amount:
    if type(value) is int or (isinstance(value, str) and len(value) <= 64):
        return value
    raise ValueError('takes an integer or a decimal string such as "2.5", never a JSON float')


def _a_key(text: str) -> str:
    if not (text.isascii() and text.isprintable() and 1 <= len(text) <= _KEY_CHARS_MAX):
        raise ValueError(f"takes 1 to {_KEY_CHARS_MAX} printable ASCII characters")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("takes printable characters only")
    return text


AmountField = Annotated[Amount | None, PlainValidator(lambda value: None if value is None else _an_amount(value))]
Note = Annotated[str, Field(max_length=1_000), AfterValidator(_printable)]


class PostingForm(Form):
    note: Note = ""
    idempotency_key: Annotated[str, AfterValidator(_a_key)] | None = None


class GrantForm(PostingForm):
    payer: CreditPayer = "credits"
    credits: AmountField = None
    package: Name | None = None
    expires_at: Instant | None = None


class AdjustmentForm(PostingForm):
    payer: MoneyPayer
    amount_usd: AmountField = None
    credits: AmountField = None


class RefundForm(PostingForm):
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    amount_usd: AmountField = None
    credits: AmountField = None


async def grant(request: Request) -> Response:
    form = await read_form(request, GrantForm)
    expires_at = None if form.expires_at is None else datetime.fromisoformat(form.expires_at)
    fields = {**_fields(request, form), "expires_at": expires_at}
    return json_response(await _credits_of(request).grant(request.path_params["id"], **fields), 201)


async def adjust(request: Request) -> Response:
    fields = _fields(request, await read_form(request, AdjustmentForm))
    return json_response(await _credits_of(request).adjust(request.path_params["id"], **fields), 201)


async def refund(request: Request) -> Response:
    fields = _fields(request, await read_form(request, RefundForm))
    return json_response(await _credits_of(request).refund(request.path_params["request_id"], **fields), 201)


async def show_credits(request: Request) -> Response:
    """The balance, and the grants page by page."""
    page = page_of(request)
    if "cursor" in page and not is_entry_id(page["cursor"]):
        raise refusal("cursor", "is not one that a list gave out")
    creator = request.path_params["id"]
    grants = await _credits_of(request).grants(creator, **page)
    balance = await _credits_of(request).balance(creator)
    return json_response({"creator": creator, "balance": balance, **grants})


def _credits_of(request: Request) -> Credits:
    return cast(Credits, request.app.state.credits)


def _fields(request: Request, form: PostingForm) -> dict[str, Any]:
    """The form's fields, with the idempotency key from wherever it came."""
    return {**dict(form), "idempotency_key": _idempotency_key(request, form)}


def _idempotency_key(request: Request, form: PostingForm) -> str | None:
    sent = request.headers.getlist(_HEADER)
    if not sent:
        return form.idempotency_key
    if len(sent) > 1 or form.idempotency_key not in (None, sent[0]):
        raise refusal("idempotency_key", "is sent twice, and not the same")
    try:
        return _a_key(sent[0])
    except ValueError as exc:
        raise refusal("idempotency_key", str(exc)) from None


routes = [
    Route("/admin/creators/{id}/credits", grant, methods=["POST"]),
    Route("/admin/creators/{id}/credits", show_credits, methods=["GET"]),
    Route("/admin/creators/{id}/adjustments", adjust, methods=["POST"]),
    Route("/admin/ledger/{request_id}/refunds", refund, methods=["POST"]),
]
