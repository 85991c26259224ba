"""promtool agrees with the files and refuses damaged ones, where it can be had; and how it is had."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.bringing import NotMade
from tests.monitoring import files, provision
from tests.monitoring.checks import all_faults, promtool_faults
from tests.monitoring.provision import Promtool

_APT = """#!{python}
import pathlib, sys
pathlib.Path({asked!r}).open("a").write(" ".join(sys.argv[1:]) + "\\n")
{body}
"""
_DPKG = """#!{python}
import io, sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
    program = b"#!/bin/sh\\n"
    member = tarfile.TarInfo({member!r})
    member.size = len(program)
    archive.addfile(member, io.BytesIO(program))
"""
_DOWNLOADS = 'pathlib.Path("prometheus_1_all.deb").touch()'
_REFUSES = 'sys.exit("E: Could not resolve the name")'
_HAS_NO_LISTS = """
if "update" in sys.argv:
    pathlib.Path("updated").touch()
elif pathlib.Path("updated").exists():
    pathlib.Path("prometheus_1_all.deb").touch()
else:
    sys.exit("E: Unable to locate package prometheus")
"""
_HANGS = "import time; time.sleep(60)"


class Machine:
    """Programs in a folder, and what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        self._asked = folder / "asked"

    def add(self, name: str, text: str) -> None:
        program = self.programs / name
        program.write_text(text)
        program.chmod(0o755)

    def add_apt(self, body: str, member: str = "./usr/bin/promtool") -> None:
        self.add("apt-get", _APT.format(python=sys.executable, asked=str(self._asked), body=body))
        self.add("dpkg-deb", _DPKG.format(python=sys.executable, member=member))

    def promtool(self, within_s: float = 30.0) -> Promtool:
        return Promtool(root=self.folder / "kept" / "promtool", path=str(self.programs), within_s=within_s)

    @property
    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines() if self._asked.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_promtool_takes_the_rules_their_examples_and_the_scrape(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it cannot be had, what it would have read is read by the other checks, and the output says why."""
    tool = Promtool()
    if tool.program is None:
        with capsys.disabled():
            print(tool.why_not)
        assert all_faults() == []
    else:
        assert list(promtool_faults(tool.program)) == []


@pytest.mark.parametrize(
    ("name", "told", "untold"),
    [
        pytest.param("alerts.yml", "rules:", "rule:", id="field"),
        pytest.param("alerts.yml", "sum by (job)", "sum by job", id="expression"),
        pytest.param("alerts.yml", "| humanizePercentage", "| humanisePercentage", id="function-of-a-text"),
        pytest.param("alerts.yml", "/ 1e9 > 200", "/ 1e9 > 2000", id="threshold"),
        pytest.param("alerts.yml", "for: 1m", "for: 1 m", id="duration"),
        pytest.param("scrape.yaml", "scrape_interval:", "scrape_intervall:", id="scrape"),
    ],
)
def test_promtool_refuses_what_is_damaged(tmp_path: Path, name: str, told: str, untold: str) -> None:
    """A check that says yes to everything is none. Without the program, its answer to a damaged file is not known."""
    for path in (files.ALERTS, files.EXAMPLES, files.SCRAPE):
        shutil.copy(path, tmp_path)
    text = (tmp_path / name).read_text()
    assert told in text
    (tmp_path / name).write_text(text.replace(told, untold))
    tool = Promtool()
    if tool.program is None:
        print(tool.why_not)
    else:
        assert any(promtool_faults(tool.program, tmp_path))


def test_the_machines_own_promtool_is_taken_and_nothing_is_asked_for(machine: Machine) -> None:
    machine.add("promtool", "#!/bin/sh\n")
    machine.add_apt(_DOWNLOADS)
    machine.promtool().make()
    assert machine.promtool().program == machine.programs / "promtool"
    assert machine.asked == []


def test_promtool_alone_is_kept_of_the_package_and_brought_once(machine: Machine) -> None:
    machine.add_apt(_DOWNLOADS)
    tool = machine.promtool()
    assert tool.program is None
    tool.make()
    tool.make()
    assert tool.program == tool.root / "promtool"
    assert [line.split()[-2:] for line in machine.asked] == [["download", "prometheus"]]
    assert {path.name for path in tool.root.iterdir()} == {"lock", "promtool"}


def test_lists_of_our_own_are_made_where_the_machine_has_none(machine: Machine) -> None:
    machine.add_apt(_HAS_NO_LISTS)
    tool = machine.promtool()
    tool.make()
    assert tool.program
    update = machine.asked[1].split()
    assert update[-1] == "update"
    assert f"Dir::State::Lists={tool.root}/package/lists/" in update


def test_a_refusal_is_told_once_a_day_and_not_asked_again_unless_somebody_wants_it(machine: Machine) -> None:
    machine.add_apt(_REFUSES)
    tool = machine.promtool()
    for _ in range(2):
        with pytest.raises(NotMade, match="Could not resolve the name"):
            tool.make()
    assert len(machine.asked) == 2
    assert tool.why_not == "promtool did not run: apt-get could not bring it: E: Could not resolve the name"
    machine.add_apt(_DOWNLOADS)
    tool.make(again=True)
    assert tool.program
    assert not (tool.root / "refused").exists()


def test_an_old_refusal_is_forgotten(machine: Machine) -> None:
    machine.add_apt(_REFUSES)
    tool = machine.promtool()
    with pytest.raises(NotMade):
        tool.make()
    yesterday = time.time() - 2 * 86_400
    os.utime(tool.root / "refused", (yesterday, yesterday))
    machine.add_apt(_DOWNLOADS)
    tool.make()
    assert tool.program


def test_a_machine_without_apt_is_told_so(machine: Machine) -> None:
    with pytest.raises(NotMade, match="no apt"):
        machine.promtool().make()
    assert "no apt" in machine.promtool().why_not


def test_a_mirror_that_never_answers_is_not_waited_for(machine: Machine) -> None:
    machine.add_apt(_HANGS)
    with pytest.raises(NotMade, match="longer than"):
        machine.promtool(within_s=0.5).make()


def test_a_package_without_promtool_brings_nothing(machine: Machine) -> None:
    machine.add_apt(_DOWNLOADS, member="./usr/bin/prometheus")
    with pytest.raises(NotMade, match="has no promtool"):
        machine.promtool().make()
    assert machine.promtool().program is None


def test_before_anybody_brought_it_the_way_is_told(machine: Machine) -> None:
    assert provision.COMMAND in machine.promtool().why_not


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [([], True), (["tests"], True), (["tests/monitoring/test_alerts.py::x"], True), (["tests/policies", "-q"], False)],
)
def test_it_is_brought_for_tests_that_use_it(arguments: list[str], needed: bool) -> None:
    assert provision.are_needed(arguments) is needed
