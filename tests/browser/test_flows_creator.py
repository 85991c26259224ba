"""A creator's visit: what was used, one call, pictures, and a playground that answers as it comes.

The gateway is this file's own. Its provider is scripted, so that a test can look at an answer that is half there.
"""

import re
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, StorageState, expect

from tests.browser.driving import HANG_MS, new_context, sign_in
from tests.browser.watching import Watch
from tests.rig import wire
from tests.rig.client import Answer
from tests.rig.gateway import Gateway, Key
from tests.rig.upstream import Gate, Script, Send, Upstream

_PLANS = """
[plans.open]
requests_per_hour = 1000000
quota_usd_per_month = 1000000
free_images_per_day = 3

[plans.narrow]
requests_per_hour = 1
quota_usd_per_month = 5
"""
_IMAGES = """
[providers.mock]
dialect = "mock"

[models."mock-image"]
provider = "mock"
endpoints = ["images"]
display_name = "Painter"
image_default = "1024x1024/standard"

[models."mock-image".image_usd]
"*" = 0.003
"""
_MARKUP = "<img src=x onerror=alert(1)> <b>bold</b>"
_ADMIN_PAGES = ("overview", "explore", "creators", "creators/acme", "calls", "admins", "audit", "months")

expect.set_options(timeout=HANG_MS)


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("creator-flows")
    settings = {"GENERATION_HISTORY": True, "SHUTDOWN_GRACE_S": 5}
    gateway = Gateway(folder, upstream, settings=settings, models=_IMAGES, plans=_PLANS)
    try:
        yield gateway.start()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def key(gateway: Gateway, upstream: Upstream) -> Key:
    """Of a creator who has made two calls."""
    key = gateway.new_key()
    for feature in ("drafts", "search"):
        answer = await _called(gateway, upstream, key, feature)
        assert answer.status == 200, answer
    return key


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def session_of_creator(browser: Browser, gateway: Gateway, key: Key) -> StorageState:
    context = await new_context(browser)
    await sign_in(await context.new_page(), gateway.url, key.key)
    state = await context.storage_state()
    await context.close()
    return state


@pytest_asyncio.fixture(loop_scope="session")
async def creator(
    browser: Browser, watch: Watch, gateway: Gateway, session_of_creator: StorageState
) -> AsyncIterator[Page]:
    """The first page of a creator who has signed in."""
    context = await new_context(browser, state=session_of_creator)
    watch.over(context)
    page = await context.new_page()
    await page.goto(f"{gateway.url}/dashboard")
    yield page
    await context.close()


async def test_virtual_key_opens_the_own_usage_and_nothing_of_admins(
    creator: Page, gateway: Gateway, key: Key, watch: Watch
) -> None:
    watch.expect(r"answered 403: GET")
    await expect(creator).to_have_url(f"{gateway.url}/dashboard/me")
    await expect(creator.locator(".card").filter(has_text="Owed for")).to_contain_text("2 calls")
    await expect(creator.locator(".card").filter(has_text="Free images left today")).to_contain_text("of 3")
    await expect(creator.get_by_role("img", name=re.compile("^Quota of the month"))).to_be_visible()
    await expect(creator.locator("figure.chart canvas").first).to_be_visible()
    features = creator.locator("#by-feature")
    await features.get_by_text("Table of").click()
    await expect(features.get_by_role("rowheader")).to_have_text(["drafts", "search"], use_inner_text=True)
    assert key.key not in await creator.content()
    for path in _ADMIN_PAGES:
        await creator.goto(f"{gateway.url}/dashboard/{path}")
        await expect(creator.get_by_role("alert")).to_contain_text("This page is for admins.")
        await creator.get_by_role("link", name="Back to the first page").click()
        await expect(creator).to_have_url(f"{gateway.url}/dashboard/me")


