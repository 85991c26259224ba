"""`python -m tests.browser.timings [--calls N] [--verify]`: how soon each page can be used, on a ledger of 10^6 calls.

Each page is asked for a few times, by whoever it is for, in a browser that has its scripts and styles already. The time is
from the beginning of the navigation until the page is loaded and has obeyed a key: the first visit, and the median of all.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.async_api import Browser

from tests.browser.driving import interactive_within, launched, new_context, sign_in
from tests.browser.pages import PageOf, all_pages
from tests.browser.site import CALLS, Site, site_of

_VISITS = 5
_ENOUGH_S = 1.0
"""What people do not wait for any more."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.timings", description=__doc__)
    parser.add_argument("--calls", type=int, default=CALLS, help=f"in the ledger (default: {CALLS})")
    parser.add_argument("--verify", action="store_true", help="compute the ledger again first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="timings-") as folder, site_of(Path(folder), options.calls) as site:
        if options.verify:
            print(site.verify())
        return asyncio.run(_measure(site, options.calls))


async def _measure(site: Site, calls: int) -> int:
    """How many pages took too long."""
    late = 0
    print(f"{'first ms':>9} {'median ms':>10}   page, on {calls} calls")
    async with launched() as browser:
        for page in all_pages():
            times = await _times(browser, site, page)
            median = statistics.median(times)
            late += median > _ENOUGH_S
            print(f"{times[0] * 1000:9.0f} {median * 1000:10.0f}   {page.who or 'nobody'} {page.path}", flush=True)
    return late


async def _times(browser: Browser, site: Site, asked: PageOf) -> list[float]:
    context = await new_context(browser)
    try:
        page = await context.new_page()
        if asked.who:
            await sign_in(page, site.url, site.key_of(asked.who))
        return [await interactive_within(page, asked.of(site)) for _ in range(_VISITS)]
    finally:
        await context.close()


if __name__ == "__main__":
    sys.exit(main())
