"""The browser that was brought, the ledger that was written, and that faults of a page are seen: or no test here means much."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.bringing import NotMade
from tests.browser import provision
from tests.browser.driving import interactive_within, serious_faults, sideways_px, sign_in
from tests.browser.ledger_rows import CREDITED, LARGEST
from tests.browser.png import with_few_colours
from tests.browser.site import CALLS_FEW, Site, build_once
from tests.browser.watching import Watch
from tests.rig.upstream import Upstream

_TEXT_WIDTHS = """
(texts) => texts.map(([family, text]) => {
  const span = document.createElement("span");
  span.style.cssText = `position: absolute; font-family: ${family}`;
  span.textContent = text;
  document.querySelector("main").append(span);
  return span.getBoundingClientRect().width;
})
"""


def test_two_makings_of_a_browser_are_one_and_tests_name_the_command() -> None:
    assert provision.prepare() == []
    assert provision.Packages().is_ready
    assert provision.chromium().major >= provision.OLDEST
    assert provision.are_needed([])
    assert provision.are_needed(["tests/browser/test_rig.py"])
    assert not provision.are_needed(["tests/policies"])


def test_changed_lock_wants_the_browser_again(tmp_path: Path) -> None:
    for name in ("package.json", "package-lock.json", "provision.py"):
        (tmp_path / name).write_bytes((provision.HERE / name).read_bytes())
    packages = provision.Packages(source=tmp_path)
    assert packages.is_ready
    (tmp_path / "package-lock.json").write_text("{}")
    assert not packages.is_ready


def test_lock_names_no_host() -> None:
    lock = (provision.HERE / "package-lock.json").read_text()
    assert "://" not in lock
    assert '"resolved"' not in lock


def test_program_that_does_not_start_has_no_version(tmp_path: Path) -> None:
    assert provision.major_of(tmp_path / "nothing", {}) == 0
    (tmp_path / "text").write_text("not a program")
    assert provision.major_of(tmp_path / "text", {}) == 0


def test_missing_browser_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotMade, match=provision.COMMAND):
        provision.Packages(root=tmp_path).require()


async def test_browser_has_letters_for_every_font(page: Page, small_site: Site) -> None:
    await page.goto(f"{small_site.url}/dashboard/sign-in")
    narrow, wide = "iiii", "mmmm"
    samples = [
        ["monospace", narrow],
        ["monospace", wide],
        ["system-ui", narrow],
        ["system-ui", wide],
        ["serif", "\u0645\u0631"],
    ]
    mono_narrow, mono_wide, ui_narrow, ui_wide, arabic = await page.evaluate(_TEXT_WIDTHS, samples)
    assert mono_narrow == mono_wide > 0
    assert 0 < ui_narrow < ui_wide
    assert arabic > 0


def test_written_ledger_is_exact(small_site: Site) -> None:
    assert "0 differences" in small_site.verify()


def test_ledger_has_all_that_pages_show(small_site: Site) -> None:
    entries = small_site.gateway.entries()
    calls = [entry for entry in entries if entry["kind"] == "usage"]
    assert len(calls) == CALLS_FEW
    assert any(entry["cached"] and entry["saved_nano_usd"] for entry in calls)
    assert any(entry["downgrade_reason"] for entry in calls)
    assert {entry["outcome"] for entry in calls} > {"ok"}
    assert {"quota", "free_images"} <= {entry["payer"] for entry in calls}
    assert {"chat", "embeddings", "images"} <= {entry["endpoint"] for entry in calls}
    assert len({entry["period_month"] for entry in calls}) >= 6
    assert [entry["creator"] for entry in entries if entry["kind"] == "grant"] == [CREDITED]


def test_second_process_finds_the_ledger_made(ledgers: Path, small_site: Site, upstream: Upstream) -> None:
    made = ledgers / f"ledger-{CALLS_FEW}"
    before = (made / "data" / "gateway.db").stat().st_mtime_ns
    assert build_once(ledgers, CALLS_FEW, upstream) == made
    assert (made / "data" / "gateway.db").stat().st_mtime_ns == before


async def test_page_that_errs_is_seen(page: Page, watch: Watch, small_site: Site) -> None:
    await page.goto(f"{small_site.url}/dashboard/sign-in")
    assert watch.faults == []
    await page.evaluate("console.error('said'); setTimeout(() => { throw new Error('thrown'); })")
    await page.evaluate("new Promise(resolve => setTimeout(resolve))")
    await page.evaluate("document.body.insertAdjacentHTML('beforeend', '<b style=\"color: red\">inline</b>')")
    await page.evaluate("fetch('/dashboard/static/none.js').then(() => null)")
    found = "\n".join(watch.faults)
    for word in ("console: said", "uncaught: .*thrown", "Content Security Policy", "answered 404: GET"):
        assert re.search(word, found), found
        watch.expect(word)


async def test_request_that_leaves_the_machine_is_seen(page: Page, watch: Watch) -> None:
    """From a page without a policy, which would not let it out."""
    await page.set_content("<p>")
    await page.evaluate("fetch('http://gateway.invalid/').catch(() => null)")
    assert "left the machine: http://gateway.invalid/" in watch.faults
    watch.expect("gateway.invalid")


async def test_page_for_some_only_is_seen(page: Page, small_site: Site) -> None:
    await page.goto(f"{small_site.url}/dashboard/sign-in")
    assert await serious_faults(page) == []
    await page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    await page.evaluate("document.querySelector('h1').setAttribute('role', 'nothing')")
    [first, second] = await serious_faults(page)
    assert {first.split()[0], second.split()[0]} == {"aria-roles", "label"}


async def test_page_that_is_too_wide_is_seen(page: Page, small_site: Site) -> None:
    await page.goto(f"{small_site.url}/dashboard/sign-in")
    assert await sideways_px(page) == 0
    await page.evaluate("document.querySelector('main').append('w'.repeat(2000))")
    assert await sideways_px(page) > 0


@pytest.mark.parametrize("who", ["owner", "finance", "support", "creator", "hostile"])
async def test_everybody_signs_in(page: Page, small_site: Site, who: str) -> None:
    await sign_in(page, small_site.url, small_site.key_of(who))
    assert await page.locator("form[action='/dashboard/sign-out']").count() == 1
    expected = {"creator": LARGEST, "hostile": "hostile", "owner": "settings"}.get(who, who)
    assert expected in await page.locator("body").inner_text()


async def test_time_is_taken_until_the_page_obeys(page: Page, small_site: Site) -> None:
    assert await interactive_within(page, f"{small_site.url}/dashboard/sign-in") > 0


async def test_picture_with_few_colours_is_smaller_and_looks_the_same(page: Page, small_site: Site) -> None:
    await page.goto(f"{small_site.url}/dashboard/sign-in")
    taken = await page.screenshot(clip={"x": 0, "y": 0, "width": 500, "height": 300})
    reduced = with_few_colours(taken)
    assert len(reduced) < len(taken)
    await page.set_content("<p>")
    compare = """
    async ([one, other]) => {
      const pixels = async (bytes) => {
        const picture = await createImageBitmap(new Blob([Uint8Array.from(bytes)], {type: "image/png"}));
        const canvas = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
        canvas.drawImage(picture, 0, 0);
        return canvas.getImageData(0, 0, picture.width, picture.height).data;
      };
      const [before, after] = [await pixels(one), await pixels(other)];
      return before.length === after.length ? before.reduce((most, v, i) => Math.max(most, Math.abs(v - after[i])), 0) : 999;
    }
    """
    assert await page.evaluate(compare, [list(taken), list(reduced)]) <= 40
