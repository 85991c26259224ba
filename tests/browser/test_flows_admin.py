"""An owner's day at the pages, and what a support admin does not see: by keyboard and mouse, in a real browser.

The gateway is this file's own, since its visitors change things; its ledger holds a few hundred calls.
"""

import csv
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Download, Locator, Page, Route, StorageState, expect

from tests.browser.driving import HANG_MS, new_context, sign_in
from tests.browser.ledger_rows import CREDITED, LARGEST
from tests.browser.pages import pages_of
from tests.browser.site import CALLS_FEW, Site, build_once, opened
from tests.browser.watching import Watch
from tests.rig.client import Answer
from tests.rig.upstream import Upstream

_AMOUNT = re.compile(r"\$|\bUSD\b")
_OF_MONEY = re.compile(r"cost|charge|credit|spen[dt]|budget|quota|saved|forecast|payer", re.IGNORECASE)
_TITLES = "main :is(th[scope=col], dt, caption, h2, .label, summary, .export)"
_DRAWN = """
(canvas) => {
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.some((value, i) => i % 4 === 3 && value > 0);
}
"""
_FORBIDDEN = r"answered 403: GET"


expect.set_options(timeout=HANG_MS)


@pytest.fixture(scope="module")
def own_site(ledgers: Path, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened(build_once(ledgers, CALLS_FEW, upstream), tmp_path_factory.mktemp("admin-flows"), upstream) as site:
        yield site


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def session_of_owner(browser: Browser, own_site: Site) -> StorageState:
    context = await new_context(browser)
    await sign_in(await context.new_page(), own_site.url, own_site.key_of("owner"))
    state = await context.storage_state()
    await context.close()
    return state


@pytest_asyncio.fixture(loop_scope="session")
async def owner(browser: Browser, watch: Watch, session_of_owner: StorageState) -> AsyncIterator[Page]:
    """A page of somebody who has signed in."""
    context = await new_context(browser, state=session_of_owner)
    watch.over(context)
    yield await context.new_page()
    await context.close()


# Signing in and out


async def test_wrong_key_is_refused_with_words_and_the_right_one_opens_the_page(
    page: Page, own_site: Site, watch: Watch
) -> None:
    watch.expect(r"answered 401: POST .*/sign-in")
    await page.goto(f"{own_site.url}/dashboard/explore?metric=calls")
    await expect(page).to_have_url(f"{own_site.url}/dashboard/sign-in?next=/dashboard/explore%3Fmetric%3Dcalls")
    await expect(page.get_by_label("Admin key or virtual key")).to_be_focused()
    await page.keyboard.type("sk-gw-nobody-has-this")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("not one of this gateway's")
    field = page.get_by_label("Admin key or virtual key")
    await expect(field).to_be_focused()
    await expect(field).to_have_value("")
    await page.keyboard.type(own_site.owner_key)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{own_site.url}/dashboard/explore?metric=calls")
    assert own_site.owner_key not in await page.content()


async def test_who_signed_out_is_out_and_going_back_shows_no_page(page: Page, own_site: Site) -> None:
    await sign_in(page, own_site.url, own_site.owner_key)
    await page.goto(f"{own_site.url}/dashboard/creators")
    [cookie] = await page.context.cookies(f"{own_site.url}/dashboard")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page).to_have_url(f"{own_site.url}/dashboard/sign-in")
    await page.go_back()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert await page.get_by_text("Acme Ltd").count() == 0
    await page.context.add_cookies(
        [{"name": cookie["name"], "value": cookie["value"], "url": f"{own_site.url}/dashboard"}]
    )
    await page.goto(f"{own_site.url}/dashboard/creators")
    await expect(page).to_have_url(f"{own_site.url}/dashboard/sign-in?next=/dashboard/creators")


