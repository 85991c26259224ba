"""The texts: docs/*.md and README.md, out of the checkout or the installed package, in the order people read them."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["GROUPS", "Library", "Text", "open_library"]

GROUPS = (
    ("Begin", ("readme", "quick-start", "sdks", "migrate-from-litellm")),
    ("Money", ("limits-and-money", "how-a-call-is-charged", "saving-money", "downgrade", "caching")),
    ("People", ("dashboard", "admins", "notices")),
    ("Run it", ("deploy", "settings", "metrics", "scaling", "stores", "backup", "security")),
    ("Reference", ("endpoints", "errors", "policies", "plans", "pricing", "providers", "repeats", "ledger")),
)
"""Headings of the navigation and the pages below them. A page that is named nowhere comes last."""
_REST = "More"
_IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}


class Text(NamedTuple):
    name: str
    """The last part of its path below /docs: `quick-start`."""
    source: str
    """Where it lies in the project: `docs/quick-start.md`. What its links are relative to."""
    markdown: str


class Library(NamedTuple):
    texts: dict[str, Text]
    groups: list[tuple[str, list[str]]]
    """Headings and names; every text once."""
    images: dict[str, Path]
    """By what follows `docs/img/`."""

    def image_type(self, name: str) -> str:
        return _IMAGE_TYPES[self.images[name].suffix]


@cache
def open_library() -> Library:
    """All there is. Where neither checkout nor package has any text, a library without one."""
    inside = Path(__file__).parents[1] / "documentation"
    root = Path(__file__).parents[2]
    return (
        read_library(inside, inside / "README.md")
        if inside.exists()
        else read_library(root / "docs", root / "README.md")
    )


def read_library(folder: Path, readme: Path) -> Library:
    texts = {}
    if readme.exists():
        texts["readme"] = Text("readme", "README.md", readme.read_text("utf-8"))
    for path in sorted(folder.glob("*.md")):
        if path.name != readme.name:
            name = path.stem.lower()
            texts[name] = Text(name, f"docs/{path.name}", path.read_text("utf-8"))
    images = folder / "img"
    found = {path.relative_to(images).as_posix(): path for path in images.rglob("*") if path.suffix in _IMAGE_TYPES}
    return Library(texts, _grouped(texts), found)


def _grouped(texts: dict[str, Text]) -> list[tuple[str, list[str]]]:
    named = {name for _, names in GROUPS for name in names}
    wanted = [*GROUPS, (_REST, tuple(name for name in texts if name not in named))]
    groups = [(title, [name for name in names if name in texts]) for title, names in wanted]
    return [(title, names) for title, names in groups if names]