async def test_own_calls_are_filtered_opened_and_exported_and_of_others_none_is_shown(
    creator: Page, gateway: Gateway, upstream: Upstream, key: Key, watch: Watch
) -> None:
    watch.expect(r"answered 404: GET .*/me/calls/")
    other = gateway.new_key()
    await _called(gateway, upstream, other, "drafts")
    await creator.get_by_role("navigation").get_by_role("link", name="Calls").click()
    rows = creator.get_by_role("region", name="Calls").locator("tbody tr")
    await creator.get_by_label("Feature").fill("drafts")
    await creator.keyboard.press("Enter")
    await creator.wait_for_url(re.compile("feature=drafts"))
    await expect(rows).to_have_count(1)
    async with creator.expect_download() as coming:
        await creator.get_by_role("link", name="Export CSV").click()
    exported = await (await coming.value).path()
    assert exported.read_text().count("drafts") == 1
    await rows.get_by_role("link").click()
    booked = _entry(gateway, key, "drafts")
    await expect(creator.locator("[data-role=cost]")).to_have_text(_usd(booked["cost_nano_usd"]))
    foreign = _entry(gateway, other, "drafts")["request_id"]
    await creator.goto(f"{gateway.url}/dashboard/me/calls/{foreign}")
    await expect(creator.get_by_role("heading", level=1)).to_have_text("Not found")


# The playground


async def test_answer_is_shown_while_it_comes_and_its_markup_is_text(
    creator: Page, gateway: Gateway, upstream: Upstream
) -> None:
    rest = Gate()
    script = _stream(upstream, ["The first words ", _MARKUP], rest, [" and the end."])
    await _ask(creator, gateway, script)
    said = creator.locator(".turn-assistant .said")
    await expect(said).to_have_text(f"The first words {_MARKUP}")
    await expect(creator.get_by_role("button", name="Stop")).to_be_visible()
    await expect(creator.get_by_role("button", name="Send")).to_be_disabled()
    await expect(creator.get_by_role("button", name="Stop")).to_be_focused()
    await creator.get_by_label("Message").press("Control+Enter")  # is no second call
    await creator.get_by_role("button", name="Stop").focus()
    rest.open()
    await expect(said).to_have_text(f"The first words {_MARKUP} and the end.")
    assert await creator.locator("[data-role=talk] :is(img, b)").count() == 0
    facts = creator.locator("#playground-chat [data-role=facts]")
    await expect(facts).to_contain_text("Answered by rig-chat")
    await expect(facts).to_contain_text("Cost $")
    await expect(creator.get_by_role("button", name="Stop")).to_be_hidden()
    await expect(creator.get_by_label("Message")).to_have_value("")
    await expect(creator.get_by_label("Message")).to_be_focused()
    await expect(creator.locator(".turn")).to_have_count(2)
    await facts.get_by_role("link", name="its call").click()
    await expect(creator.get_by_role("rowheader", name="Feature").locator("xpath=../td")).to_have_text("playground")


async def test_stop_ends_the_answer_and_keeps_what_was_said(
    creator: Page, gateway: Gateway, upstream: Upstream
) -> None:
    never = Gate()
    script = _stream(upstream, ["Half an answer"], never, [" nobody waits for"])
    await _ask(creator, gateway, script)
    await expect(creator.locator(".turn-assistant .said")).to_have_text("Half an answer")
    await creator.get_by_role("button", name="Stop").click()
    await expect(creator.locator("#playground-chat").get_by_role("alert")).to_contain_text("Stopped.")
    await expect(creator.get_by_role("button", name="Send")).to_be_enabled()
    assert script.request.gone.wait(HANG_MS / 1000), "the provider goes on answering"
    await expect(creator.locator(".turn-assistant .said")).to_have_text("Half an answer")
    await expect(creator.locator(".turn-assistant .label")).to_have_text("Model, cut short")
    await creator.get_by_role("button", name="New conversation").click()
    await expect(creator.locator(".turn")).to_have_count(0)


async def test_model_that_is_gone_is_said_and_the_message_kept(creator: Page, gateway: Gateway, watch: Watch) -> None:
    """It left the catalog after the page was made."""
    watch.expect(r"answered 404: POST .*/playground/chat")
    await creator.goto(f"{gateway.url}/dashboard/me/playground")
    model = creator.locator("#playground-chat [name=model]")
    await model.evaluate("select => { select.selectedOptions[0].value = 'gone-model'; }")
    await creator.get_by_label("Message").fill("Is anybody there?")
    await creator.keyboard.press("Control+Enter")
    problem = creator.locator("#playground-chat").get_by_role("alert")
    await expect(problem).to_contain_text("gone-model")
    await expect(problem).to_contain_text("Choose another model.")
    await expect(creator.get_by_label("Message")).to_have_value("Is anybody there?")
    await expect(creator.locator(".turn")).to_have_count(0)


