"""Fixtures of the browser tests: one Chromium a process, and a page for every test that watches over what it did.

`page` fails its test when the page said an error, broke its own policy, asked for what was not there, or for anything
beyond this machine. Everything runs on one event loop a session, which is where the browser is.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, StorageState

from tests.browser.driving import NARROW_PX, WIDE_PX, launched, new_context, sign_in
from tests.browser.pages import PageOf
from tests.browser.site import CALLS, CALLS_FEW, Site, build_once, opened
from tests.browser.watching import Watch
from tests.rig.environment import inherited
from tests.rig.upstream import Upstream

_HERE = Path(__file__).parent
SignedIn = Callable[[str], Awaitable[StorageState]]


class Visit(Protocol):
    async def __call__(self, asked: PageOf, *, narrow: bool = False) -> Page:
        """The page, loaded; on the screen of a telephone if `narrow`."""
        ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, watch: Watch) -> AsyncIterator[BrowserContext]:
    """As a person who was never here; whatever its pages do is watched."""
    context = await new_context(browser)
    watch.over(context)
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext) -> Page:
    """1280 by 800 pixels."""
    return await context.new_page()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """What went wrong in the browser during the test; what is meant to is named by `watch.expect`."""
    watch = Watch()
    yield watch
    assert not watch.faults, "\n".join(watch.faults)


@pytest.fixture(scope="session")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of the run."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in inherited() else own
    return shared / "ledgers"


@pytest.fixture(scope="session")
def site(ledgers: Path, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway over a ledger of 10^6 entries. Shared by all tests of a process."""
    with opened(build_once(ledgers, CALLS, upstream), tmp_path_factory.mktemp("site"), upstream) as site:
        yield site


@pytest.fixture(scope="session")
def small_site(ledgers: Path, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same over a few hundred entries. Shared by all tests of a process."""
    with opened(build_once(ledgers, CALLS_FEW, upstream), tmp_path_factory.mktemp("small-site"), upstream) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, watch: Watch, site: Site, signed_in: SignedIn) -> AsyncIterator[Visit]:
    """Goes to a page of the large site, signed in as whoever it is for."""
    contexts: list[BrowserContext] = []

    async def go(asked: PageOf, *, narrow: bool = False) -> Page:
        width = NARROW_PX if narrow else WIDE_PX
        context = await new_context(browser, width=width, state=await signed_in(asked.who))
        contexts.append(context)
        watch.over(context)
        page = await context.new_page()
        answer = await page.goto(asked.of(site))
        assert answer is not None
        assert answer.status == 200, f"{asked.path}: {answer.status}"
        assert page.url == asked.of(site), f"{asked.path} leads to {page.url}"
        return page

    yield go
    for context in contexts:
        await context.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def signed_in(browser: Browser, site: Site) -> SignedIn:
    """The cookies of a role of the large site; nobody's are none. Signs in once a process."""
    known: dict[str, StorageState] = {"": {"cookies": [], "origins": []}}

    async def state_of(who: str) -> StorageState:
        if who not in known:
            context = await new_context(browser)
            await sign_in(await context.new_page(), site.url, site.key_of(who))
            known[who] = await context.storage_state()
            await context.close()
        return known[who]

    return state_of
