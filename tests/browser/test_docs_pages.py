"""/docs as people read it: without faults in the browser (the fixture `watch`), for eyes of all kinds, on screens of all kinds.

The texts are many and their pages alike; chosen are those that differ: lists of links, wide tables, code, pictures, the API.
"""

import pytest
from playwright.async_api import Browser, Page

from gateway.docs_site.library import open_library
from tests.browser.driving import COLOURS, NARROW_PX, new_context, no_serious_axe, sideways_px, tab_from_the_top
from tests.browser.site import Site
from tests.browser.watching import Watch

PATHS = ("/docs", "/docs/api", "/docs/search?q=cache", "/docs/settings", "/docs/sdks", "/docs/dashboard")
_in_light_and_dark = pytest.mark.parametrize("path", PATHS)


@_in_light_and_dark
async def test_a_text_has_no_serious_accessibility_fault_in_light_and_dark(
    path: str, page: Page, small_site: Site
) -> None:
    answer = await page.goto(small_site.url + path)
    assert answer is not None
    assert answer.status == 200
    await no_serious_axe(page)
    await page.emulate_media(color_scheme="dark")
    await no_serious_axe(page, rules=COLOURS)


@_in_light_and_dark
async def test_a_text_has_one_heading_and_is_come_to_with_tab(path: str, page: Page, small_site: Site) -> None:
    await page.goto(small_site.url + path)
    assert await page.locator("h1").count() == 1
    await tab_from_the_top(page)
    focused = page.locator(":focus")
    target = await focused.get_attribute("href")
    assert "skip" in (await focused.inner_text()).lower()
    assert target
    assert await page.locator(f"main{target}").count() == 1


async def test_no_text_scrolls_sideways_on_a_telephone(browser: Browser, watch: Watch, small_site: Site) -> None:
    """All of them; wide tables and code scroll inside of themselves."""
    context = await new_context(browser, width=NARROW_PX)
    watch.over(context)
    page = await context.new_page()
    wide = []
    for path in ("/docs", "/docs/api", *(f"/docs/{name}" for name in open_library().texts)):
        await page.goto(small_site.url + path)
        wide += [f"{path}: {px} px" for px in [await sideways_px(page)] if px]
    await context.close()
    assert not wide
