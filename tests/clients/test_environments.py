"""The client environments: when they are made, and that a process in one reaches nothing but this machine."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.clients import environments
from tests.clients.environments import Environment, NotMade
from tests.clients.node_process import NodeHost


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        pytest.param([], True, id="everything"),
        pytest.param(["-x", "-k", "stream"], True, id="no-path"),
        pytest.param(["tests"], True, id="a-folder-above"),
        pytest.param(["tests/clients/test_node_openai.py::test_chat"], True, id="one-of-them"),
        pytest.param(["tests/e2e", "tests/test_chat.py"], False, id="others"),
    ],
)
def test_environments_are_made_only_where_their_tests_may_run(arguments: list[str], needed: bool) -> None:
    assert environments.are_needed(arguments) is needed


def test_every_environment_is_ready() -> None:
    """What the other tests here need; the answer to a failure stands in its message."""
    missing = [environment.name for environment in environments.environments() if not environment.is_ready]
    assert not missing, f"missing or out of date: {missing}. Make them: {environments.COMMAND}"


def test_a_family_without_environment_is_refused_by_name() -> None:
    with pytest.raises(NotMade, match=r"nobody-made-this.*python -m tests.clients.environments"):
        environments.python_of("nobody-made-this")


def test_a_lock_that_changed_makes_its_environment_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made from an empty lock, an environment needs no index at all. Two who make it at once do not get in each other's way."""
    monkeypatch.setattr(environments, "ROOT", tmp_path / "made")
    lock = tmp_path / "requirements.lock"
    lock.write_text("# nothing\n")
    environment = Environment("empty", tmp_path)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: each.make(), [environment, environment]))
    assert environment.is_ready
    assert environment.python.exists()
    lock.write_text("# nothing, and no more\n")
    assert not environment.is_ready


def test_no_lock_names_a_host() -> None:
    locks = [path for environment in environments.environments() for path in environment.locks]
    assert len(locks) > 2
    for lock in locks:
        text = lock.read_text()
        assert "resolved" not in text
        assert "--index-url" not in text
        assert "registry" not in text


def test_a_node_process_reaches_nothing_but_this_machine(node_scripts: Path) -> None:
    host = NodeHost(node_scripts)
    try:
        seen = host.run("host", "fetch", url="http://192.0.2.1/")
        assert seen.error["cause"] == "foreign connection refused: 192.0.2.1"
        seen = host.run("host", "fetch", url="http://nowhere.invalid/")
        assert seen.error["cause"] == "foreign connection refused: nowhere.invalid"
    finally:
        host.close()
