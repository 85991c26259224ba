"""What an ended call takes: cost always, a charge only from the quota, units only for what was delivered."""

from typing import Any

import pytest

from gateway.admission import Admitted
from gateway.attempts import Attempts
from gateway.catalog import Model, Price, ProviderRow
from gateway.chat import read_chat_request
from gateway.config import Settings
from gateway.images import read_image_request
from gateway.ledger.records import Outcome
from gateway.metering import NOTHING, Ending, Metered, estimated
from gateway.model_request import NOTHING_OUTGOING as SENT
from gateway.providers.mock import MockProvider
from gateway.settlement import settle
from gateway.usage import Usage
from tests.ledger.books import hold

PRICE = Price("1.x", input=1_000_000, output=10_000_000)
"""A thousand nano-dollars an input token, ten thousand an output token."""
ROW = ProviderRow("mock", "mock")
CHAT = Model("m", "mock", "m", frozenset({"chat"}), PRICE)
PAINTER = Model(
    "p", "mock", "p", frozenset({"images"}), Price("1.p", images={"*/*": 20_000_000_000}), image_default="1024x1024/hd"
)
USAGE = Usage(uncached_input=10, text_output=3)
REPORTED = Metered(USAGE, "provider", 40_000)
FAILED: tuple[Outcome, ...] = (
    "upstream_refused", "upstream_error", "upstream_died", "upstream_timeout", "upstream_invalid",
    "upstream_unreachable", "aborted", "internal_error",
)  # fmt: skip


def admitted(
    payer: str = "quota",
    unit: str = "nano_usd",
    *,
    own_price: Price | None = None,
    credits_each: int | None = None,
    held: int = 1_000_000,
    images: int = 0,
) -> Admitted:
    """A call paid by `payer`; of so many images, or of chat."""
    model = PAINTER if images else CHAT
    request: Any = (
        read_image_request(b'{"model":"p","prompt":"x","n":%d}' % images)
        if images
        else read_chat_request(b'{"model":"m","messages":[{"role":"user","content":"a"}]}')
    )
    made = hold("req_1")
    made = made._replace(route=made.route._replace(payer=payer, payer_unit=unit), amount_nano_usd=held)
    provider = MockProvider(ROW, "", Settings())
    once = Attempts(1, attempts_max=1, retries=0, ends_at=0.0)
    price = own_price or model.price
    return Admitted(request, model, provider, ROW, made, (), SENT, price, credits_each, made.route, (), once)


def pictures(returned: int) -> Metered:
    usage = Usage(pieces=returned)
    return Metered(usage, "provider", returned * 20_000_000, (), "1024x1024/hd", returned)


def test_the_quota_owes_what_the_provider_costs() -> None:
    owed = settle(admitted(), Ending(REPORTED, "ok"))
    assert (owed.cost_nano_usd, owed.charge_nano_usd, owed.payer_amount, owed.flags) == (40_000, 40_000, 40_000, ())
    assert owed.actuals == {"nano_usd": 40_000, "cost_nano_usd": 40_000, "token": 13}


def test_the_quota_owes_by_the_creators_own_price_and_the_budget_by_the_catalogs() -> None:
    own = Price("1.x+own", input=1, output=2_500)
    owed = settle(admitted(own_price=own), Ending(REPORTED, "ok"))
    assert (owed.cost_nano_usd, owed.charge_nano_usd, owed.payer_amount) == (40_000, 8, 8)  # 10 + 7500 pico, rounded up
    assert (owed.actuals["nano_usd"], owed.actuals["cost_nano_usd"]) == (8, 40_000)


def test_tokens_without_a_rate_in_the_creators_own_price_are_owed_at_cost() -> None:
    owed = settle(admitted(own_price=Price("1.x+own", input=1)), Ending(REPORTED, "ok"))
    assert owed.charge_nano_usd == 40_000


def test_a_call_that_consumed_nothing_owes_nothing_even_where_the_own_price_is_missing() -> None:
    owed = settle(admitted(own_price=Price("1.x+own")), Ending(NOTHING, "upstream_refused"))
    assert (owed.cost_nano_usd, owed.charge_nano_usd, owed.payer_amount) == (0, 0, 0)


@pytest.mark.parametrize("outcome", FAILED)
def test_a_failed_call_still_owes_its_quota_what_it_consumed(outcome: Outcome) -> None:
    owed = settle(admitted(), Ending(estimated(10, 3, PRICE), outcome))
    assert owed.charge_nano_usd == 40_000


@pytest.mark.parametrize(
    ("payer", "unit"), [("free_images", "image"), ("credits", "credit"), ("promo_credits", "credit")]
)
@pytest.mark.parametrize("outcome", FAILED)
def test_a_failed_call_takes_no_units_but_its_cost_counts(payer: str, unit: str, outcome: Outcome) -> None:
    owed = settle(admitted(payer, unit, credits_each=5, images=4), Ending(pictures(4), outcome))
    assert (owed.charge_nano_usd, owed.payer_amount, owed.actuals[unit]) == (0, 0, 0)
    assert owed.cost_nano_usd == owed.actuals["cost_nano_usd"] == 80_000_000


@pytest.mark.parametrize("outcome", ["ok", "client_gone"])
@pytest.mark.parametrize(
    ("payer", "unit", "returned", "amount"),
    [
        pytest.param("free_images", "image", 4, 4, id="free images, all"),
        pytest.param("free_images", "image", 2, 2, id="free images, some"),
        pytest.param("free_images", "image", 0, 0, id="free images, none"),
        pytest.param("credits", "credit", 4, 20, id="credits, all"),
        pytest.param("credits", "credit", 1, 5, id="credits, one"),
        pytest.param("promo_credits", "credit", 0, 0, id="promotional credits, none"),
    ],
)
def test_units_are_taken_for_the_images_that_came_back(
    outcome: Outcome, payer: str, unit: str, returned: int, amount: int
) -> None:
    owed = settle(admitted(payer, unit, credits_each=5, images=4), Ending(pictures(returned), outcome))
    assert (owed.payer_amount, owed.actuals[unit], owed.charge_nano_usd) == (amount, amount, 0)
    assert owed.actuals["nano_usd"] == 0


def test_a_chat_call_paid_in_credits_takes_its_price_once() -> None:
    owed = settle(admitted("credits", "credit", credits_each=5), Ending(REPORTED, "ok"))
    assert (owed.payer_amount, owed.charge_nano_usd, owed.cost_nano_usd) == (5, 0, 40_000)


def test_a_chat_call_paid_in_credits_that_brought_nothing_takes_none() -> None:
    owed = settle(admitted("credits", "credit", credits_each=5), Ending(NOTHING, "client_gone"))
    assert owed.payer_amount == 0


def test_a_cost_above_the_hold_is_owed_in_full_and_flagged() -> None:
    for held, flags in ((40_000, ()), (39_999, ("over_hold",))):
        owed = settle(admitted(held=held), Ending(REPORTED, "ok"))
        assert (owed.charge_nano_usd, owed.flags) == (40_000, flags)


def test_flags_of_the_metering_stay() -> None:
    owed = settle(admitted(held=1), Ending(REPORTED._replace(flags=("unpriced_tier",)), "ok"))
    assert owed.flags == ("unpriced_tier", "over_hold")
