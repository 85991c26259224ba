"""Markdown -> the inside of a page: CommonMark and tables, no HTML of the text's own but for folded parts.

Headings get the anchors that GitHub makes of them, since that is what the texts link by. Links between texts become links
between pages; links to files that are no page become plain words. A block of `console` knows commands from what they print.
"""

import posixpath
import re
import shlex
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gateway.docs_site.library import Text

__all__ = ["Page", "Section", "make_page"]

_NO_WORD = re.compile(r"[^\w\- ]")
_FOLD = re.compile(r"<details>\s*<summary>(.*)</summary>", re.DOTALL)
_FOLD_END = "</details>"
_SUMMARY_CHARS_MAX = 200
_SUMMARY_CHARS_MIN = 40
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_INDEXED_CHARS_MAX = 4_000
"""Of a section; the rest of a long table is found by its page."""


class Section(NamedTuple):
    """A heading and what stands below it."""

    level: int
    title: str
    anchor: str
    text: str


class Page(NamedTuple):
    name: str
    title: str
    summary: str
    html: str
    sections: list[Section]


def make_page(text: Text, pages: Sequence[str], images: Sequence[str]) -> Page:
    """`pages` and `images`: names of those there are, which alone may be linked to."""
    parser = _parser()
    tokens = parser.parse(text.markdown)
    headings = _headings(tokens)
    _mend_links(tokens, posixpath.dirname(text.source), frozenset(pages), frozenset(images))
    _fold(tokens)
    html = parser.renderer.render(tokens, parser.options, {"anchors": iter([anchor for *_, anchor in headings])})
    sections = _sections(tokens, headings)
    title = sections[0].title if sections else text.name
    return Page(text.name, title, _summary(tokens), html, sections)


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    for name, rule in _RULES.items():
        parser.add_render_rule(name, rule)
    return parser


def _headings(tokens: Sequence[Token]) -> list[tuple[int, int, str, str]]:
    """Place, level, words and anchor. The second heading of the same words gets `-1`, as at GitHub."""
    found: list[tuple[int, int, str, str]] = []
    seen: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            words = _words(tokens[place + 1])
            anchor = _NO_WORD.sub("", words.lower()).replace(" ", "-")
            seen[anchor] = seen.get(anchor, -1) + 1
            found.append((place, int(token.tag[1]), words, f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor))
    return found


def _sections(tokens: Sequence[Token], headings: Sequence[tuple[int, int, str, str]]) -> list[Section]:
    ends = [*[place for place, *_ in headings][1:], len(tokens)][: len(headings)]
    return [
        Section(level, title, anchor, _plain(tokens[place + 3 : end])[:_INDEXED_CHARS_MAX])
        for (place, level, title, anchor), end in zip(headings, ends, strict=True)
    ]


def _summary(tokens: Sequence[Token]) -> str:
    """The first sentences, as many as say something; one that leads to what follows below it says nothing by itself."""
    paragraphs = [_words(token) for before, token in pairwise(tokens) if before.type == "paragraph_open"]
    sentences = [each for text in paragraphs for each in _SENTENCE_END.split(text.strip()) if each]
    said = ""
    for sentence in sentences:
        if len(said) >= _SUMMARY_CHARS_MIN:
            break
        if not sentence.endswith(":"):
            said = f"{said} {sentence}".strip()
    return (
        said if len(said) <= _SUMMARY_CHARS_MAX else f"{said[:_SUMMARY_CHARS_MAX].rpartition(' ')[0].rstrip(',;:')} …"
    )


def _plain(tokens: Sequence[Token]) -> str:
    parts = [_words(token) if token.type == "inline" else token.content for token in tokens]
    return " ".join(" ".join(parts).split())


def _words(token: Token) -> str:
    return "".join(" " if child.type in ("softbreak", "hardbreak") else child.content for child in token.children or [])


