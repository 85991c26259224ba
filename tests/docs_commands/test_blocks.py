"""No block of a page goes without a test: what is not typed or run is read by the gateway's own parsers, or has a row of its own."""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

import pytest
import yaml

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.plan_fields import PLAN_FIELDS
from gateway.plans import load_plans, with_overrides
from tests.docs_commands.elsewhere import ELSEWHERE, elsewhere, faults_of_gateway_commands
from tests.docs_commands.pages import Block, blocks_of, pages, steps_of
from tests.docs_commands.rows import load_fragment
from tests.docs_commands.scenes import FIGURES
from tests.docs_commands.test_commands import pages_to_read
from tests.rig.environment import REPOSITORY

_RUN = ("console", "bash", "sh", "python", "js")
_REQUEST = re.compile(r"(GET|POST|PUT|PATCH|DELETE|HEAD) (/\S*)( HTTP/1\.1)?")
_RESPONSE = re.compile(r"HTTP/1\.1 (\d{3}) (.+)")
_HEADER = re.compile(r"[A-Za-z0-9-]+: \S.*")
_SETTING = re.compile(r"(?:export )?(?:Environment=)?(GATEWAY_[A-Z0-9_]+)=")


def blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


def shown_below_programs() -> set[str]:
    """Places of blocks that show what a program above them prints."""
    return {step.output.place for page in pages() for step in steps_of(blocks_of(page)) if step.output}


# What each language is held against


def is_fragment(block: Block, folder: Path) -> None:
    load_fragment(block.text, folder)


def is_json(block: Block, folder: Path) -> None:
    """And, where its keys are those of a plan, overrides that a creator may have."""
    value = json.loads(block.text)
    if isinstance(value, dict) and value and value.keys() <= PLAN_FIELDS.keys():
        with_overrides(next(iter(load_plans().values())), value)


def is_yaml(block: Block, folder: Path) -> None:
    assert list(yaml.safe_load_all(block.text))


def is_http(block: Block, folder: Path) -> None:
    """A request or an answer: a first line, headers, and a body that is JSON if the headers say so."""
    head, _, body = block.text.partition("\n\n")
    first, *headers = head.strip().splitlines()
    answer = _RESPONSE.fullmatch(first)
    assert answer or _REQUEST.fullmatch(first), first
    if answer:
        assert HTTPStatus(int(answer[1])).phrase == answer[2]
    assert [line for line in headers if not _HEADER.fullmatch(line)] == []
    if "application/json" in head.lower() and body.strip() not in ("", "..."):
        json.loads(body)


def is_settings(block: Block, folder: Path) -> None:
    """Lines of `GATEWAY_...=`, all of which there are."""
    known = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    named = _SETTING.findall(block.text)
    assert named
    assert set(named) <= known


def is_a_figure(block: Block, folder: Path) -> None:
    """Has a row in `FIGURES`, unless it shows what a program prints."""
    if block.place in shown_below_programs():
        return
    (check,) = [
        check for (page, start), check in FIGURES.items() if block.page == page and block.text.startswith(start)
    ] or [_unknown]
    check(block)


def _unknown(block: Block) -> None:
    raise AssertionError(f"{block.place}: nothing says what this block is: {block.text[:80]!r}")


_READ: Mapping[str, Callable[[Block, Path], None]] = {
    "toml": is_fragment,
    "json": is_json,
    "yaml": is_yaml,
    "http": is_http,
    "ini": is_settings,
    "env": is_settings,
    "": is_a_figure,
    "text": is_a_figure,
}


@pytest.mark.parametrize("page", pages())
def test_every_block_is_of_a_kind_that_is_tested(page: str) -> None:
    assert [
        f"{block.place} {block.language!r}" for block in blocks_of(page) if block.language not in {*_RUN, *_READ}
    ] == []


@pytest.mark.parametrize(
    "block", [block for block in blocks() if block.language in _READ], ids=lambda block: f"{block.page}-{block.line}"
)
def test_a_block_that_is_not_run_says_what_the_gateway_takes(block: Block, tmp_path: Path) -> None:
    _READ[block.language](block, tmp_path)


@pytest.mark.parametrize("page", pages())
def test_every_gateway_command_in_a_sentence_exists_and_takes_its_options(page: str) -> None:
    assert [fault for code in codes(page) for fault in faults_of_gateway_commands(code)] == []


