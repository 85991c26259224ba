"""`/docs`: every text as a page, links that lead somewhere, a search, what is served to whom; and sums that are right."""

import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.catalog import Catalog, load_catalog
from gateway.chat import read_chat_request
from gateway.dashboard.guard import PAGE_HEADERS
from gateway.docs_site.library import GROUPS, Text, open_library, read_library
from gateway.docs_site.markdown import make_page
from gateway.docs_site.site import Site, open_site
from gateway.endpoints import EXCEPTION_HANDLERS, docs
from gateway.endpoints.guard import CreatorOnly
from gateway.openapi import openapi_document
from gateway.pricing import cost_nano_usd, usd
from gateway.usage import Usage
from tests.test_docs import anchors

ROOT = Path(__file__).parents[1]
NAMES = {"readme", *(path.stem for path in (ROOT / "docs").glob("*.md"))}


class Seen(HTMLParser):
    """What of a page matters here: ids, where it links to, which tags and attributes it has, its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        self.ids += [value for value in (named.get("id"),) if value]
        self.links += [value for name in ("href", "src") if (value := named.get(name))]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(name: str) -> Seen:
    return Seen(open_site().pages[name].content.decode())


def made(markdown: str, *pages: str, images: tuple[str, ...] = ()) -> str:
    return make_page(Text("x", "docs/x.md", markdown), pages, images).html


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Without any key, through the guard that asks everybody else for one."""
    app = Starlette(routes=docs.routes, middleware=[Middleware(CreatorOnly)], exception_handlers=EXCEPTION_HANDLERS)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as opened:
        yield opened


# Pages


def test_every_text_is_a_page_and_in_the_navigation() -> None:
    assert set(open_site().pages) == {"", "api", *NAMES}
    linked = {link for link in page("").links if link.startswith("/docs/")}
    assert linked == {"/docs/api", *(f"/docs/{name}" for name in NAMES)}


def test_no_group_names_a_page_that_is_gone() -> None:
    assert {name for _, names in GROUPS for name in names} <= NAMES


def test_every_link_between_pages_leads_to_an_anchor_that_is_there() -> None:
    site, missing = open_site(), []
    ids = {name: {*page(name).ids} for name in site.pages}
    for name in site.pages:
        for link in page(name).links:
            path, _, anchor = link.partition("#")
            target = path.removeprefix("/docs").removeprefix("/") if path else name
            if path and not f"{path}/".startswith("/docs/"):
                assert re.match(r"/dashboard|/openapi\.json$|https?://", path), link
            elif target.startswith("img/"):
                assert site.image(target.removeprefix("img/")) is not None, link
            elif target not in ids or (anchor and anchor not in ids[target]):
                missing.append((name, link))
    assert missing == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_anchors_are_those_the_texts_are_linked_by(name: str) -> None:
    text = open_library().texts[name].markdown
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    assert anchors(prose) <= {*page(name).ids}


def test_ids_are_unique_on_each_page() -> None:
    for name in open_site().pages:
        ids = page(name).ids
        assert len(set(ids)) == len(ids), name


def test_nothing_stands_in_a_page_that_its_policy_would_stop() -> None:
    for name in open_site().pages:
        for tag, attributes in page(name).tags:
            assert "style" not in attributes
            assert not any(attribute.startswith("on") for attribute in attributes)
            if tag in ("script", "link", "img"):
                assert str(attributes.get("src") or attributes.get("href")).startswith(("/dashboard/static/", "/docs/"))
            if tag == "script":
                assert attributes["src"]


# Markdown


def test_html_of_a_text_is_shown_and_not_run() -> None:
    html = made("# A\n\n<script>alert(1)</script> <img src=x onerror=alert(1)>\n\n[x](javascript:alert(1))")
    assert "<script" not in html
    assert "<img" not in html
    assert "href" not in html.replace('href="#a"', "")


def test_a_second_heading_of_the_same_words_has_an_anchor_of_its_own() -> None:
    assert [section.anchor for section in make_page(Text("x", "x", "# Say `it`\n\n# Say it\n"), [], []).sections] == [
        "say-it",
        "say-it-1",
    ]


def test_links_between_texts_are_links_between_pages() -> None:
    html = made("[a](other.md#part) [b](../README.md) [c](../pricing.toml) [d](#here) [e](gone.md)", "other", "readme")
    assert '<a href="/docs/other#part">a</a> <a href="/docs/readme">b</a> <span class="file">c</span>' in html
    assert '<a href="#here">d</a> <span class="file">e</span>' in html


def test_images_of_the_docs_are_shown_and_others_are_their_words() -> None:
    html = made("![one](img/a.png) ![two](https://elsewhere/b.png)", images=("a.png",))
    assert '<img src="/docs/img/a.png" alt="one" loading="lazy">' in html
    assert html.count("<img") == 1
    assert "two" in html


