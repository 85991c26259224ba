"""What holds for every page, whoever wrote it: on a ledger of 10^6 calls, among them some with hostile texts.

Pages are found in the routes (`tests.browser.pages`), so that a new one is tested as it comes. That nothing went wrong in
the browser is what the fixture `watch` sees to, in each of these tests.
"""

import pytest
from playwright.async_api import Page

from tests.browser.conftest import Visit
from tests.browser.driving import COLOURS, no_serious_axe, sideways_px, tab_from_the_top
from tests.browser.ledger_rows import HOSTILE
from tests.browser.pages import HOSTILE_VIEWS, PageOf, all_pages

_every_page = pytest.mark.parametrize("asked", all_pages(), ids=lambda asked: asked.path)
_FOREIGN_ELEMENTS = """
() => [...document.querySelectorAll("*")].filter((element) =>
  [...element.attributes].some((attribute) => attribute.name.startsWith("on"))
  || (element.tagName === "SCRIPT" && !element.src)
  || (element.tagName === "IMG" && element.getAttribute("src") === "x")
  || (element.tagName === "A" && /^\\s*(javascript|data):/i.test(element.getAttribute("href") || "")),
).map((element) => element.outerHTML.slice(0, 200))
"""


@_every_page
async def test_page_is_for_keyboards_and_screen_readers_and_has_nobody_elses_elements(
    asked: PageOf, visit: Visit
) -> None:
    """One visit, looked at in three ways."""
    page = await visit(asked)
    await _obeys_the_keyboard_and_has_a_title_and_one_heading(page)
    assert await page.evaluate(_FOREIGN_ELEMENTS) == []
    await no_serious_axe(page)
    await page.emulate_media(color_scheme="dark")
    await no_serious_axe(page, rules=COLOURS)


async def _obeys_the_keyboard_and_has_a_title_and_one_heading(page: Page) -> None:
    """Whoever comes with Tab comes to the link past the navigation first."""
    await tab_from_the_top(page)
    focused = page.locator(":focus")
    assert await focused.get_attribute("href") == "#page"
    assert "skip" in (await focused.inner_text()).lower()
    assert await page.locator("main#page").count() == 1
    assert await page.title()
    assert await page.locator("h1").count() == 1
    assert (await page.locator("h1").inner_text()).strip()


@_every_page
async def test_page_does_not_scroll_sideways_on_a_telephone(asked: PageOf, visit: Visit) -> None:
    page = await visit(asked, narrow=True)
    assert await sideways_px(page) == 0, asked.path


@pytest.mark.parametrize("asked", HOSTILE_VIEWS, ids=lambda asked: f"{asked.who} {asked.path}")
async def test_hostile_text_is_nothing_but_text(asked: PageOf, visit: Visit) -> None:
    page = await visit(asked)
    assert await page.evaluate(_FOREIGN_ELEMENTS) == []


async def test_hostile_texts_are_shown_where_they_are_looked_for(visit: Visit) -> None:
    shown = ""
    for view in HOSTILE_VIEWS:
        shown += await (await visit(view)).locator("main").inner_text()
    assert HOSTILE[0] in shown
    assert HOSTILE[1] in shown
    assert HOSTILE[2] in shown