async def test_page_that_nobody_looks_at_asks_nothing_and_one_whose_session_is_over_says_how_old_it_is(
    page: Page, own_site: Site, watch: Watch
) -> None:
    await sign_in(page, own_site.url, own_site.owner_key)
    await page.goto(f"{own_site.url}/dashboard/overview")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.headers.get("x-gateway-poll", "")))
    await page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})")
    look = "htmx.trigger(document.querySelector('[data-poll]'), 'look')"
    await page.evaluate(look)
    assert asked == []
    await page.evaluate("delete document.hidden")
    async with page.expect_response(re.compile("overview/live")) as answered:
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert ((await answered.value).status, asked) == (200, ["1"])
    stale = page.locator("#stale")
    await expect(stale).to_be_hidden()
    watch.expect("failed: GET .*overview/live")
    watch.expect("console: htmx:")
    await page.route("**/overview/live", lambda route: route.abort())
    await page.evaluate(look)
    await expect(stale).to_contain_text("The gateway does not answer: this is how things stood at ")
    await page.unroute("**/overview/live")
    await page.evaluate(look)
    await expect(stale).to_be_hidden()
    watch.expect("answered 401: GET .*overview/live")
    watch.expect("console: Response Status Error Code 401")
    await page.context.clear_cookies()
    await page.evaluate(look)
    await expect(stale).to_contain_text("The session is over: this is how things stood at ")
    await expect(page.get_by_text("Calls in flight")).to_be_visible()
    await stale.get_by_role("link", name="Sign in again").click()
    await expect(page).to_have_url(f"{own_site.url}/dashboard/sign-in?next=%2Fdashboard%2Foverview")


# Looking


