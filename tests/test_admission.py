"""How a call is admitted: along the downgrades, within what is left, and with nothing taken when anything is wrong.

The real policies, the counters in memory and a catalog of its own; nothing is dialled.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.admission import Admitted, Preview
from gateway.calls import Call
from gateway.chat import ChatRequest, read_chat_request
from gateway.decision import decision_json
from gateway.errors import NotFound, PolicyDenied, RequestError, StoreError
from gateway.images import read_image_request
from gateway.model_request import ModelRequest
from policies.types import Account
from tests.clocked_gateway import Clock, ClockedGateway, chat_model, image_model, opened, utc
from tests.ledger.books import rows

NOON = utc(2025, 6, 11, 12)
TOOLS = 'capabilities = ["tools"]'
MODELS = "".join(
    [
        chat_model("top", input="100", output="1000", more=f'downgrade_to = "middle"\n{TOOLS}'),
        chat_model("middle", input="10", output="100", more='downgrade_to = "bottom"'),
        chat_model("bottom", input="1", output="10", more=TOOLS),
        chat_model("leads-off", input="100", output="1000", more='downgrade_to = "off"'),
        chat_model("off", input="10", output="100", more='active = false\ndowngrade_to = "bottom"'),
        chat_model("unpriced", input="1", output="10").replace("output_usd_per_mtok = 10\n", ""),
        image_model("bare", price="0.1").replace('"*/*"', '"1024x1024/standard"'),
    ]
)


class Desk:
    """One creator who asks to be admitted."""

    def __init__(self, gateway: ClockedGateway, key: str) -> None:
        self.gateway, self.key = gateway, key
        self.calls: list[Call] = []

    async def account(self) -> Account:
        return await self.gateway.account(self.key)

    async def admit(self, request: ModelRequest, **headers: str) -> Admitted:
        self.calls.append(Call(request.endpoint))
        named = _named(headers)
        admission = self.gateway.services.admission
        course = await admission.begin(self.calls[-1], await self.account(), named, request, "")
        return await admission.admit(self.calls[-1], course)

    async def preview(self, request: ModelRequest, **headers: str) -> Preview:
        return await self.gateway.services.admission.preview(await self.account(), _named(headers), request, "")

    async def limit(self, name: str) -> tuple[int, int]:
        """Settled and held."""
        found = (await self.gateway.limits(self.key))[name]
        return found["used"], found["held"]

    @property
    def open_holds(self) -> int:
        found: int = self.gateway.services.counters.open_holds  # type: ignore[attr-defined]
        return found


def _named(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


@asynccontextmanager
async def desk(folder: Path, *, plan: str = "open", mode: str = "enforce", **overrides: Any) -> AsyncIterator[Desk]:
    async with opened(folder, Clock(NOON), models=MODELS, policy_mode=mode) as gateway:
        yield Desk(gateway, await gateway.new_key(plan=plan, **overrides))


def chat(model: str = "bottom", **fields: Any) -> ModelRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "12345678"}], **fields}
    return read_chat_request(orjson.dumps(body))


def images(model: str, n: int = 1, **fields: Any) -> ModelRequest:
    return read_image_request(orjson.dumps({"model": model, "prompt": "x", "n": n, **fields}))


def expected(input_price: int, output_tokens: int) -> int:
    """Two tokens in, so many out, in nano-dollars; output costs ten times the input."""
    return 2 * input_price * 1_000 + output_tokens * input_price * 10_000


# Which model


async def test_an_undisturbed_call_goes_to_the_model_it_names(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        admitted = await at.admit(chat("top", max_tokens=10))
        assert (admitted.model.name, bool(admitted.hold.downgrade_reason), admitted.clamped_to) == ("top", False, None)
        assert (admitted.hold.attribution.admitted_at, admitted.hold.attribution.request_id) == (
            NOON,
            at.calls[0].request_id,
        )
        # A token for each of eight bytes, framing of two messages, and the output named.
        assert admitted.hold.amount_nano_usd == (8 + 16) * 100_000 + 10 * 1_000_000
        assert orjson.loads(admitted.outgoing.body)["model"] == "echo"
        assert await at.limit("budget_hard_usd_per_month") == (0, admitted.hold.amount_nano_usd)
        assert await at.limit("budget_usd_per_month") == (0, expected(100, 10))


@pytest.mark.parametrize(
    ("budget", "served", "steps"),
    [
        pytest.param("0.0102", "top", [], id="it fits to the nano-dollar"),
        pytest.param("0.010199999", "middle", ["top", "middle"], id="one nano-dollar less: one step"),
        pytest.param("0.001134", "middle", ["top", "middle"], id="the next one is below nine tenths"),
        pytest.param("0.001133", "bottom", ["top", "middle", "bottom"], id="the next one is not: two steps"),
        pytest.param("0", "bottom", ["top", "middle", "bottom"], id="the last of the chain is served whatever the cap"),
    ],
)
async def test_a_downgrade_goes_along_the_chain_until_a_model_fits(
    tmp_path: Path, budget: str, served: str, steps: list[str]
) -> None:
    async with desk(tmp_path, budget_usd_per_month=budget) as at:
        admitted = await at.admit(chat("top", max_tokens=10))
        assert admitted.model.name == admitted.hold.route.served_model == served
        assert admitted.hold.attribution.requested_model == "top"
        assert admitted.hold.downgrade_reason == ("budget_usd_per_month" if steps else "")
        decision = decision_json(admitted.hold.decision)
        assert decision is not None
        assert [step["from_model"] for step in decision["downgrades"]] == steps[:-1]
        assert [step["to_model"] for step in decision["downgrades"]] == steps[1:]
        rate = {"top": 100, "middle": 10, "bottom": 1}[served]
        assert admitted.hold.amount_nano_usd == 24 * rate * 1_000 + 10 * rate * 10_000
        assert at.open_holds == 1


async def test_a_downgrade_passes_over_a_model_that_lacks_what_the_call_needs(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with desk(tmp_path, budget_usd_per_month="0.02") as at:
        assert (await at.admit(chat("top", tools=tools, max_tokens=100))).model.name == "bottom"


async def test_a_downgrade_passes_over_a_model_that_is_off_or_that_the_plan_forbids(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month=0, models=["top", "leads-off", "bottom"]) as at:
        assert (await at.admit(chat("leads-off"))).model.name == "bottom"
        assert (await at.admit(chat("top"))).model.name == "bottom"


async def test_a_call_no_cheaper_model_can_do_goes_on_under_the_hard_limits(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month=0, models=["top"], quota_usd_per_month="0.05") as at:
        admitted = await at.admit(chat("top", max_tokens=10))
        assert (admitted.model.name, bool(admitted.hold.downgrade_reason)) == ("top", False)
        with pytest.raises(PolicyDenied) as refused:
            await at.admit(chat("top", max_tokens=50))
        assert refused.value.code == "request_too_large"


async def test_a_caller_who_will_have_no_other_model_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month="0.001") as at:
        with pytest.raises(PolicyDenied) as refused:
            await at.admit(chat("top", max_tokens=10), x_gateway_downgrade="never")
        assert refused.value.status == 429
        assert at.open_holds == 0
        with pytest.raises(RequestError):
            await at.admit(chat("top"), x_gateway_downgrade="perhaps")


async def test_deny_refuses_instead_of_going_cheaper(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month="0.01", when_budget_reached="deny") as at:
        with pytest.raises(PolicyDenied):
            await at.admit(chat("top", max_tokens=10))
        assert (await at.admit(chat("middle", max_tokens=10))).model.name == "middle"


async def test_downgrade_then_deny_goes_cheaper_first(tmp_path: Path) -> None:
    limits = {"budget_usd_per_month": "0.001", "budget_hard_usd_per_month": "0.0003"}
    async with desk(tmp_path, when_budget_reached="downgrade_then_deny", **limits) as at:
        # bottom: 24 000 of input at worst, 100 000 of output
        for _ in range(2):
            assert (await at.admit(chat("top", max_tokens=10))).model.name == "bottom"
        with pytest.raises(PolicyDenied) as refused:
            await at.admit(chat("top", max_tokens=10))
        assert refused.value.metadata is not None
        assert refused.value.metadata["name"] == "budget_hard_usd_per_month"


async def test_another_limit_in_the_way_is_no_reason_to_go_cheaper(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month=1, requests_per_hour=1) as at:
        await at.admit(chat("top", max_tokens=10))
        with pytest.raises(PolicyDenied) as refused:
            await at.admit(chat("top", max_tokens=10))
        assert refused.value.code == "rate_limit_exceeded"
        assert await at.limit("requests_per_hour") == (1, 0)


# How much


async def test_an_open_call_shrinks_to_what_is_left_of_the_quota(tmp_path: Path) -> None:
    """Left are 0.02 USD: 24 000 nano-dollars of input at worst, and 1 997 tokens at 10 000."""
    async with desk(tmp_path, quota_usd_per_month="0.02") as at:
        admitted = await at.admit(chat("bottom"))
        assert admitted.clamped_to == 1_997
        assert orjson.loads(admitted.outgoing.body)["max_completion_tokens"] == 1_997
        assert admitted.hold.amount_nano_usd == 24_000 + 1_997 * 10_000
        decision = decision_json(admitted.hold.decision)
        assert decision is not None
        assert decision["clamped_to_tokens"] == 1_997


async def test_while_another_hold_is_open_half_of_what_is_left_is_the_most(tmp_path: Path) -> None:
    async with desk(tmp_path, quota_usd_per_month="0.05") as at:
        first = await at.admit(chat("bottom", max_tokens=1_000))
        left = 50_000_000 - first.hold.amount_nano_usd
        second = await at.admit(chat("bottom"))
        assert second.clamped_to == (left // 2 - 24_000) // 10_000
        assert sum(await at.limit("quota_usd_per_month")) <= 50_000_000


async def test_an_explicit_bound_is_admitted_whole_or_not_at_all(tmp_path: Path) -> None:
    async with desk(tmp_path, quota_usd_per_month="0.02") as at:
        with pytest.raises(PolicyDenied):
            await at.admit(chat("bottom", max_tokens=1_998))
        admitted = await at.admit(chat("bottom", max_tokens=1_997))
        assert (admitted.clamped_to, orjson.loads(admitted.outgoing.body)["max_tokens"]) == (None, 1_997)


async def test_an_explicit_bound_above_the_models_cap_is_lowered_to_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        admitted = await at.admit(chat("bottom", max_tokens=1_000_000))
        assert orjson.loads(admitted.outgoing.body)["max_tokens"] == 4_096
        assert admitted.hold.amount_nano_usd == 24_000 + 4_096 * 10_000


async def test_no_call_shrinks_below_256_tokens_of_output(tmp_path: Path) -> None:
    for nano_usd, fits in ((24_000 + 256 * 10_000, True), (24_000 + 256 * 10_000 - 1, False)):
        folder = tmp_path / str(nano_usd)
        folder.mkdir()
        async with desk(folder, quota_usd_per_month=f"0.{nano_usd:09d}") as at:
            if fits:
                assert (await at.admit(chat("bottom"))).clamped_to == 256
            else:
                with pytest.raises(PolicyDenied):
                    await at.admit(chat("bottom"))


async def test_the_tighter_of_quota_and_hard_budget_bounds_the_answer(tmp_path: Path) -> None:
    limits = {"budget_hard_usd_per_month": "0.01", "when_budget_reached": "downgrade_then_deny"}
    async with desk(tmp_path, quota_usd_per_month="0.02", **limits) as at:
        assert (await at.admit(chat("bottom"))).clamped_to == (10_000_000 - 24_000) // 10_000


# What is owed


async def test_an_own_price_changes_what_is_owed_and_not_what_it_costs(tmp_path: Path) -> None:
    own = {"bottom": {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": 2}}
    async with desk(tmp_path, prices=own) as at:
        admitted = await at.admit(chat("bottom", max_tokens=10))
        assert admitted.hold.amount_nano_usd == 24_000 + 100_000
        assert await at.limit("quota_usd_per_month") == (0, 24 * 500 + 10 * 2_000)
        assert await at.limit("budget_hard_usd_per_month") == (0, 124_000)
        assert admitted.hold.charge_price_version == admitted.charge_price.version != admitted.model.price.version
        known = rows(
            at.gateway.path, "SELECT count(*) FROM price_rows WHERE version = ?", admitted.charge_price.version
        )
        assert known == [(1,)]


async def test_an_own_price_in_credits_is_held_for_every_image(tmp_path: Path) -> None:
    async with desk(tmp_path, prices={"gallery": {"credits": 4}}) as at:
        await at.gateway.services.credits.grant("acme", credits=20)
        admitted = await at.admit(images("gallery", 3))
        assert (admitted.credits_each, admitted.hold.route.payer) == (4, "credits")
        assert await at.limit("credits") == (0, 12)
        assert (admitted.hold.orphan_charge_nano_usd, await at.limit("quota_usd_per_month")) == (0, (0, 0))


# Refused before anything is taken


@pytest.mark.parametrize(
    ("request_of", "error", "code"),
    [
        pytest.param(lambda: chat("nobody-knows"), NotFound, "model_not_found", id="unknown model"),
        pytest.param(lambda: chat("off"), NotFound, "model_not_found", id="model that is off"),
        pytest.param(lambda: images("bottom"), RequestError, "endpoint_not_supported", id="wrong endpoint"),
        pytest.param(lambda: chat("unpriced"), RequestError, "unpriced_model", id="no price for output"),
        pytest.param(lambda: images("bare", size="2x2"), RequestError, "unpriced_model", id="no price for this size"),
        pytest.param(
            lambda: chat("bottom", service_tier="priority"), RequestError, "unpriced_feature", id="no price for a tier"
        ),
    ],
)
async def test_what_cannot_be_priced_or_served_is_refused_with_nothing_taken(
    tmp_path: Path, request_of: Any, error: type[RequestError], code: str
) -> None:
    async with desk(tmp_path, budget_usd_per_month=0) as at:
        with pytest.raises(error) as refused:
            await at.admit(request_of())
        assert refused.value.code == code
        assert at.open_holds == 0
        assert {limit["used"] + limit["held"] for limit in (await at.gateway.limits(at.key)).values()} == {0}


async def test_a_refusal_names_its_limit_takes_nothing_and_is_counted(tmp_path: Path) -> None:
    async with desk(tmp_path, quota_usd_per_month="0.01") as at:
        for _ in range(3):
            with pytest.raises(PolicyDenied) as refused:
                await at.admit(chat("bottom", max_tokens=4_000))
        metadata = refused.value.metadata
        assert metadata is not None
        assert (metadata["name"], metadata["limit"], metadata["settled"]) == ("quota_usd_per_month", 10_000_000, 0)
        assert at.open_holds == 0
        assert await at.limit("requests_per_hour") == (0, 0)
        path = at.gateway.path
    # Closing writes what the last second counted.
    assert rows(path, "SELECT sum(count) FROM refusals_daily WHERE creator = 'acme'") == [(3,)]


async def test_what_breaks_after_the_take_leaves_nothing_taken(tmp_path: Path) -> None:
    class Breaks(ChatRequest):
        """A request whose bookkeeping fails once the limits were taken."""

        __slots__ = ()

        def unfinished_usage(self, model: Any) -> Any:
            raise StoreError("it broke")

    request = chat("bottom", max_tokens=10)
    request.__class__ = Breaks
    async with desk(tmp_path) as at:
        with pytest.raises(StoreError):
            await at.admit(request)
        assert at.open_holds == 0
        assert await at.limit("quota_usd_per_month") == (0, 0)
        assert await at.limit("concurrent_calls") == (0, 0)
        assert await at.limit("requests_per_hour") == (1, 0)  # a request unit is never given back


# Looking, and observing


async def test_a_preview_says_what_admission_does_and_takes_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month="0.001", quota_usd_per_month="0.02") as at:
        wanted: list[Callable[[], ModelRequest]] = [
            lambda: chat("top", max_tokens=10),
            lambda: chat("bottom"),
            lambda: chat("bottom", max_tokens=4_000),
        ]
        for request in wanted:
            seen = await at.preview(request())
            assert at.open_holds == 0
            if seen.refusal is not None:
                with pytest.raises(PolicyDenied) as refused:
                    await at.admit(request())
                assert refused.value.code == seen.refusal.code
                continue
            admitted = await at.admit(request())
            assert (seen.offer.model.name, seen.clamped_to) == (admitted.model.name, admitted.clamped_to)
            assert [state.taken for state in seen.states] == [state.taken for state in admitted.states]
            await at.gateway.services.counters.release(at.calls[-1].request_id)


async def test_a_preview_of_a_downgrade_marks_nobody_as_downgraded(tmp_path: Path) -> None:
    async with desk(tmp_path, budget_usd_per_month="0.0103") as at:
        await at.admit(chat("bottom", max_tokens=94))  # 0.000942 expected
        assert (await at.preview(chat("top", max_tokens=10))).offer.model.name == "middle"
        # 0.0003 more: above nine tenths, and still admitted as asked, because nobody was refused.
        assert (await at.admit(chat("middle", max_tokens=84))).model.name == "middle"


async def test_observing_takes_what_would_be_refused_and_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path, mode="observe", requests_per_hour=1, quota_usd_per_month="0.0001") as at:
        with capture_logs() as logs:
            for _ in range(3):
                admitted = await at.admit(chat("bottom", max_tokens=50))
                assert (admitted.model.name, admitted.clamped_to) == ("bottom", None)
        overruled = [line for line in logs if line["event"] == "policy_overruled"]
        assert [line["would"] for line in overruled] == ["refuse"] * 3
        assert set(overruled[-1]["limits"]) == {"requests_per_hour", "quota_usd_per_month"}
        assert await at.limit("quota_usd_per_month") == (0, 3 * 524_000)
        assert await at.limit("requests_per_hour") == (3, 0)
        decision = decision_json(admitted.hold.decision)
        assert decision is not None
        assert set(decision["overruled_limits"]) == {"requests_per_hour", "quota_usd_per_month"}


async def test_observing_downgrades_nobody(tmp_path: Path) -> None:
    async with desk(tmp_path, mode="observe", budget_usd_per_month=0) as at:
        with capture_logs() as logs:
            admitted = await at.admit(chat("top", max_tokens=10))
        assert (admitted.model.name, bool(admitted.hold.downgrade_reason)) == ("top", False)
        assert [line["would"] for line in logs if line["event"] == "policy_overruled"] == ["downgrade"]


async def test_observing_takes_nobodys_credits_below_zero(tmp_path: Path) -> None:
    """Where no credits are left the quota pays, as in a call of any other model."""
    async with desk(tmp_path, mode="observe") as at:
        await at.gateway.services.credits.grant("acme", credits=2)
        payers = [(await at.admit(images("gallery"))).hold.route.payer for _ in range(4)]
        assert payers == ["credits", "credits", "quota", "quota"]
        assert await at.limit("credits") == (0, 2)
        assert await at.limit("quota_usd_per_month") == (0, 2 * 20_000_000)


async def test_observing_still_refuses_what_no_counter_has_a_say_in(tmp_path: Path) -> None:
    async with desk(tmp_path, mode="observe", models=["bottom"]) as at:
        with pytest.raises(PolicyDenied) as refused:
            await at.admit(chat("top"))
        assert refused.value.status == 403