def test_commands_are_told_from_what_they_print() -> None:
    html = made("```console\n$ one \\\n    two\nout\n$ say 'a\nb'\n$ three\n```")
    assert re.findall(r'<span class="command">(.*?)</span>', html, re.DOTALL) == [
        "one \\\n    two",
        "say &#x27;a\nb&#x27;",
        "three",
    ]
    assert "\nout\n" in html
    assert '<code class="language-console">' in html


def test_folded_parts_stay_folded() -> None:
    html = made("<details>\n<summary>More</summary>\n\n| a |\n|---|\n| b |\n\n</details>\n\nafter")
    assert html.startswith("<details><summary>More</summary>")
    assert html.index("</table>") < html.index("</details>") < html.index("after")
    assert "<p></p>" not in html


# Served


async def test_pages_are_open_and_carry_the_headers_of_the_dashboard(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/readme", "/docs/api", "/docs/search?q=cache", "/openapi.json", "/docs/gone"):
        answer = await client.get(path)
        assert answer.status_code == (404 if path == "/docs/gone" else 200)
        for name, value in PAGE_HEADERS:
            assert answer.headers[name.decode()] == value.decode()
    assert (await client.get("/docsx")).status_code == 404


async def test_a_page_that_is_gone_is_a_page_that_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs/<img src=x>")
    assert answer.status_code == 404
    assert "There is no such page" in answer.text
    assert "<img" not in answer.text
    assert (await client.get("/docs/img/..%2f..%2fREADME.md")).status_code == 404


async def test_what_a_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/docs/readme")
    again = await client.get("/docs/readme", headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (await client.get("/docs/readme", headers={"if-none-match": '"other"'})).status_code == 200


async def test_head_is_get_without_the_page(client: httpx.AsyncClient) -> None:
    whole, head = await client.get("/docs/readme"), await client.head("/docs/readme")
    assert head.content == b""
    assert head.headers["content-length"] == str(len(whole.content))
    assert head.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize(("path", "to"), [("/docs/", "/docs"), ("/docs/Ledger.md", "/docs/ledger")])
async def test_other_words_for_a_page_lead_to_it(path: str, to: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (308, to)


# Search


async def test_the_index_names_sections_that_are_there(client: httpx.AsyncClient) -> None:
    index = (await client.get("/docs/search.json")).json()
    assert len(index) > 200
    ids = {name: {*page(name).ids} for name in open_site().pages}
    for url, *texts in index:
        name, _, anchor = url.removeprefix("/docs/").partition("#")
        assert anchor in ids[name], url
        assert len(texts) == 3


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("idempotency-key", "/docs/repeats"),
        ("written rule stream broke", "/docs/how-a-call"),
        ("GATEWAY_HOST", "/docs/"),
    ],
)
async def test_words_are_found_without_scripts(words: str, first: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs/search", params={"q": words})
    hits = re.findall(r'<li><a href="(/docs/[a-z-]+#[^"]*)">', answer.text)
    assert hits
    assert any(hit.startswith(first) for hit in hits)


async def test_words_that_nobody_wrote_are_not_found_nor_run(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs/search", params={"q": '"><img src=x onerror=alert(1)>'})
    assert answer.status_code == 200
    assert "Nothing has all of these words" in answer.text
    assert "<img" not in answer.text


# Where the texts come from


def test_an_installed_package_has_the_same_texts(tmp_path: Path) -> None:
    """As the wheel lays them: docs/ and the README in one folder."""
    config = (ROOT / "pyproject.toml").read_text()
    assert '"docs" = "gateway/documentation"' in config
    assert '"README.md" = "gateway/documentation/README.md"' in config
    folder = tmp_path / "documentation"
    folder.mkdir()
    for path in [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]:
        (folder / path.name).write_bytes(path.read_bytes())
    installed, here = read_library(folder, folder / "README.md"), open_library()
    assert installed.texts == here.texts
    assert installed.groups == here.groups


def test_without_any_text_there_is_still_the_api(tmp_path: Path) -> None:
    site = Site(read_library(tmp_path, tmp_path / "README.md"), openapi_document())
    assert set(site.pages) == {"", "api"}


def test_the_image_brings_the_texts_along() -> None:
    assert "\nCOPY docs docs\n" in (ROOT / "Dockerfile").read_text()
    assert "\n!docs\n" in (ROOT / ".dockerignore").read_text()


def test_the_readme_lists_every_guide() -> None:
    section = (ROOT / "README.md").read_text().partition("\n## Documentation\n")[2].partition("\n## ")[0]
    assert {*re.findall(r"\(docs/([a-z-]+)\.md\)", section)} == NAMES - {"readme"}


# The API's page


def test_the_page_of_the_api_has_every_path_with_its_codes_and_examples() -> None:
    document = openapi_document()
    text = open_site().pages["api"].content.decode()
    words = " ".join("".join(page("api").words).split())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} {path}" in words
            assert operation["summary"] in words
            assert all(each["name"] in words for each in operation["parameters"])
    assert "curl -sS http://127.0.0.1:8000/v1/chat/completions" in words
    assert "insufficient_quota" in text


# How a call is charged: the sums

CHARGED = (ROOT / "docs" / "how-a-call-is-charged.md").read_text()
EXAMPLES = [part for part in re.split(r"^## ", CHARGED, flags=re.MULTILINE)[1:] if "| bucket |" in part]


def whole(text: str) -> int:
    return int(text.replace(" ", "").replace("−", "-"))


def rows_of(example: str) -> list[tuple[str, int, int, int]]:
    found = re.findall(r"^\| `(\w+)` \| ([\d ]+) \| ([\d ]+) \| ([\d ]+) \|$", example, re.MULTILINE)
    return [(bucket, whole(many), whole(rate), whole(total)) for bucket, many, rate, total in found]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def told_of(name: str) -> int:
    """The cost that an example comes to, in nano-dollars."""
    (example,) = [each for each in EXAMPLES if each.startswith(f"{name}\n")]
    (cost,) = re.findall(r"^Cost: ([\d ]+) nano-dollars", example, re.MULTILINE)
    return whole(cost)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.partition("\n")[0])
def test_an_example_adds_up_and_is_what_the_gateway_charges(example: str, catalog: Catalog) -> None:
    (model,) = re.findall(r"^Model: `([^`]+)`", example, re.MULTILINE)
    variant = "".join(re.findall(r"variant `([^`]+)`", example))
    rows = rows_of(example)
    assert rows
    assert all(many * rate == total for _, many, rate, total in rows)
    (together,) = re.findall(r"^\| together \| \| \| ([\d ]+) \|$", example, re.MULTILINE)
    assert sum(total for *_, total in rows) == whole(together)
    ((told, dollars),) = re.findall(r"^Cost: ([\d ]+) nano-dollars, ([\d.]+) USD", example, re.MULTILINE)
    assert whole(told) == -(-whole(together) // 1_000)
    assert usd(whole(told)) == dollars
    usage = Usage(**{bucket: many for bucket, many, *_ in rows})
    assert cost_nano_usd(usage, catalog.models[model].price, variant) == whole(told)
    for bucket, _, rate, _ in rows:
        one = cost_nano_usd(Usage(**{bucket: 1_000}), catalog.models[model].price, variant)
        assert one == rate


def test_all_examples_are_looked_at() -> None:
    assert len(EXAMPLES) == 7


def test_the_uncached_figure_beside_the_cached_one_is_right(catalog: Catalog) -> None:
    price = catalog.models["gpt-4o-mini"].price
    (told,) = re.findall(r"Without the provider's cache it had been ([\d ]+)\.", CHARGED)
    assert whole(told) == cost_nano_usd(Usage(uncached_input=1_200, text_output=300), price)


def test_the_broken_stream_follows_the_written_rule() -> None:
    (example,) = [each for each in EXAMPLES if each.startswith("A stream that broke")]
    ((question, size),) = re.findall(r"The question is `([^`]+)`, (\d+) bytes", example)
    ((events, said),) = re.findall(r"after (\d+) events with words, (\d+) bytes", example)
    assert len(question.encode()) == int(size)
    body = json.dumps({"model": "mock-1", "messages": [{"role": "user", "content": question}]}).encode()
    tokens = {bucket: many for bucket, many, *_ in rows_of(example)}
    assert tokens["uncached_input"] == read_chat_request(body).input_tokens_estimate
    assert tokens["text_output"] == max(int(events), -(-int(said) // 4))


def test_what_follows_from_the_examples_says_their_figures(catalog: Catalog) -> None:
    """The cache's saving is the call's cost, the refund its charge, credits and free images the catalog's."""
    (saved,) = re.findall(r"`saved_nano_usd` ([\d ]+)\.", CHARGED)
    assert whole(saved) == told_of("A downgraded call")
    (refunded,) = re.findall(r"charge (−[\d ]+) nano-dollars", CHARGED)
    assert whole(refunded) == -told_of("The same call, not downgraded")
    model = catalog.models["mock-image-premium"]
    cost = cost_nano_usd(Usage(pieces=1), model.price, "1024x1024/standard")
    free, paid = re.findall(r"^\| the (?:first three|fourth) \|.*$", CHARGED, re.MULTILINE)
    assert f"| {cost:,} each | 0 | 100 |".replace(",", " ") in free
    assert f"| {model.credits} | {cost:,} | 0 | {100 - (model.credits or 0)} |".replace(",", " ") in paid