def _mend_links(tokens: Sequence[Token], folder: str, pages: frozenset[str], images: frozenset[str]) -> None:
    for token in tokens:
        for child in token.children or []:
            if child.type == "image":
                path = posixpath.normpath(posixpath.join(folder, str(child.attrs["src"])))
                name = path.removeprefix("docs/img/")
                child.attrs["src"] = f"/docs/img/{name}" if name in images else ""
            elif child.type == "link_open":
                child.attrs["href"] = _href(str(child.attrs["href"]), folder, pages)


def _href(target: str, folder: str, pages: frozenset[str]) -> str:
    """Empty for what only the repository has."""
    if target.startswith(("#", "https://", "http://")):
        return target
    file, mark, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(folder, file))
    parent, _, base = path.rpartition("/")
    name = base.removesuffix(".md").lower()
    is_page = base.endswith(".md") and name in pages and (parent == "docs" or path == "README.md")
    return f"/docs/{name}{mark}{anchor}" if is_page else ""


def _fold(tokens: list[Token]) -> None:
    """`<details>`, written as a paragraph of its own, folds what follows up to `</details>`."""
    for place, token in enumerate(tokens):
        if token.type != "inline":
            continue
        begun = _FOLD.fullmatch(token.content.strip())
        if begun or token.content.strip() == _FOLD_END:
            for beside in (tokens[place - 1], tokens[place + 1]):
                beside.type, beside.hidden, beside.tag = "folded", True, ""
            token.type, token.children = "folded", None
            token.meta = {"summary": begun[1] if begun else None}


def _render_folded(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    if tokens[place].hidden:
        return ""
    summary = tokens[place].meta["summary"]
    return _FOLD_END if summary is None else f"<details><summary>{escape(summary)}</summary>"


def _open_heading(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    anchor = env["anchor"] = next(env["anchors"])
    return f'<{tokens[place].tag} id="{escape(anchor)}">'


def _close_heading(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    anchor = escape(env["anchor"])
    return f' <a class="anchor" href="#{anchor}" aria-label="Link to this section">#</a></{tokens[place].tag}>\n'


def _open_link(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    href = str(tokens[place].attrs["href"])
    env.setdefault("links", []).append(href)
    if not href:
        return '<span class="file">'
    outside = ' rel="noreferrer"' if "://" in href else ""
    return f'<a href="{escape(href)}"{outside}>'


def _close_link(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    return "</a>" if env["links"].pop() else "</span>"


def _image(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    alt, src = escape(token.content), str(token.attrs["src"])
    return f'<img src="{escape(src)}" alt="{alt}" loading="lazy">' if src else alt


def _fence(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    token = tokens[place]
    language = token.info.strip().partition(" ")[0]
    inside = _console(token.content) if language == "console" else escape(token.content)
    kind = f' class="language-{escape(language)}"' if language else ""
    return (
        f'<div class="code"><pre tabindex="0"><code{kind}>{inside}</code></pre>'
        '<button type="button" class="quiet" data-copy-code hidden>Copy</button></div>\n'
    )


def _console(text: str) -> str:
    """Commands marked, without their prompt, which the style puts in front. A block without prompts has commands only."""
    lines = text.splitlines(keepends=True)
    if not any(line.startswith("$ ") for line in lines):
        return escape(text)
    shown, at = [], 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            shown.append(escape(lines[at]))
            at += 1
            continue
        command = lines[at].removeprefix("$ ")
        at += 1
        while at < len(lines) and _goes_on(command):
            command += lines[at]
            at += 1
        shown.append(f'<span class="command">{escape(command.rstrip())}</span>\n')
    return "".join(shown)


def _goes_on(command: str) -> bool:
    """Whether the next line is still part of it: after a backslash, or in quotes."""
    if command.endswith("\\\n"):
        return True
    try:
        shlex.split(command, comments=False)
    except ValueError:
        return True
    return False


def _open_table(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    return '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table class="list">\n'


def _close_table(renderer: Any, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


_RULES = {
    "heading_open": _open_heading,
    "heading_close": _close_heading,
    "link_open": _open_link,
    "link_close": _close_link,
    "image": _image,
    "fence": _fence,
    "table_open": _open_table,
    "table_close": _close_table,
    "folded": _render_folded,
}
