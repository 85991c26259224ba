"""Access: may this virtual key make this call at all, from where it comes. Counts nothing.

Whether a key is expired or revoked is not asked here: the authenticator has answered that before there is a call.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from policies.types import Account, Call, Deny, Limit, LimitGroup

_POLICY = "access"


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup] | Deny:
    """No limits, or a refusal: `address_not_allowed`, `endpoint_not_allowed`, `model_not_allowed`, `tier_not_allowed`.

    The model that would serve the call is what counts: no route leads a key to a model outside its list. The address is
    asked first, so that a stolen key tells nothing about the plan elsewhere.
    """
    plan = account.plan
    if (refusal := address_refusal(account, call.address)) is not None:
        return refusal
    if plan.endpoints is not None and call.endpoint not in plan.endpoints:
        return _endpoint_not_allowed(call, account)
    if account.models is not None and call.model not in account.models:
        return _model_not_allowed(call)
    if plan.models is not None and call.model not in plan.models:
        return _model_not_in_plan(call, account)
    if plan.tiers is not None and call.tier not in plan.tiers:
        return _tier_not_allowed(call, account)
    return ()


def address_refusal(account: Account, address: str) -> Deny | None:
    """Why nothing may be told to this address, not even what the account is; None if it may. Empty: not known."""
    addresses = account.plan.addresses
    if addresses is None or _is_among(address, addresses):
        return None
    return _address_not_allowed(address)


def may_use(account: Account, model: str, tier: str, endpoints: Iterable[str]) -> bool:
    """Whether a call of `account` for this model could pass `decide` at one of `endpoints`, those that the model serves."""
    plan = account.plan
    return (
        (account.models is None or model in account.models)
        and (plan.models is None or model in plan.models)
        and (plan.tiers is None or tier in plan.tiers)
        and (plan.endpoints is None or not plan.endpoints.isdisjoint(endpoints))
    )


def overview(account: Account, now: datetime) -> Sequence[Limit]:
    """Nothing: access is allowed or not, and never used up."""
    return ()


def _address_not_allowed(address: str) -> Deny:
    parsed = _parsed(address)
    seen = "an address the gateway could not read" if parsed is None else f"the address {parsed}"
    message = (
        f"This virtual key may not be used from {seen}. Call from one of the networks it is meant for, or ask the "
        "gateway's admin to add this one."
    )
    return Deny("address_not_allowed", message, _POLICY)


def _endpoint_not_allowed(call: Call, account: Account) -> Deny:
    message = (
        f"Plan '{account.plan.name}' does not include the endpoint '{call.endpoint}'. Ask the gateway's admin for a "
        "plan that does."
    )
    return Deny("endpoint_not_allowed", message, _POLICY)


def _model_not_allowed(call: Call) -> Deny:
    message = (
        f"This virtual key may not use the model '{call.model}'. GET /v1/models lists the models it may use; "
        "ask the gateway's admin to allow another one."
    )
    return Deny("model_not_allowed", message, _POLICY)


def _model_not_in_plan(call: Call, account: Account) -> Deny:
    message = (
        f"Plan '{account.plan.name}' does not include the model '{call.model}'. GET /v1/models lists the models it "
        "includes; ask the gateway's admin for a plan with this one."
    )
    return Deny("model_not_allowed", message, _POLICY)


def _tier_not_allowed(call: Call, account: Account) -> Deny:
    message = (
        f"Plan '{account.plan.name}' does not include models of the tier '{call.tier}', such as '{call.model}'. "
        "GET /v1/models lists the models it includes; ask the gateway's admin for a plan with this tier."
    )
    return Deny("tier_not_allowed", message, _POLICY)


@lru_cache(maxsize=4_096)
def _is_among(address: str, networks: tuple[str, ...]) -> bool:
    """Fails closed: an address or a network that cannot be read matches nothing."""
    caller = _parsed(address)
    if caller is None:
        return False
    return any(caller.version == network.version and caller in network for network in _networks(networks))


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """A caller of IPv4 on a socket for both shows up as `::ffff:10.0.0.1`; it is the same caller."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


@lru_cache(maxsize=1_024)
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError:  # one that is misspelt opens nothing, and closes no other
            continue
    return tuple(networks)