async def test_period_of_the_overview_is_in_its_url_and_a_creator_is_a_click_away(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/overview")
    await owner.get_by_label("Period").select_option("30d")
    await owner.get_by_label("Stacked by").select_option("feature")
    await owner.get_by_role("button", name="Show", exact=True).click()
    await owner.wait_for_url(re.compile("period=30d"))
    assert _query(owner) == {"period": "30d", "by": "feature"}
    await expect(owner.get_by_text("Spend a day by feature", exact=True).first).to_be_visible()
    shown = await owner.locator(".cards").first.inner_text()
    await owner.reload()
    assert await owner.locator(".cards").first.inner_text() == shown
    await owner.get_by_role("region", name="Top creators").get_by_role("link", name="Acme Ltd", exact=True).click()
    await expect(owner).to_have_url(f"{own_site.url}/dashboard/creators/{LARGEST}")
    await expect(owner.get_by_role("heading", level=1)).to_have_text("Acme Ltd")


async def test_days_of_ones_own_and_what_is_stacked_are_asked_together(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/overview")
    await owner.get_by_label("Stacked by").select_option("agent")
    await owner.get_by_label("From").fill("2026-05-01")
    await expect(owner.get_by_label("Period")).to_have_value("custom")
    await owner.get_by_label("Before").fill("2026-05-04")
    await owner.get_by_role("button", name="Show", exact=True).click()
    await owner.wait_for_url(re.compile("period=custom"))
    assert _query(owner) == {"period": "custom", "by": "agent", "from": "2026-05-01", "to": "2026-05-04"}
    await expect(owner.get_by_text("2026-05-01 to 2026-05-03, UTC")).to_be_visible()
    await owner.get_by_label("Period").select_option("7d")
    await expect(owner.get_by_label("From")).to_have_value("")
    await owner.get_by_role("button", name="Show", exact=True).click()
    await owner.wait_for_url(re.compile("period=7d"))
    await expect(owner.get_by_label("Stacked by")).to_have_value("agent")


async def test_explored_question_survives_reload_and_the_back_button(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/explore")
    first = await _figures(owner).inner_text()
    await owner.evaluate("window.isSamePage = true")
    await owner.get_by_role("combobox", name="Sum", exact=True).select_option("calls")
    await owner.get_by_role("combobox", name="Group", exact=True).select_option("creator")
    await owner.get_by_role("combobox", name="Time", exact=True).select_option("month")
    await owner.get_by_label("Largest").fill("3")
    await owner.keyboard.press("Enter")
    await owner.wait_for_url(re.compile("metric=calls"))
    await expect(owner.locator("figcaption")).to_have_text("Calls per month by creator")
    assert await owner.evaluate("window.isSamePage"), "the form loads the whole page"
    asked = _query(owner)
    assert (asked["group"], asked["grain"], asked["top"]) == ("creator", "month", "3")
    await expect(owner.get_by_label("Largest")).to_be_focused()
    shown = await _figures(owner).inner_text()
    await owner.reload()
    assert await _figures(owner).inner_text() == shown
    await expect(owner.get_by_role("combobox", name="Sum", exact=True)).to_have_value("calls")
    await owner.go_back()
    await expect(owner.locator("figcaption")).to_have_text("Cost per day by model")
    assert await _figures(owner).inner_text() == first
    await expect(owner.get_by_role("combobox", name="Sum", exact=True)).to_have_value("cost")


async def test_chart_is_drawn_and_its_legend_says_what_the_table_behind_it_says(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/overview")
    chart = owner.locator("figure#spend")
    assert await chart.locator("canvas").first.evaluate(_DRAWN)
    await expect(chart.locator("table")).to_be_hidden()
    await chart.get_by_text("Table of").focus()
    await owner.keyboard.press("Enter")
    await expect(chart.locator("table")).to_be_visible()
    await chart.locator(".plot").focus()
    await owner.keyboard.press("End")
    last = chart.locator("tbody tr").last
    await expect(chart.locator(".reading")).to_have_text(await last.locator("th").inner_text())
    said = await chart.locator(".legend .value").all_inner_texts()
    assert said == await last.locator("td").all_inner_texts()
    names = await chart.locator("thead th").all_inner_texts()
    for name, value in zip(names, said, strict=True):
        await expect(chart.locator(".aloud")).to_contain_text(f"{name} {value}")
    before = await _shades(chart)
    assert len(set(before.values())) == len(before), "two of them cannot be told apart"
    await owner.goto(f"{own_site.url}/dashboard/explore?group=model&top=5&cumulative=1")
    after = await _shades(owner.locator("figure.chart"))
    assert len(before.keys() & after.keys()) >= 5
    assert {name: before[name] for name in before.keys() & after.keys()} == {
        name: after[name] for name in before.keys() & after.keys()
    }
    await owner.goto(f"{own_site.url}/dashboard/overview?period=2020-01-01..2020-01-08")
    await expect(owner.get_by_text("Nothing in this period.")).to_have_count(2)


async def test_export_sums_to_the_total_of_the_page_to_the_nano_dollar(
    owner: Page, own_site: Site, tmp_path: Path
) -> None:
    await owner.goto(f"{own_site.url}/dashboard/explore?metric=cost&group=model&split=feature&top=2")
    total = int(await _figures(owner).locator("tfoot td").last.get_attribute("data-value") or "")
    rows = await _downloaded(owner, owner.get_by_role("link", name="Export CSV"), tmp_path)
    assert total > 0
    assert sum(int(row["cost_nano_usd"]) for row in rows) == total
    shown = (
        await _figures(owner)
        .locator("tbody tr td:last-child")
        .evaluate_all("cells => cells.map(cell => cell.dataset.value)")
    )
    assert sum(map(int, shown)) == total


async def test_chosen_theme_is_kept_over_a_reload(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/providers")
    ground = "getComputedStyle(document.querySelector('main h1')).color"
    light = await owner.evaluate(ground)
    switch = owner.get_by_role("button", name="Theme:")
    await switch.click()
    await expect(switch).to_have_text("Theme: light")
    await switch.click()
    await expect(switch).to_have_text("Theme: dark")
    dark = await owner.evaluate(ground)
    assert dark != light
    await owner.reload()
    assert await owner.evaluate(ground) == dark
    await expect(switch).to_have_text("Theme: dark")


async def test_without_any_other_host_nothing_is_missing(owner: Page, own_site: Site) -> None:
    """That nothing else was asked for is what `watch` sees to."""
    home = urlsplit(own_site.url).netloc

    async def only_home(route: Route) -> None:
        await (route.continue_() if urlsplit(route.request.url).netloc == home else route.abort())

    await owner.context.route("**/*", only_home)
    await owner.goto(f"{own_site.url}/dashboard/overview")
    assert await owner.locator("figure.chart canvas").count() > 0
    assert await owner.evaluate("typeof htmx") == "object"
    assert await owner.evaluate("[...document.styleSheets].every((sheet) => sheet.cssRules.length > 0)")
    assert await owner.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


# Creators


async def test_creators_are_found_by_name_and_opened(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/creators")
    await owner.get_by_label("Id or name").fill("north")
    await owner.keyboard.press("Enter")
    await owner.wait_for_url(re.compile("q=north"))
    rows = owner.get_by_role("region", name="Creators in").locator("tbody tr")
    await expect(rows).to_have_count(1)
    await expect(owner.get_by_label("Id or name")).to_have_value("north")
    await rows.get_by_role("link").click()
    await expect(owner).to_have_url(f"{own_site.url}/dashboard/creators/{CREDITED}")


async def test_key_is_shown_once_rotated_and_revoked_after_a_question(owner: Page, own_site: Site) -> None:
    creator = await _new_creator(own_site, "pro")
    await owner.goto(f"{own_site.url}/dashboard/creators/{creator}")
    await owner.get_by_text("Make a key", exact=True).click()
    form = owner.locator("form[action$='/keys']")
    await form.get_by_label("Name").fill("of the app")
    await form.get_by_role("button", name="Make the key").click()
    secret = await owner.locator(".once code").inner_text()
    assert (await _answer(own_site, secret)).status == 200
    await owner.get_by_role("link", name="To the creator").click()
    await expect(owner.get_by_role("cell", name="of the app")).to_be_visible()
    for _ in range(2):
        assert secret not in await owner.content()
        await owner.reload()

    await owner.get_by_role("button", name="Rotate key").click()
    renewed = await owner.locator(".once code").inner_text()
    assert renewed != secret
    await owner.get_by_role("link", name="To the creator").click()
    keys = owner.get_by_role("region", name="Table of virtual keys").locator("tbody tr")
    await expect(keys).to_have_count(2)
    await expect(keys.get_by_role("button", name="Rotate key")).to_have_count(1)

    renewed_row = keys.filter(has=owner.get_by_role("button", name="Rotate key"))
    await renewed_row.get_by_role("link", name="Revoke key").click()
    await expect(owner.get_by_role("heading", level=1)).to_have_text("Revoke a key")
    assert (await _answer(own_site, renewed)).status == 200
    await owner.get_by_role("button", name="Revoke the key").click()
    await expect(owner).to_have_url(f"{own_site.url}/dashboard/creators/{creator}")
    await expect(keys.filter(has_text="revoked")).to_have_count(1)
    assert (await _answer(own_site, renewed)).status == 401
    assert (await _answer(own_site, secret)).status == 200


async def test_new_key_is_made_once_however_often_it_is_clicked_and_loaded(
    owner: Page, own_site: Site, watch: Watch
) -> None:
    watch.expect(r"answered 409: POST .*/(keys|admins)")
    creator = await _new_creator(own_site, "pro")
    await owner.goto(f"{own_site.url}/dashboard/creators/{creator}")
    await owner.get_by_text("Make a key", exact=True).click()
    await owner.locator("form[action$='/keys']").get_by_role("button", name="Make the key").dblclick()
    secret = await owner.locator(".once code").inner_text()
    assert (await _answer(own_site, secret)).status == 200
    await owner.reload()
    await expect(owner.get_by_role("heading", level=1)).to_have_text("This key was made before")
    assert secret not in await owner.content()
    keys = own_site.gateway.admin_json("GET", f"/admin/creators/{creator}/keys")["data"]
    assert [key["id"] for key in keys] == [secret.split("-")[2]]

    await owner.goto(f"{own_site.url}/dashboard/admins")
    await owner.get_by_label("Name").last.fill("once only")
    await owner.get_by_role("button", name="Make the key").dblclick()
    secret = await owner.locator(".once code").inner_text()
    await owner.reload()
    await expect(owner.get_by_role("heading", level=1)).to_have_text("This key was made before")
    admins = own_site.gateway.admin_json("GET", "/admin/admin-keys")["data"]
    assert [key["id"] for key in admins if key["name"] == "once only"] == [secret.split("-")[2]]


async def test_grant_that_is_clicked_twice_is_booked_once(owner: Page, own_site: Site) -> None:
    creator = await _new_creator(own_site, "pro")
    await owner.goto(f"{own_site.url}/dashboard/creators/{creator}")
    await owner.get_by_text("Grant credits", exact=True).click()
    form = owner.locator("form[action$='/grant']")
    await form.get_by_label("Credits", exact=True).fill("250")
    await form.get_by_label("Note").fill("for the fair")
    await form.get_by_role("button", name="Grant").dblclick()
    await expect(owner.get_by_role("status").filter(has_text="The credits are granted.")).to_be_in_viewport()
    grants = owner.get_by_role("region", name="Grants").locator("tbody tr")
    await expect(grants).to_have_count(1)
    await expect(grants).to_contain_text("for the fair")
    await owner.reload()
    await expect(grants).to_have_count(1)
    await expect(owner.get_by_text("The credits are granted.")).to_have_count(0)
    balance = own_site.gateway.admin_json("GET", f"/admin/creators/{creator}/credits")["balance"]
    assert balance["credits"]["left"] == 250


async def test_plan_is_changed_and_bad_overrides_are_said_and_kept(owner: Page, own_site: Site, watch: Watch) -> None:
    watch.expect(r"answered 4\d\d: POST .*/change")
    creator = await _new_creator(own_site, "pro")
    await owner.goto(f"{own_site.url}/dashboard/creators/{creator}")
    form = owner.locator("form[action$='/change']")
    await form.get_by_label("Plan").select_option("team")
    await form.get_by_role("button", name="Save").click()
    await expect(owner.get_by_role("region", name="Facts")).to_contain_text("team")
    for typed, words in (('{"requests_per_minute": "often"}', "requests_per_minute"), ("{nothing", "not valid JSON")):
        await form.get_by_label("Name").fill("Typed & kept")
        await form.get_by_label("Overrides").fill(typed)
        await form.get_by_role("button", name="Save").click()
        alert = owner.get_by_role("alert")
        await expect(alert).to_contain_text(words)
        await expect(alert).to_be_focused()
        await expect(alert).to_be_in_viewport()
        assert (await owner.title()).startswith("Error: ")
        await alert.get_by_role("link", name="To the form").click()
        await expect(form.get_by_label("Overrides")).to_be_in_viewport()
        await expect(form.get_by_label("Overrides")).to_have_value(typed)
        await expect(form.get_by_label("Name")).to_have_value("Typed & kept")
    known = own_site.gateway.admin_json("GET", f"/admin/creators/{creator}")
    assert (known["plan"], known["overrides"], known["name"]) == ("team", {}, "")


# Calls, months, policies, models


async def test_call_is_found_opened_and_refunded_in_part(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/calls")
    await owner.get_by_label("Creator").fill(LARGEST)
    await owner.get_by_label("Model").fill("gpt-5")
    await owner.get_by_role("button", name="Show").click()
    await owner.wait_for_url(re.compile(f"creator={LARGEST}"))
    rows = owner.get_by_role("region", name="Entries of the ledger").locator("tbody tr")
    for text in await rows.all_inner_texts():
        assert "Acme Ltd" in text
        assert "gpt-5" in text
    charged = rows.filter(has_text="quota").filter(has_not_text="kept").first
    await charged.get_by_role("rowheader").get_by_role("link").click()
    request_id = urlsplit(owner.url).path.rsplit("/", 1)[-1]
    await expect(owner.get_by_role("heading", name="What it was")).to_be_visible()
    await expect(owner.get_by_text("The sum is what is booked, to the nano-dollar.").first).to_be_visible()
    await owner.get_by_label("US dollars; neither: all that is left").fill("0.000001")
    await owner.get_by_label("Note").fill("half an answer")
    await owner.get_by_role("button", name="Refund").dblclick()
    await expect(owner.get_by_role("status").filter(has_text="The refund is booked.")).to_be_in_viewport()
    await owner.reload()
    await expect(owner.get_by_role("region", name="What corrected attempt 1 since").locator("tbody tr")).to_have_count(
        1
    )
    entries = own_site.gateway.admin_json("GET", f"/admin/ledger/{request_id}")["data"]
    corrections = [each for entry in entries for each in entry.get("corrections") or []]
    assert [each["charge_nano_usd"] for each in corrections] == [-1_000]


async def test_only_a_month_that_is_over_can_be_closed_and_it_is_asked_first(owner: Page, own_site: Site) -> None:
    closing_link = owner.get_by_role("link", name=re.compile("^Close "))
    await owner.goto(f"{own_site.url}/dashboard/months")
    await expect(owner.get_by_role("region", name="Months", exact=True)).to_contain_text("Running")
    await expect(closing_link).to_have_count(0)
    await owner.get_by_role("link", name=own_site.last_month).click()
    await expect(closing_link).to_have_text(f"Close {own_site.last_month}")
    charges = await owner.locator("tfoot td").nth(1).get_attribute("data-value")
    await closing_link.click()
    await expect(owner.get_by_text("This cannot be undone.")).to_be_visible()
    await owner.get_by_role("link", name="Back").click()
    await closing_link.click()
    await owner.get_by_role("button", name=f"Close {own_site.last_month}").click()
    await expect(owner.locator("section .badge").first).to_have_text("Closed")
    await expect(closing_link).to_have_count(0)
    assert await owner.locator("tfoot td").nth(1).get_attribute("data-value") == charges


async def test_rehearsal_of_a_smaller_quota_shows_who_would_be_refused(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/policies")
    await owner.get_by_role("region", name="Plans").get_by_role("link", name="team").click()
    await owner.get_by_label("Quota, USD a month").fill("0.001")
    await owner.get_by_role("button", name="Rehearse").click()
    await owner.wait_for_url(re.compile("quota_usd_per_month=0.001"))
    refused = await _card(owner, "Refused").locator(".figure").inner_text()
    assert int(re.sub(r"\D", "", refused)) > 0
    await expect(owner.get_by_role("region", name="By limit")).to_contain_text(
        re.compile("refuses: (quota, budget or credits used up|larger than its limit)")
    )
    await expect(owner.get_by_role("region", name="By creator")).to_contain_text("Acme Ltd")
    await expect(owner.locator("pre")).to_contain_text('quota_usd_per_month = "0.001"')
    plans = own_site.gateway.admin_json("GET", "/admin/plans")["data"]
    assert [plan["quota_usd_per_month"] for plan in plans if plan["name"] == "team"] == ["250000"]


async def test_estimate_starts_at_the_page_of_a_model_and_keeps_what_was_filled_in(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/models")
    await owner.get_by_label("Provider").select_option("mock")
    await owner.get_by_role("button", name="Show").click()
    await owner.wait_for_url(re.compile("provider=mock"))
    await owner.get_by_role("link", name="mock-premium", exact=True).click()
    await owner.get_by_role("link", name="Estimate a call").click()
    await expect(owner.get_by_role("combobox", name="Model")).to_have_value("mock-premium")
    await owner.get_by_label("or tokens in").fill("1000")
    await owner.get_by_label("Tokens out at most").fill("100")
    await owner.get_by_role("button", name="Estimate").click()
    await expect(owner.get_by_text("would be admitted")).to_be_visible()
    expected, held = [await _dollars(owner, label) for label in ("Expected cost", "Held, the worst case")]
    assert 0 < expected <= held
    await expect(owner.get_by_label("or tokens in")).to_have_value("1000")


async def test_window_of_the_providers_is_in_the_url(owner: Page, own_site: Site) -> None:
    await owner.goto(f"{own_site.url}/dashboard/providers")
    window = owner.get_by_label("Figures of")
    longest = await window.locator("option").last.get_attribute("value") or ""
    await window.select_option(longest)
    await owner.get_by_role("button", name="Show").click()
    await owner.wait_for_url(re.compile(f"window={longest}"))
    await expect(owner.get_by_role("region", name="Deployments of mock")).to_be_visible()
    await expect(window).to_have_value(longest)


async def test_throttle_is_lifted_with_one_button(owner: Page, own_site: Site) -> None:
    creator = await _new_creator(own_site, "pro")
    _throttle(own_site, creator)
    await owner.goto(f"{own_site.url}/dashboard/notices")
    await owner.get_by_role("button", name=f"Lift the throttle of {creator}").click()
    await expect(owner.get_by_role("status").filter(has_text="no longer slowed down")).to_be_visible()
    await expect(owner.get_by_text("Nobody is slowed down.")).to_be_visible()
    assert own_site.gateway.admin_json("GET", f"/admin/creators/{creator}")["throttle"] is None


# Admins


async def test_support_admin_sees_no_money_and_is_led_nowhere_it_may_not_go(
    owner: Page, context: BrowserContext, own_site: Site
) -> None:
    await owner.goto(f"{own_site.url}/dashboard/admins")
    await owner.get_by_label("Name").last.fill("night shift")
    await owner.get_by_label("Role").last.select_option("support")
    await owner.get_by_role("button", name="Make the key").click()
    key = await owner.locator(".once code").inner_text()
    assert key not in (await (await owner.context.request.get(f"{own_site.url}/dashboard/admins")).text())

    support = await context.new_page()
    await sign_in(support, own_site.url, key)
    await expect(support).to_have_url(f"{own_site.url}/dashboard/creators")
    seen: set[str] = set()
    waiting = [urlsplit(support.url).path, f"/dashboard/creators/{LARGEST}", f"/dashboard/calls/{own_site.newest_call}"]
    while waiting:
        path = waiting.pop()
        answer = await support.goto(own_site.url + path)
        assert answer is not None
        assert answer.status == 200, path
        assert support.url == own_site.url + path
        await _has_no_money(support)
        links = await support.locator("a[href^='/dashboard']").evaluate_all(
            "all => all.map(a => a.getAttribute('href'))"
        )
        # A page of each kind is enough; every link is asked for below.
        kinds = {"", *map(_kind, seen)}
        seen |= {path, *links}
        waiting += [link for link in dict.fromkeys(links) if _kind(link) not in kinds and link not in waiting]
    for link in sorted(seen):
        answered = await context.request.get(own_site.url + link)
        assert answered.status == 200, link
        assert urlsplit(answered.url).path in (urlsplit(link).path, "/dashboard/creators"), link

    await owner.goto(f"{own_site.url}/dashboard/audit")
    log = owner.get_by_role("region", name="What admins did").locator("tbody tr")
    await expect(log.filter(has_text="POST /admin/admin-keys").filter(has_text="settings").first).to_contain_text("201")
    await expect(log.filter(has_text="night shift").filter(has_text="POST /dashboard/sign-in")).to_have_count(1)
    await owner.get_by_label("Action").fill("sign-in")
    await owner.keyboard.press("Enter")
    await owner.wait_for_url(re.compile("action=sign-in"))
    for row in await log.all_inner_texts():
        assert "sign-in" in row
    assert key not in await owner.content()


async def test_support_is_refused_what_it_asks_for_by_hand(page: Page, own_site: Site, watch: Watch) -> None:
    watch.expect(_FORBIDDEN)
    await sign_in(page, own_site.url, own_site.key_of("support"))
    asked = [
        view for view in pages_of("owner") if _kind(view.path) in ("overview", "explore", "months", "admins", "audit")
    ]
    assert len(asked) >= 5
    for view in asked:
        answer = await page.goto(view.of(own_site))
        assert answer is not None
        assert answer.status == 403, view.path
        await _has_no_money(page)


# What people do, in words


def _figures(page: Page) -> Locator:
    """The table with the totals, below the chart."""
    return page.get_by_role("region", name="Figures").locator("table")


async def _shades(chart: Locator) -> dict[str, str]:
    """Name -> colour, of its legend; what was merged is known by no name."""
    await expect(chart.locator(".legend li").first).to_be_visible()
    read = "items => items.map(item => [item.querySelector('bdi').textContent, item.querySelector('rect').getAttribute('fill')])"
    shown = await chart.locator(".legend li").evaluate_all(read)
    return {"Other" if name.startswith("Other (") else name: shade for name, shade in shown}


async def _dollars(page: Page, label: str) -> Decimal:
    return Decimal((await _card(page, label).locator(".figure").inner_text()).removeprefix("$"))


def _card(page: Page, label: str) -> Locator:
    return page.locator(".card").filter(has=page.get_by_text(label, exact=True))


async def _has_no_money(page: Page) -> None:
    """Neither amounts nor a place for them."""
    assert not _AMOUNT.search(await page.locator("body").inner_text()), page.url
    titles = await page.locator(_TITLES).all_inner_texts()
    assert [title for title in titles if _OF_MONEY.search(title)] == [], page.url


def _query(page: Page) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(page.url).query).items()}


def _kind(link: str) -> str:
    return urlsplit(link).path.removeprefix("/dashboard").strip("/").split("/")[0]


async def _downloaded(page: Page, link: Locator, folder: Path) -> list[dict[str, str]]:
    async with page.expect_download(timeout=HANG_MS) as coming:
        await link.click()
    download: Download = await coming.value
    assert download.suggested_filename.endswith(".csv")
    await download.save_as(folder / "export.csv")
    with (folder / "export.csv").open(newline="") as file:
        return list(csv.DictReader(file))


async def _new_creator(site: Site, plan: str) -> str:
    made = site.gateway.admin_json("POST", "/admin/creators", json={"plan": plan})
    return str(made["id"])


async def _answer(site: Site, key: str) -> Answer:
    return await site.gateway.get(key, "/v1/models")


def _throttle(site: Site, creator: str) -> None:
    """What the detector of unusual hours would write."""
    until_ms = int(time.time() * 1000) + 3_600_000
    with (
        closing(sqlite3.connect(site.gateway.data_dir / "gateway.db", timeout=HANG_MS / 1000)) as connection,
        connection,
    ):
        connection.execute(
            "INSERT INTO throttles (creator, requests_per_minute, until_at) VALUES (?, 5, ?)", (creator, until_ms)
        )
