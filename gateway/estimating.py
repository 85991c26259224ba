"""What a call would cost and who would pay for it, told by the code that admits calls: nothing is spent by asking."""

from collections.abc import Callable, Mapping
from typing import Any

from gateway.admission import Admission, Preview
from gateway.answers import limit_json
from gateway.chat import read_chat_request
from gateway.completions import read_completion_request
from gateway.embeddings import read_embeddings_request
from gateway.errors import RequestError
from gateway.images import read_image_request
from gateway.messages.request import read_messages_request
from gateway.model_request import ModelRequest
from gateway.moderations import read_moderations_request
from gateway.pricing import price_shown, usd
from gateway.responses.request import read_responses_request
from gateway.responses.state import ResponseStore
from gateway.speech import read_speech_request
from policies import payer
from policies.types import Account

Reader = Callable[[bytes, ResponseStore], ModelRequest]
READERS: Mapping[str, Reader] = {
    "chat": lambda raw, _: read_chat_request(raw),
    "completions": lambda raw, _: read_completion_request(raw),
    "embeddings": lambda raw, _: read_embeddings_request(raw),
    "images": lambda raw, _: read_image_request(raw),
    "messages": lambda raw, _: read_messages_request(raw),
    "moderations": lambda raw, _: read_moderations_request(raw),
    "responses": read_responses_request,
    "speech": lambda raw, _: read_speech_request(raw),
}
"""How a body of each endpoint is read, where it is JSON."""


def read_for_estimate(raw: bytes, endpoint: str | None, responses: ResponseStore) -> ModelRequest:
    """The request in `raw`, a body as the endpoint takes it. Raises `RequestError`.

    Without an `endpoint`, a body with `messages` is chat and one with a `prompt` an image.
    """
    if endpoint is not None:
        if endpoint not in READERS:
            raise RequestError(
                f"`endpoint` takes one of: {', '.join(sorted(READERS))}.", code="invalid_value", param="endpoint"
            )
        return READERS[endpoint](raw, responses)
    return read_image_request(raw) if b'"prompt"' in raw and b'"messages"' not in raw else read_chat_request(raw)


async def estimate(
    admission: Admission, account: Account, headers: Mapping[bytes, bytes], request: ModelRequest, address: str
) -> dict[str, Any]:
    """What admission would say to `request` right now. Raises `RequestError` for what it would not even look at."""
    if request.keeps_state:
        await request.load(account)
    return _shown(request, await admission.preview(account, headers, request, address))


def _shown(request: ModelRequest, preview: Preview) -> dict[str, Any]:
    offer, call = preview.offer, preview.offer.call
    hold, charge = call.cost_nano_usd, call.charge_nano_usd
    if preview.clamped_to is not None:
        hold = request.worst_case(offer.model, offer.model.price)
        charge = request.worst_case(offer.model, offer.charge_price)
    variant = request.variant(offer.model)
    would = "refuse" if preview.refusal else "downgrade" if preview.steps else "admit"
    return {
        "object": "estimate",
        "endpoint": request.endpoint,
        "would": would,
        "requested_model": request.model,
        "model": offer.model.name,
        "provider": offer.model.provider,
        "expected_cost_nano_usd": call.expected_nano_usd,
        "expected_cost_usd": usd(call.expected_nano_usd),
        "hold_nano_usd": hold,
        "hold_usd": usd(hold),
        "charge_max_nano_usd": charge,
        "charge_max_usd": usd(charge),
        "price": price_shown(offer.model.price, variant),
        "charge_price": price_shown(offer.charge_price, variant),
        "payer": _payer_shown(preview),
        "downgrades": [step._asdict() for step in preview.steps],
        "clamped_max_tokens": preview.clamped_to,
        "limits": [limit_json(state) for state in preview.states],
        "refusal": _refusal_shown(preview),
    }


def _payer_shown(preview: Preview) -> dict[str, Any] | None:
    """Who would pay and at most how much; None where nobody would."""
    if preview.refusal is not None:
        return None
    for state in preview.states:
        if (found := payer.payer_of(state.limit)) is not None:
            name, unit = found
            return {"name": name, "unit": unit, "amount_max": state.taken}
    return None


def _refusal_shown(preview: Preview) -> dict[str, Any] | None:
    error = preview.refusal
    if error is None:
        return None
    return {
        "status": error.status,
        "code": error.code,
        "message": error.message,
        "retry_after_s": error.headers.get("retry-after"),
        "metadata": error.metadata,
    }
