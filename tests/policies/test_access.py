from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import access
from policies.types import Account, Call, Deny
from tests.policies.samples import ACCOUNT, CALL, NOW, on_plan


def code_of(account: Account, call: Call = CALL) -> str | None:
    """The code of the refusal; None where the call may go on."""
    answer = access.decide(call, account, NOW)
    if isinstance(answer, Deny):
        assert answer.policy == "access"
        return answer.code
    assert answer == ()
    return None


def from_address(address: str, *networks: str) -> str | None:
    return code_of(on_plan(addresses=networks), CALL._replace(address=address))


def key_with(models: frozenset[str] | None) -> Account:
    return replace(ACCOUNT, models=models)


def plan_with(models: frozenset[str] | None) -> Account:
    return on_plan(models=models)


@pytest.mark.parametrize("account_with", [key_with, plan_with])
@pytest.mark.parametrize(
    "models",
    [
        pytest.param(None, id="no list"),
        pytest.param(frozenset({"gpt-big"}), id="only this model"),
        pytest.param(frozenset({"gpt-small", "gpt-big"}), id="among others"),
    ],
)
def test_a_model_on_the_list_may_be_used(
    account_with: Callable[[frozenset[str] | None], Account], models: frozenset[str] | None
) -> None:
    assert code_of(account_with(models)) is None


@pytest.mark.parametrize("account_with", [key_with, plan_with])
@pytest.mark.parametrize(
    "models",
    [
        pytest.param(frozenset(), id="empty list"),
        pytest.param(frozenset({"gpt-small"}), id="another model"),
        pytest.param(frozenset({"gpt"}), id="a prefix of the name"),
        pytest.param(frozenset({"GPT-BIG"}), id="another case"),
    ],
)
def test_any_other_model_may_not(
    account_with: Callable[[frozenset[str] | None], Account], models: frozenset[str]
) -> None:
    deny = access.decide(CALL, account_with(models), NOW)
    assert isinstance(deny, Deny)
    assert (deny.code, deny.policy) == ("model_not_allowed", "access")
    assert "'gpt-big'" in deny.message
    assert "GET /v1/models" in deny.message


def test_key_and_plan_must_both_allow_the_model() -> None:
    big, small = frozenset({"gpt-big"}), frozenset({"gpt-small"})
    assert code_of(replace(plan_with(big), models=big)) is None
    assert code_of(replace(plan_with(big), models=small)) == "model_not_allowed"
    assert code_of(replace(plan_with(small), models=big)) == "model_not_allowed"


def test_the_refusal_says_whether_key_or_plan_is_the_obstacle() -> None:
    by_key = access.decide(CALL, key_with(frozenset()), NOW)
    by_plan = access.decide(CALL, plan_with(frozenset()), NOW)
    assert isinstance(by_key, Deny)
    assert isinstance(by_plan, Deny)
    assert by_key.message.startswith("This virtual key ")
    assert by_plan.message.startswith("Plan 'pro' ")


@pytest.mark.parametrize("account_with", [key_with, plan_with])
def test_the_model_that_would_serve_is_what_counts(
    account_with: Callable[[frozenset[str] | None], Account],
) -> None:
    """A route that ends at another model than the one asked for must not lead out of the list."""
    assert code_of(account_with(frozenset({"gpt-big"})), CALL._replace(model="gpt-other")) == "model_not_allowed"


def test_only_tiers_of_the_plan_may_be_used() -> None:
    assert code_of(on_plan(tiers=None)) is None
    assert code_of(on_plan(tiers=frozenset({"premium", "standard"}))) is None
    assert code_of(on_plan(tiers=frozenset({"standard"}))) == "tier_not_allowed"
    assert code_of(on_plan(tiers=frozenset())) == "tier_not_allowed"
    deny = access.decide(CALL, on_plan(tiers=frozenset({"standard"})), NOW)
    assert isinstance(deny, Deny)
    assert "'pro'" in deny.message
    assert "'premium'" in deny.message


def test_only_endpoints_of_the_plan_may_be_used() -> None:
    assert code_of(on_plan(endpoints=None)) is None
    assert code_of(on_plan(endpoints=frozenset({"chat"}))) is None
    assert code_of(on_plan(endpoints=frozenset({"images"}))) == "endpoint_not_allowed"
    assert code_of(on_plan(endpoints=frozenset())) == "endpoint_not_allowed"
    deny = access.decide(CALL, on_plan(endpoints=frozenset()), NOW)
    assert isinstance(deny, Deny)
    assert "'chat'" in deny.message


