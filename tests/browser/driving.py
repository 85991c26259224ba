"""How tests and commands drive the browser: starting it, signing in, measuring, and asking axe-core about a page."""

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from playwright.async_api import Browser, BrowserContext, Page, StorageState, async_playwright

from tests.browser.provision import axe_script, chromium
from tests.rig.environment import inherited

__all__ = [
    "COLOURS",
    "HANG_MS",
    "NARROW_PX",
    "WIDE_PX",
    "Theme",
    "interactive_within",
    "launched",
    "new_context",
    "no_serious_axe",
    "serious_faults",
    "sideways_px",
    "sign_in",
    "tab_from_the_top",
]

HANG_MS = 30_000
"""Bound on hanging, never a claim about speed: the machine may be busy."""
COLOURS = ("color-contrast", "link-in-text-block")
"""The rules of axe-core that another theme may break."""
WIDE_PX, NARROW_PX = 1280, 400
"""As wide as a desk has it, and as a telephone."""
Theme = Literal["light", "dark"]
_HEIGHT_PX = 800
_FLAGS = ("--disable-gpu", "--font-render-hinting=none", "--force-color-profile=srgb")
_SERIOUS = ("serious", "critical")
_RUN_AXE = """
async (rules) => {
  const only = rules.length ? {runOnly: {type: "rule", values: rules}} : {};
  const found = await axe.run(document, {resultTypes: ["violations"], ...only});
  return found.violations.map((fault) => ({
    id: fault.id,
    impact: fault.impact,
    help: fault.help,
    nodes: fault.nodes.slice(0, 3).map((node) => node.html.slice(0, 200) + " -- " + node.failureSummary),
  }));
}
"""


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """The provisioned Chromium, without a sandbox only where root must do without one."""
    found = chromium()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=found.program,
            args=list(_FLAGS),
            chromium_sandbox=False if os.geteuid() == 0 else None,
            env={**inherited(), **found.environment},
        )
        try:
            yield browser
        finally:
            await browser.close()


async def new_context(
    browser: Browser,
    *,
    width: int = WIDE_PX,
    height: int = _HEIGHT_PX,
    theme: Theme = "light",
    state: StorageState | None = None,
) -> BrowserContext:
    """A context with the cookies of `state`, or none. Its pages wait half a minute at most, for anything."""
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        reduced_motion="reduce",
        locale="en-GB",
        timezone_id="UTC",
        storage_state=state,
    )
    context.set_default_timeout(HANG_MS)
    context.set_default_navigation_timeout(HANG_MS)
    return context


async def sign_in(page: Page, url: str, key: str) -> None:
    """Signs in by the page that is there for it. `url` is the gateway's."""
    await page.goto(f"{url}/dashboard/sign-in")
    await page.fill("input[name=key]", key)
    async with page.expect_navigation(url=lambda target: not target.endswith("/sign-in")):
        await page.click("main button")


async def serious_faults(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe-core calls serious or critical about the page as it is, a text for each rule; all rules, or only `rules`.

    The script is evaluated by the debugger, which the page's own policy does not bind.
    """
    if not await page.evaluate("typeof axe === 'object'"):
        await page.evaluate(axe_script())
    faults: list[dict[str, Any]] = await page.evaluate(_RUN_AXE, list(rules))
    return [
        f"{fault['id']} ({fault['impact']}): {fault['help']}\n    " + "\n    ".join(fault["nodes"])
        for fault in faults
        if fault["impact"] in _SERIOUS
    ]


async def no_serious_axe(page: Page, rules: Sequence[str] = ()) -> None:
    """Raises `AssertionError` with every rule that is broken seriously, of all or of `rules`."""
    faults = await serious_faults(page, rules)
    assert not faults, f"{page.url}\n" + "\n".join(faults)


async def sideways_px(page: Page) -> int:
    """How far the whole document can be scrolled to the side."""
    return int(await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


async def tab_from_the_top(page: Page) -> None:
    """Presses Tab as somebody does who has touched nothing yet, whichever field has taken the focus."""
    await page.evaluate("document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex')")
    await page.keyboard.press("Tab")


async def interactive_within(page: Page, url: str, seconds: float = HANG_MS / 1000) -> float:
    """Seconds from the start of navigating to `url` until it is loaded and has obeyed a key.

    `seconds` bounds hanging. Raises playwright's `TimeoutError` beyond it, `AssertionError` when the answer is no page.
    """
    started = time.perf_counter()
    answer = await page.goto(url, wait_until="load", timeout=seconds * 1000)
    assert answer is not None, url
    assert answer.status == 200, f"{url}: {answer.status}"
    await page.keyboard.press("Tab")
    await page.wait_for_function("document.activeElement !== document.body", timeout=seconds * 1000)
    return time.perf_counter() - started
