"""What pages are made of: templates, macros, scripts, third-party files and colours."""

import hashlib
import re
from pathlib import Path

import orjson
import pytest

import gateway.dashboard
from gateway.dashboard.forms import NOTHING_WRONG
from gateway.dashboard.render import environment
from gateway.dashboard.static_files import static_url

PACKAGE = Path(gateway.dashboard.__file__).parent
STATIC = PACKAGE / "static"
TEMPLATES = sorted((PACKAGE / "templates").glob("*.html"))


def test_no_template_has_anything_inline():
    """The policy would keep it from working."""
    for template in TEMPLATES:
        source = template.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|hx-on|hx-vals=.js", source), template.name
        assert not re.search(r"<script(?![^>]*\ssrc=)", source), template.name
        assert not re.search(r"\|\s*safe\b|autoescape|https?://", source), template.name


def test_htmx_is_kept_from_evaluating_and_from_styling():
    source = (
        environment()
        .get_template("base.html")
        .render(title="x", viewer=None, navigation=[], path="", here="", alert=NOTHING_WRONG, done="", is_error=False)
    )
    config = re.search(r"name=\"htmx-config\" content='([^']+)'", source)
    assert config is not None
    settings = orjson.loads(config[1])
    assert not settings["allowEval"]
    assert not settings["includeIndicatorStyles"]
    assert not settings["allowScriptTags"]
    assert settings["selfRequestsOnly"]
    assert settings["historyCacheSize"] == 0


@pytest.mark.parametrize("name", ["app.js", "charts.js", "theme.js"])
def test_scripts_make_no_markup_and_evaluate_nothing(name):
    source = (STATIC / name).read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?://(?!www\.w3\.org)",
        source,
    )


# The macros


def _render(text: str, **values) -> str:
    return environment().from_string('{% import "macros.html" as m with context %}' + text).render(**values)


def test_a_chart_is_its_table_with_exact_values():
    source = _render(
        "{{ m.chart('c', caption, ['<b>', 'x'], rows, 'nano_usd', 'stacked') }}",
        caption="Spend & more",
        rows=[("2026-05-20", [1_234_567_891, None])],
    )
    assert 'data-kind="stacked" data-unit="nano_usd"' in source
    assert "<caption>Spend &amp; more</caption>" in source
    assert "&lt;b&gt;" in source
    assert 'data-value="1234567891" title="$1.234567891">$1.23<' in source
    assert 'data-value="">–<' in source


@pytest.mark.parametrize(
    ("capacity", "shown", "bar"),
    [(1000, "800 used, 120 held of 1\u202f000", True), (None, "800 used, 120 held", False)],
)
def test_a_meter_without_a_capacity_has_no_bar(capacity, shown, bar):
    source = _render("{{ m.meter(800, 120, capacity, 'Requests', 'count') }}", capacity=capacity)
    assert shown in source
    assert ("<svg" in source) is bar
    if bar:
        assert 'width="80.0%"' in source
        assert 'x="80.0%" width="12.0%"' in source
        assert "92 % taken" in source


def test_helpers_for_lists_filters_and_facts_escape_what_they_show():
    source = _render(
        "{% call m.list(hostile, [(hostile, 'number')]) %}<tr><td>1</td></tr>{% endcall %}"
        "{% call m.filters('/dashboard/calls') %}{{ m.field('a', hostile, hostile) }}{{ m.select('b', 'B', [(hostile, hostile)], hostile) }}"
        "{% endcall %}{{ m.facts([(hostile, hostile)]) }}{{ m.once(hostile, hostile) }}{{ m.card(hostile, hostile) }}"
        "{{ m.badge(hostile) }}{{ m.empty(hostile) }}{{ m.pager(hostile) }}{{ m.hidden('h', hostile) }}",
        hostile="\"><script>'",
    )
    assert "<script" not in source
    assert "<tr><td>1</td></tr>" in source
    assert 'hx-push-url="true"' in source


def test_a_file_that_the_package_does_not_have_has_no_url():
    with pytest.raises(KeyError):
        static_url("nothing.css")


def test_third_party_files_are_those_that_the_list_beside_them_names():
    """Unchanged since they were taken out of their packages, and each with its licence."""
    vendor = STATIC / "vendor"
    listed = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (vendor / "README.md").read_text(), re.MULTILINE))
    found = {path.name for path in vendor.iterdir()}
    assert found == {*listed, "README.md", "htmx.LICENSE", "uPlot.LICENSE"}
    for name, digest in listed.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name


# Colours


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _themes() -> list[dict[str, str]]:
    """The light one, and the dark one."""
    colours = r"--([a-z0-9-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);"
    found = re.findall(colours, (STATIC / "app.css").read_text())
    return [{name: light for name, light, _ in found}, {name: dark for name, _, dark in found}]


def test_a_colour_stands_once_and_follows_the_scheme_that_is_chosen():
    source = (STATIC / "app.css").read_text()
    light, dark = _themes()
    assert len(light) >= 25
    assert all(light[name] != dark[name] for name in light)
    assert re.search(r":root \{\s+color-scheme: light dark;", source)
    for name in ("light", "dark"):
        assert re.search(rf':root\[data-theme="{name}"\] {{\s+color-scheme: {name};', source)
    bare = re.sub(r"/\*.*?\*/|light-dark\([^;]*;", "", source, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,8}\b", bare)


@pytest.mark.parametrize("theme", _themes(), ids=["light", "dark"])
def test_a_theme_has_nine_series_that_differ(theme):
    assert len({theme[f"series-{number}"] for number in range(1, 10)} | {theme["series-other"]}) == 10


@pytest.mark.parametrize("theme", _themes(), ids=["light", "dark"])
def test_text_stands_out_from_its_ground_and_marks_from_theirs(theme):
    texts = [(text, ground) for text in ("text", "muted", "accent") for ground in ("ground", "sheet", "sunk")]
    texts += [(name, f"{name}-ground") for name in ("accent", "ok", "warn", "bad")]
    texts += [("on-accent", "accent"), ("bad", "sheet"), ("text", "warn-ground")]
    for text, ground in texts:
        assert _contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
    for mark in ("edge", "accent"):
        assert _contrast(theme[mark], theme["sheet"]) >= 3, mark
