"""`POST /admin/estimate`: what a call would cost a creator, who would pay, and what would become of it. Spends nothing."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.endpoints import Form, json_response, read_form
from gateway.errors import NotFound
from gateway.estimating import estimate, read_for_estimate
from policies.types import Account, Plan


def _an_address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("takes an IP address, such as 192.0.2.7") from None
    return text


Address = Annotated[str, Field(max_length=64), AfterValidator(_an_address)]


def _anybody() -> Account:
    return Account("", "", "", Plan("", payers=("quota",)))


class EstimateForm(Form):
    creator: str | None = None
    """None: as somebody with no limits, whom the quota pays for, at the catalog's prices."""
    request: dict[str, Any]
    """A body as the endpoint itself takes it."""
    endpoint: str | None = None
    downgrade: bool = True
    """False: as a caller that will not be downgraded."""
    address: Address | None = None
    """Where the call would come from; None: from an address that is allowed."""


async def show_estimate(request: Request) -> Response:
    state = request.app.state
    form = await read_form(request, EstimateForm, bytes_max=state.settings.body_bytes_max)
    account = _anybody() if form.creator is None else await state.authenticator.account_of(form.creator)
    if account is None:
        raise NotFound("There is no creator with this id.", code="creator_not_found")
    asked = read_for_estimate(orjson.dumps(form.request), form.endpoint, state.response_store)
    headers = {} if form.downgrade else {b"x-gateway-downgrade": b"never"}
    if form.address is None:
        account = _from_anywhere(account)
    return json_response(await estimate(state.admission, account, headers, asked, form.address or ""))


def _from_anywhere(account: Account) -> Account:
    return replace(account, plan=replace(account.plan, addresses=None))


routes = [Route("/admin/estimate", show_estimate, methods=["POST"])]
