"""`python -m tests.browser.screenshots [FOLDER]`: docs/img/NAME-light.png and NAME-dark.png of the main pages.

Drawn from a ledger of a hundred thousand made-up calls, always the same but for the dates, with the fonts that the
browser brings. Pictures are reduced to 256 colours and packed as well as PNG can, by the few lines below.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser

from tests.browser.driving import Theme, launched, new_context, sign_in
from tests.browser.pages import PageOf
from tests.browser.png import with_few_colours
from tests.browser.site import Site, site_of
from tests.rig.environment import REPOSITORY

PICTURES: tuple[tuple[str, PageOf], ...] = (
    ("overview", PageOf("/dashboard/overview", "owner")),
    ("explore", PageOf("/dashboard/explore", "owner")),
    ("creators", PageOf("/dashboard/creators", "owner")),
    ("creator", PageOf("/dashboard/creators/{id}", "owner")),
    ("calls", PageOf("/dashboard/calls", "owner")),
    ("call", PageOf("/dashboard/calls/{request_id}", "owner")),
    ("models", PageOf("/dashboard/models", "owner")),
    ("policies", PageOf("/dashboard/policies", "owner")),
    ("providers", PageOf("/dashboard/providers", "owner")),
    ("months", PageOf("/dashboard/months", "owner")),
    ("audit", PageOf("/dashboard/audit", "owner")),
    ("me", PageOf("/dashboard/me", "creator")),
    ("playground", PageOf("/dashboard/me/playground", "creator")),
)
"""Name of the file, and what is on it."""
BYTES_MAX = 150_000

_CALLS = 100_000
_HEIGHT = 900
_THEMES: tuple[Theme, ...] = ("light", "dark")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=REPOSITORY / "docs" / "img")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="screenshots-") as folder,
        site_of(Path(folder), _CALLS, is_hostile=False) as site,
    ):
        return asyncio.run(_draw(site, options.folder))


async def _draw(site: Site, folder: Path) -> int:
    """How many pictures could not be drawn."""
    failed = 0
    async with launched() as browser:
        for theme in _THEMES:
            for name, asked in PICTURES:
                picture = await _picture(browser, site, asked, theme)
                if picture is None or len(picture) > BYTES_MAX:
                    failed += 1
                    print(f"{name}-{theme}: {'no such page' if picture is None else f'{len(picture)} bytes'}")
                    continue
                (folder / f"{name}-{theme}.png").write_bytes(picture)
                print(f"{name}-{theme}.png {len(picture)} bytes", flush=True)
    return failed


async def _picture(browser: Browser, site: Site, asked: PageOf, theme: Theme) -> bytes | None:
    """The upper part of the page; None where it is not answered with 200."""
    context = await new_context(browser, theme=theme, height=_HEIGHT)
    try:
        page = await context.new_page()
        await sign_in(page, site.url, site.key_of(asked.who))
        answer = await page.goto(asked.of(site), wait_until="networkidle")
        if answer is None or answer.status != 200:
            return None
        await page.evaluate("document.fonts.ready.then(() => true)")
        return with_few_colours(await page.screenshot(animations="disabled", caret="hide"))
    finally:
        await context.close()


if __name__ == "__main__":
    sys.exit(main())