async def test_limit_that_is_reached_is_said_with_when_to_come_back(
    page: Page, gateway: Gateway, upstream: Upstream, watch: Watch
) -> None:
    watch.expect(r"answered 429: POST .*/playground/chat")
    await sign_in(page, gateway.url, gateway.new_key(plan="narrow").key)
    script = _stream(upstream, ["Once."], _opened(), [])
    await _ask(page, gateway, script)
    await expect(page.locator(".turn-assistant .said")).to_have_text("Once.")
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()
    await page.get_by_label("Message").fill("Again?")
    await page.get_by_role("button", name="Send").click()
    problem = page.locator("#playground-chat").get_by_role("alert")
    await expect(problem).to_contain_text(re.compile(r"again in \d+", re.IGNORECASE))
    await expect(page.get_by_label("Message")).to_have_value("Again?")


async def test_image_is_made_shown_and_kept_among_the_images(creator: Page, gateway: Gateway) -> None:
    await creator.goto(f"{gateway.url}/dashboard/me/playground")
    form = creator.locator("#playground-image")
    await form.get_by_label("Prompt").fill('A "green" <square>')
    await form.get_by_role("button", name="Make").click()
    picture = form.locator("[data-role=image] img")
    await expect(picture).to_have_attribute("alt", 'A "green" <square>')
    await expect(picture).to_have_js_property("complete", True)
    assert await picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    await creator.get_by_role("navigation").get_by_role("link", name="Images").click()
    await expect(creator.locator(".gallery img")).to_have_count(1)
    await creator.get_by_role("button", name="Select").click()
    await expect(creator.locator(".gallery .badge")).to_have_text("selected")


async def test_session_ends_when_its_key_is_revoked(page: Page, gateway: Gateway) -> None:
    key = gateway.new_key()
    await sign_in(page, gateway.url, key.key)
    await page.goto(f"{gateway.url}/dashboard/me/playground")
    gateway.admin_json("DELETE", f"/admin/keys/{key.id}")
    await page.get_by_label("Message").fill("Still me?")
    await page.get_by_role("button", name="Send").click()
    await expect(page).to_have_url(f"{gateway.url}/dashboard/sign-in?next=/dashboard/me/playground")
    await page.goto(f"{gateway.url}/dashboard/me")
    await expect(page).to_have_url(f"{gateway.url}/dashboard/sign-in?next=/dashboard/me")


# What people do, in words


async def _ask(page: Page, gateway: Gateway, script: Script) -> None:
    await page.goto(f"{gateway.url}/dashboard/me/playground")
    await page.locator("#playground-chat [name=model]").select_option("rig-chat")
    await page.get_by_label("Message").fill(f"Tell me. {script.marker}")
    await page.get_by_role("button", name="Send").click()


def _stream(upstream: Upstream, first: list[str], gate: Gate, rest: list[str]) -> Script:
    """`first`, then `rest` and the end once `gate` is open."""
    begun = [wire.event(wire.chunk("", role="assistant")), *(wire.event(wire.chunk(text)) for text in first)]
    usage = wire.event(wire.usage_chunk(wire.usage(12, 7)))
    ended = [*(wire.event(wire.chunk(text)) for text in rest), wire.event(wire.chunk(finish="stop")), usage, wire.DONE]
    return upstream.script(
        Send(wire.stream_head()),
        *(Send(wire.framed(event)) for event in begun),
        gate,
        *(Send(wire.framed(event)) for event in ended),
        Send(wire.LAST_CHUNK),
    )


def _opened() -> Gate:
    gate = Gate()
    gate.open()
    return gate


async def _called(gateway: Gateway, upstream: Upstream, key: Key, feature: str) -> Answer:
    script = upstream.reply(wire.completion(usage=wire.usage(1000, 100)))
    body = {"model": "rig-chat", "messages": [{"role": "user", "content": script.marker}]}
    return await gateway.post(key, body, headers=[("x-gateway-feature", feature)])


def _entry(gateway: Gateway, key: Key, feature: str) -> dict[str, object]:
    [entry] = gateway.entries(creator=key.creator, feature=feature)
    return entry


def _usd(nano_usd: object) -> str:
    """Of an amount that has more than cents."""
    return f"${Decimal(str(nano_usd)).scaleb(-9):f}".rstrip("0")