@pytest.mark.parametrize(
    ("address", "network"),
    [
        pytest.param("10.1.2.3", "10.0.0.0/8", id="inside"),
        pytest.param("10.0.0.0", "10.0.0.0/8", id="first address"),
        pytest.param("10.255.255.255", "10.0.0.0/8", id="last address"),
        pytest.param("192.0.2.7", "192.0.2.7/32", id="one host"),
        pytest.param("192.0.2.7", "192.0.2.7", id="one host without prefix"),
        pytest.param("10.1.2.3", "10.0.0.5/8", id="network written with host bits"),
        pytest.param("8.8.8.8", "0.0.0.0/0", id="all of IPv4"),
        pytest.param("2001:db8::1", "2001:db8::/32", id="IPv6"),
        pytest.param("2001:DB8:0:0::1", "2001:db8::/32", id="IPv6 in another spelling"),
        pytest.param("::ffff:10.1.2.3", "10.0.0.0/8", id="IPv4 on a socket for both"),
    ],
)
def test_a_call_from_an_allowed_network_goes_on(address: str, network: str) -> None:
    assert from_address(address, network) is None
    assert from_address(address, "203.0.113.0/24", network) is None


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        pytest.param("11.0.0.0", ("10.0.0.0/8",), id="just above"),
        pytest.param("9.255.255.255", ("10.0.0.0/8",), id="just below"),
        pytest.param("192.0.2.8", ("192.0.2.7/32",), id="the neighbour"),
        pytest.param("10.1.2.3", (), id="empty list"),
        pytest.param("", ("0.0.0.0/0", "::/0"), id="no address known"),
        pytest.param("not an address", ("0.0.0.0/0", "::/0"), id="no address"),
        pytest.param("10.1.2.3:443", ("10.0.0.0/8",), id="address and port"),
        pytest.param(" 10.1.2.3", ("10.0.0.0/8",), id="blank in front"),
        pytest.param("010.1.2.3", ("10.0.0.0/8",), id="leading zero, octal to some"),
        pytest.param("167838211", ("10.0.0.0/8",), id="address as a number"),
        pytest.param("10.1", ("10.0.0.0/8",), id="shortened"),
        pytest.param("10.1.2.3", ("::/0",), id="IPv4 against all of IPv6"),
        pytest.param("2001:db8::1", ("0.0.0.0/0",), id="IPv6 against all of IPv4"),
        pytest.param("::ffff:10.1.2.3", ("::/0",), id="mapped IPv4 is IPv4"),
        pytest.param("10.1.2.3", ("10.0.0.0/33",), id="network that is none"),
        pytest.param("10.1.2.3", ("",), id="empty network"),
    ],
)
def test_a_call_from_anywhere_else_is_refused(address: str, networks: tuple[str, ...]) -> None:
    assert from_address(address, *networks) == "address_not_allowed"


def test_a_misspelt_network_closes_no_other() -> None:
    assert from_address("10.1.2.3", "10.0.0.0/33", "10.0.0.0/8") is None


@pytest.mark.parametrize("address", ["", "nonsense", "10.1.2.3"])
def test_without_a_list_the_address_does_not_matter(address: str) -> None:
    assert code_of(on_plan(addresses=None), CALL._replace(address=address)) is None


def test_the_refusal_shows_an_address_only_where_it_is_one() -> None:
    """The text comes from a header: what is no address must not be echoed."""
    account = on_plan(addresses=())
    seen = access.decide(CALL, account, NOW)
    hostile = access.decide(CALL._replace(address="<script>"), account, NOW)
    assert isinstance(seen, Deny)
    assert isinstance(hostile, Deny)
    assert "192.0.2.7" in seen.message
    assert "<script>" not in hostile.message


@given(
    st.integers(min_value=0, max_value=2**32 - 1),
    st.integers(min_value=0, max_value=2**32 - 1),
    st.integers(min_value=0, max_value=32),
)
def test_being_inside_means_sharing_the_prefix(address: int, base: int, prefix: int) -> None:
    network = IPv4Network((base, prefix), strict=False)
    is_inside = address >> (32 - prefix) == base >> (32 - prefix)
    assert (from_address(str(IPv4Address(address)), str(network)) is None) is is_inside


def test_the_address_is_asked_first() -> None:
    """A stolen key used elsewhere learns nothing about the plan."""
    account = on_plan(addresses=(), models=frozenset(), tiers=frozenset(), endpoints=frozenset())
    assert code_of(account) == "address_not_allowed"


def test_access_has_nothing_to_show() -> None:
    assert access.overview(on_plan(models=frozenset(), addresses=()), NOW) == ()


# Asked without a call


@given(
    st.ip_addresses().map(str) | st.sampled_from(["", "nowhere"]), st.lists(st.ip_addresses(v=4).map(str), max_size=2)
)
def test_an_address_alone_is_judged_as_in_a_call(address: str, networks: list[str]) -> None:
    account = on_plan(addresses=tuple(networks))
    alone = access.address_refusal(account, address)
    decided = access.decide(CALL._replace(address=address), account, NOW)
    assert alone == (decided if isinstance(decided, Deny) else None)
    assert (alone is None) is (address in networks)


def test_without_a_list_every_address_may_ask() -> None:
    assert access.address_refusal(ACCOUNT, "") is None


NAMES = st.none() | st.frozensets(st.sampled_from(["gpt-big", "gpt-small"]))


@given(
    key_models=NAMES,
    models=NAMES,
    tiers=st.none() | st.frozensets(st.sampled_from(["standard", "premium"])),
    endpoints=st.none() | st.frozensets(st.sampled_from(["chat", "images"])),
    served=st.frozensets(st.sampled_from(["chat", "images"]), min_size=1),
    tier=st.sampled_from(["standard", "premium"]),
)
def test_a_model_is_usable_exactly_if_some_call_for_it_would_pass(
    key_models: frozenset[str] | None,
    models: frozenset[str] | None,
    tiers: frozenset[str] | None,
    endpoints: frozenset[str] | None,
    served: frozenset[str],
    tier: str,
) -> None:
    account = replace(on_plan(models=models, tiers=tiers, endpoints=endpoints), models=key_models)
    calls = [CALL._replace(model="gpt-big", tier=tier, endpoint=endpoint) for endpoint in served]
    assert access.may_use(account, "gpt-big", tier, served) is any(code_of(account, call) is None for call in calls)
