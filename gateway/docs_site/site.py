"""Every page below /docs by its path, with its tag: rendered once, when the first of them is asked for."""

import hashlib
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import orjson
from markupsafe import Markup

from gateway.dashboard.render import environment
from gateway.docs_site.api_page import api_groups
from gateway.docs_site.library import Library, open_library
from gateway.docs_site.markdown import Page, make_page
from gateway.openapi import openapi_document

__all__ = ["File", "Site", "make_site", "open_site"]

_HTML = "text/html; charset=utf-8"
_API = Page("api", "API reference", "Every path, what it takes and answers, and its errors.", "", [])
_FOUND_MAX = 30
_AROUND_CHARS = 90
_lock = Lock()
_made: list["Site"] = []


class File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


class _Hit(NamedTuple):
    score: int
    url: str
    page: str
    title: str
    text: str


def file_of(content: bytes, media_type: str) -> File:
    return File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:20]}"')


class Site:
    """What is served: `pages` by name, with the index as the empty one, `search_index` for the browser, `openapi`."""

    def __init__(self, library: Library, openapi: Mapping[str, Any]) -> None:
        self._library = library
        self._texts = [make_page(text, [*library.texts, "api"], [*library.images]) for text in library.texts.values()]
        self._by_name = {page.name: page for page in [*self._texts, _API]}
        groups = api_groups(openapi)
        self.openapi = file_of(orjson.dumps(openapi), "application/json")
        self._index = [*self._text_index(), *_api_index(groups)]
        self.search_index = file_of(orjson.dumps(self._index), "application/json")
        self.pages = {
            "": self._page("docs_index.html", "", "Documentation", summaries=self._summaries()),
            "api": self._page("docs_api.html", "api", _API.title, api=openapi, groups=groups),
            **{page.name: self._text_page(page) for page in self._texts},
        }
        self._images: dict[str, File] = {}

    def image(self, name: str) -> File | None:
        """Of docs/img/, by its name there; read when it is first asked for."""
        if name not in self._images and name in self._library.images:
            content = self._library.images[name].read_bytes()
            self._images[name] = file_of(content, self._library.image_type(name))
        return self._images.get(name)

    def missing(self) -> File:
        return self._page("docs_missing.html", None, "Not found")

    def search(self, words: str) -> File:
        """The sections that have all the words, the best first: what a browser without scripts is answered."""
        hits = self._hits(words.lower().split()) if words.strip() else []
        return self._page("docs_search.html", None, "Search", words=words, hits=hits)

    def _hits(self, words: Sequence[str]) -> list[_Hit]:
        found = []
        for url, page, title, text in self._index:
            head, body = f"{page} {title}".lower(), text.lower()
            if all(word in head or word in body for word in words):
                score = sum(10 * (word in title.lower()) + 4 * (word in page.lower()) + 1 for word in words)
                found.append(_Hit(score, url, page, title, _around(text, words[0])))
        return sorted(found, key=lambda hit: -hit.score)[:_FOUND_MAX]

    def _text_page(self, page: Page) -> File:
        parts = [section for section in page.sections if section.level == 2]
        # Made from the project's own texts, with HTML in them switched off.
        return self._page("docs_page.html", page.name, page.title, html=Markup(page.html), parts=parts)  # noqa: S704

    def _page(self, template: str, name: str | None, title: str, **values: Any) -> File:
        navigation = [
            (heading, [(self._by_name[each].title, each) for each in names]) for heading, names in self._groups()
        ]
        text = environment().get_template(template).render(title=title, name=name, navigation=navigation, **values)
        return file_of(text.encode(), _HTML)

    def _groups(self) -> list[tuple[str, list[str]]]:
        groups = self._library.groups
        return [(title, [*names, "api"] if title == "Reference" else names) for title, names in groups] or [
            ("Reference", ["api"])
        ]

    def _summaries(self) -> list[tuple[str, list[Page]]]:
        return [(heading, [self._by_name[name] for name in names]) for heading, names in self._groups()]

    def _text_index(self) -> list[tuple[str, str, str, str]]:
        return [
            (f"/docs/{page.name}#{section.anchor}", page.title, section.title, section.text)
            for page in self._texts
            for section in page.sections
        ]


def make_site() -> Site:
    return Site(open_library(), openapi_document())


def open_site() -> Site:
    """The one of this process. Takes a second of work the first time: call it on another thread."""
    with _lock:
        if not _made:
            _made.append(make_site())
    return _made[0]


def _api_index(groups: Sequence[Any]) -> list[tuple[str, str, str, str]]:
    return [
        (f"/docs/api#{each.anchor}", _API.title, f"{each.method} {each.path}", f"{each.summary} {each.description}")
        for group in groups
        for each in group.operations
    ]


def _around(text: str, word: str) -> str:
    at = max(text.lower().find(word), 0)
    begin, end = max(at - _AROUND_CHARS, 0), at + 2 * _AROUND_CHARS
    if begin:  # words are not cut; one that is longer than what is shown is
        begin = text.find(" ", begin, at) + 1 or begin
    if end < len(text):
        end = max(text.rfind(" ", at + len(word), end), 0) or end
    return f"{'… ' if begin else ''}{text[begin:end]}{' …' if end < len(text) else ''}"
