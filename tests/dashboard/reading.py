"""A page as somebody reads it: its words, tables, links and forms, out of the HTML, with the standard library's parser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx

_SILENT = frozenset({"script", "style", "template", "title"})
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})

Attributes = dict[str, str]


@dataclass
class Table:
    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)
    """The texts of the cells, the row of headings first."""
    values: list[list[str | None]] = field(default_factory=list)
    """Of the same cells, `data-value` where they have one."""


@dataclass
class Form:
    action: str
    method: str
    fields: Attributes = field(default_factory=dict)
    """What the form would send as it stands; of a select the chosen option, of a box only one that is ticked."""
    names: list[str] = field(default_factory=list)
    """Of everything that could be filled in."""
    options: dict[str, list[str]] = field(default_factory=dict)
    """What each select offers."""
    buttons: list[str] = field(default_factory=list)


@dataclass
class Page:
    """An answer of the dashboard. A page that is no HTML has only its `text`."""

    response: httpx.Response
    title: str = ""
    heading: str = ""
    words: str = ""
    """All text that is shown, its white space made single spaces."""
    tables: dict[str, Table] = field(default_factory=dict)
    """By caption."""
    links: dict[str, str] = field(default_factory=dict)
    """Where each leads, by its words; of several with the same words the last."""
    hrefs: list[str] = field(default_factory=list)
    forms: list[Form] = field(default_factory=list)
    elements: list[tuple[str, Attributes]] = field(default_factory=list)
    """Every start tag, in their order."""

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def headers(self) -> httpx.Headers:
        return self.response.headers

    @property
    def text(self) -> str:
        """The HTML itself."""
        return self.response.text

    @property
    def location(self) -> str:
        """Where the answer sends the browser; empty where it does not."""
        return str(self.headers.get("location", ""))

    def rows(self, caption: str) -> list[list[str]]:
        """The rows of one table below its headings. Fails where there is no such table."""
        assert caption in self.tables, f"no table {caption!r} among {list(self.tables)}: {self.words[:500]}"
        return self.tables[caption].rows[1:]

    def form(self, action: str) -> Form:
        """The form that is sent to `action` (its query left out). Fails where there is none."""
        found = [form for form in self.forms if form.action.partition("?")[0] == action]
        assert found, f"no form to {action} among {[form.action for form in self.forms]}: {self.words[:500]}"
        return found[0]

    def with_class(self, name: str) -> list[tuple[str, Attributes]]:
        return [found for found in self.elements if name in found[1].get("class", "").split()]


def read_page(response: httpx.Response) -> Page:
    page = Page(response)
    if response.headers.get("content-type", "").startswith("text/html"):
        reader = _Reader(page)
        reader.feed(response.text)
        reader.close()
        page.words = " ".join("".join(reader.shown).split())
    return page


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.shown: list[str] = []
        self._page = page
        self._open: list[str] = []
        self._collected: dict[str, list[str]] = {}
        self._table: Table | None = None
        self._form: Form | None = None
        self._select = ""
        self._href = ""
        self._value: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._page.elements.append((tag, given))
        if tag not in _VOID:
            self._open.append(tag)
            self._collected[tag] = []
        # Words of one block and the next are not one word.
        self.shown.append(" ")
        if tag == "table":
            self._table = Table()
        elif tag == "tr" and self._table is not None:
            self._table.rows.append([])
            self._table.values.append([])
        elif tag in ("td", "th"):
            self._value = given.get("data-value")
        elif tag == "a":
            self._href = given.get("href", "")
            self._page.hrefs.append(self._href)
        elif tag == "form":
            self._form = Form(given.get("action", ""), given.get("method", "get").lower())
            self._page.forms.append(self._form)
        elif self._form is not None:
            self._read_field(tag, given, self._form)

    def _read_field(self, tag: str, given: Attributes, form: Form) -> None:
        name = given.get("name", "")
        if tag in ("input", "select", "textarea", "button") and name:
            form.names.append(name)
        if tag == "input" and name:
            if given.get("type") not in ("checkbox", "radio"):
                form.fields[name] = given.get("value", "")
            elif "checked" in given:
                form.fields[name] = given.get("value", "on")
        elif tag == "select":
            self._select = name
            form.options[name] = []
        elif tag == "option" and self._select:
            offered = form.options[self._select]
            offered.append(given.get("value", ""))
            if "selected" in given or len(offered) == 1:
                form.fields[self._select] = offered[-1]
        elif tag == "textarea" and name:
            form.fields[name] = ""
            self._select = name

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._open:
            return
        while self._open and self._open.pop() != tag:
            pass  # a tag that HTML lets go unclosed
        self.shown.append(" ")
        words = " ".join("".join(self._collected.pop(tag, [])).split())
        if tag == "title":
            self._page.title = words
        elif tag == "h1":
            self._page.heading = words
        elif tag == "caption" and self._table is not None:
            self._table.caption = words
        elif tag in ("td", "th") and self._table is not None and self._table.rows:
            self._table.rows[-1].append(words)
            self._table.values[-1].append(self._value)
        elif tag == "table" and self._table is not None:
            self._page.tables[self._table.caption] = self._table
            self._table = None
        elif tag == "a":
            self._page.links[words] = self._href
        elif tag == "button" and self._form is not None:
            self._form.buttons.append(words)
        elif tag == "textarea" and self._form is not None:
            self._form.fields[self._select] = words
        elif tag == "form":
            self._form = None
        if tag in ("select", "textarea"):
            self._select = ""

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self._collected.setdefault(tag, []).append(data)
        if not _SILENT & set(self._open):
            self.shown.append(data)