def codes(page: str) -> list[str]:
    """`gateway ...` between backticks, outside of blocks; `a|b` stands for either."""
    text = (REPOSITORY / page).read_text()
    prose = re.sub(r"(?ms)^\s*```.*?^\s*```", "", text)
    written = re.findall(r"`((?:[A-Z_]+=\S+ )*gateway [^`]+)`", prose)
    return [code for one in written for code in _alternatives(" ".join(one.replace("\\|", "|").split()))]


def _alternatives(code: str) -> list[str]:
    words = code.split(" ")
    choice = next((word for word in words if re.fullmatch(r"[a-z-]+(\|[a-z-]+)+", word)), None)
    return [code.replace(choice, word, 1) for word in choice.split("|")] if choice else [code]


# The search and the checks themselves


def test_the_search_finds_what_is_there() -> None:
    assert "README.md" in pages_to_read()
    assert {"docs/notices.md", "docs/providers.md", "docs/repeats.md"} <= set(pages_to_read())
    assert {"console", "python", "js", "toml", "json", ""} <= {block.language for block in blocks()}
    assert len(codes("README.md")) > 10


def test_words_to_choose_from_are_all_looked_at() -> None:
    assert _alternatives("gateway a b|c-d --x") == ["gateway a b --x", "gateway a c-d --x"]
    assert {"gateway ledger verify", "gateway ledger costs"} <= set(codes("README.md"))


def test_figures_are_still_shown() -> None:
    starts = {(block.page, start) for block in blocks() for _, start in FIGURES if block.text.startswith(start)}
    assert starts == FIGURES.keys()


def test_every_command_that_is_not_run_has_a_reason() -> None:
    assert all(row.reason for row in ELSEWHERE)
    assert elsewhere("docker run gateway")
    assert elsewhere("gateway ledger list") is None
    assert elsewhere("make run") is None


@pytest.mark.parametrize(
    "command",
    [
        "gateway legder list",
        ".venv/bin/gateway ledger lst",
        "gateway serve --wrokers 4",
        "A=b gateway credits grant default 100 --notes welcome",
        "true && gateway db bakcup",
    ],
)
def test_a_mistyped_command_is_a_fault(command: str) -> None:
    assert len(faults_of_gateway_commands(command)) == 1


@pytest.mark.parametrize(
    "command",
    [
        "docker run --publish 8000:9 gateway",
        "make tset",
        'pip install "llm-gateway[postgre]"',
        "helm install deploy/hlem",
    ],
)
def test_what_is_not_run_is_held_against_the_repository(command: str) -> None:
    known = {"make tset": "make"}
    rows = [row for row in ELSEWHERE if row.has(command) or known.get(command, "\0") in row.pattern]
    assert rows[0].check(command)


@pytest.mark.parametrize(
    "text", ["[models.x]\nprice = 1", "[plans.team]\nquota_usd_per_month = -1", "[settings]\na = 1", "a ="]
)
def test_a_fragment_that_the_gateway_does_not_take_is_a_fault(text: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, AssertionError, tomllib.TOMLDecodeError)):
        load_fragment(text, tmp_path)


def test_a_session_is_split_into_commands_and_what_they_show() -> None:
    (block,) = blocks_of("x", "```console\n$ a 'b\nc'\nd\n$ e \\\n  f\n$ g\n\n```\n")
    assert block.commands == [("a 'b\nc'", "d\n"), ("e \\\n  f", ""), ("g", "\n")]


def test_a_list_of_commands_shows_nothing() -> None:
    (block,) = blocks_of("x", "```console\n# first\na\nb   # why\n```\n")
    assert block.commands == [("a", ""), ("b   # why", "")]


def test_a_program_goes_on_from_those_whose_names_it_uses() -> None:
    text = "## S\n```python\nx = 1\n```\n\n```python\nprint(x)  # 1\n```\n\n```\n1\n```\n\n```python\ny = 2\n```\n"
    first, second, third = steps_of(blocks_of("x", text))
    assert (first.before, second.before, third.before) == ((), (first.block,), ())
    assert second.output
    assert (second.output.text, second.block.said, second.block.says_all) == ("1\n", ["1"], True)


def test_a_block_that_is_never_closed_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="x:1"):
        blocks_of("x", "```console\n$ a\n")
