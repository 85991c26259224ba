"""Strict reading of TOML: each fault at its own line, whatever the file looks like."""

from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.toml_file import Table, TomlFile


def opened(folder: Path, text: str) -> tuple[TomlFile, Table]:
    path = folder / "some.toml"
    path.write_text(text)
    file = TomlFile(path)
    return file, Table(file, (), file.data)


def report(file: TomlFile) -> str:
    with pytest.raises(ConfigError) as raised:
        file.finish()
    return str(raised.value).replace(f"{file.path}:", "")


def test_a_file_without_a_fault_passes(tmp_path: Path) -> None:
    file, root = opened(tmp_path, 'name = "x"\nmoney = 0.1\nflag = true\ncount = 3\n')
    assert (root.text("name"), root.decimal("money", scale=9, at_most=1)) == ("x", 10**8)
    assert (root.flag("flag", default=False), root.count("count", at_least=0, at_most=3)) == (True, 3)
    assert (root.count("none", at_least=1, at_most=2), root.decimal("none", scale=9, at_most=1)) == (None, None)
    file.finish()


@pytest.mark.parametrize(
    ("text", "where", "line"),
    [
        pytest.param("a = 1\nb = 2\n", ("b",), 2, id="key"),
        pytest.param("a = 1\n[t]\nb = 2\n", ("t",), 2, id="table"),
        pytest.param("\n[t.u]\nb = 2\n", ("t", "u", "b"), 3, id="key of a nested table"),
        pytest.param("\n[t.u]\nb = 2\n", ("t",), 2, id="a table that is only implied"),
        pytest.param("x = 1\n[t]\nb = 2\n", ("t", "missing"), 2, id="what is missing is at its table"),
        pytest.param("x = 1\nt.u.b = 2\n", ("t", "u", "b"), 2, id="dotted key"),
        pytest.param("x = 1\nt = { b = 2 }\n", ("t", "b"), 2, id="inside an inline table"),
        pytest.param('x = [\n  "b=1",\n  "c",\n]\nb = 2\n', ("b",), 5, id="after a list with equals signs"),
        pytest.param("[[t]]\nb = 1\n[u]\nb = 2\n", ("u", "b"), 4, id="after a list of tables"),
        pytest.param('x = """\nb = 1\n[t]\n"""\nb = 2\n', ("b",), 5, id="after a long string"),
        pytest.param("x = '''\nb = 1\n'''\nb = 2\n", ("b",), 4, id="after a long literal string"),
        pytest.param("'a=b' = 1\n\"c#\" = 2 # c\n", ("c#",), 2, id="quoted keys"),
        pytest.param("a = 1\n", (), 1, id="the file itself"),
        pytest.param("a = 1\n", ("nowhere",), 1, id="nowhere"),
    ],
)
def test_a_fault_is_reported_at_its_line(tmp_path: Path, text: str, where: tuple[str, ...], line: int) -> None:
    file, _ = opened(tmp_path, text)
    file.fault(where, "is odd")
    assert report(file).startswith(f"{line}: ")
    assert report(file).endswith("is odd")


def test_names_from_the_file_cannot_break_the_message(tmp_path: Path) -> None:
    file, _ = opened(tmp_path, "a = 1\n")
    file.fault(("a\nb\x1b[31m", "plain"), "is odd")
    assert report(file) == '1: "a?b?[31m".plain: is odd'


def test_more_tables_than_allowed_are_one_fault(tmp_path: Path) -> None:
    file, root = opened(tmp_path, "[t.a]\n[t.b]\n[t.c]\n")
    assert root.tables("t", count_max=2) == {}
    assert report(file) == "1: t: has 3 entries, at most 2 are allowed"
