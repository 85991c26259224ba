"""docs/settings.md has every setting, with the values it takes and the default it has, and nothing that is none."""

import re
from pathlib import Path

import pytest

from gateway.config import Settings
from tests.settings_table import bounds_of, default_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROWS = re.findall(r"^\| `GATEWAY_(\w+)` \|(.*)\|$", SETTINGS, re.MULTILINE)
KNOWN = {name.upper() for name in Settings.model_fields}


def cells(name: str) -> list[str]:
    """Of its one row: what it takes, its default, what it does, when to change it."""
    (row,) = [row for told, row in ROWS if told == name.upper()]
    return [cell.strip() for cell in row.split(" | ")]


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_a_setting_has_one_row_with_its_bounds_and_its_default(name: str) -> None:
    takes, default, what, when = cells(name)
    assert (takes, default) == (bounds_of(name), default_of(name))
    assert what.endswith(".")
    assert when


def test_no_row_is_of_a_setting_that_is_gone() -> None:
    assert {name for name, _ in ROWS} == KNOWN


@pytest.mark.parametrize(
    ("name", "takes", "default"),
    [
        ("workers", "a whole number, 1 to 256", "`1`"),
        ("calls_max", "a whole number, from 1", "`10000`"),
        ("redis_connect_timeout_s", "a number, above 0, to 60", "`0.5`"),
        ("total_timeout_s", "a number, above 0", "`900` (15 minutes)"),
        ("cache_bytes_max", "a whole number, from 0", "`268435456` (256 MiB)"),
        ("idempotency_answer_bytes_max", "a whole number, from 0", "`1048576` (1 MiB)"),
        ("cache_chat_ttl_s", "a whole number, from 0", "`3600` (1 hour)"),
        ("notice_error_percent", "a decimal, 0 to 100, to 2 places, or `none`", "`5`"),
        ("otel_service_name", "text, 1 to 255 characters", "`llm-gateway`"),
        ("log_level", "`debug` or `info` or `warning` or `error`", "`info`"),
        ("secret", "a secret", "unset"),
    ],
)
def test_rows_are_made_of_the_fields_as_people_write_them(name: str, takes: str, default: str) -> None:
    assert (bounds_of(name), default_of(name)) == (takes, default)


def test_the_readme_says_the_same_defaults() -> None:
    table = README.partition("\n## Settings\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `GATEWAY_")]
    assert len(rows) > 5
    for variables, told, *_ in rows:
        names = re.findall(r"`GATEWAY_(\w+)`", variables)
        defaults = told.split(", ") if len(told.split(", ")) > 1 else [told] * len(names)
        assert defaults == [default_of(name.lower()) for name in names]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_setting_that_there_is_not(page: Path) -> None:
    assert set(re.findall(r"\bGATEWAY_([A-Z0-9_]*[A-Z0-9])\b", page.read_text())) <= KNOWN
