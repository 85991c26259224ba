"""What holds of litellm itself inside the gateway: asked of a Python that has it."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.litellm_config.providers import _KNOWN
from tests.clients.environments import python_of
from tests.litellm.parameters import recorded_parameters
from tests.litellm.world import CANVAS, COHERE, COHERE_EMBED, MISTRAL, NOBODY, NOVA, models
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.upstream import Upstream

_WITHIN_S = 60


def asked(question: str, **environment: str) -> Any:
    """The answer of `tests.litellm.inside`."""
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [str(python_of("litellm")), "-m", "tests.litellm.inside", question],
        cwd=REPOSITORY,
        env={**inherited(), **proxies, "RIG_PROVIDER_KEY": "sk-rig", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def library(upstream: Upstream) -> Any:
    before = upstream.connections
    answer = asked("library", CANARY_PORT=str(upstream.port))
    assert upstream.connections == before, "something was sent"
    return answer


def test_every_exception_of_the_library_means_something(library: Any) -> None:
    kinds = library["exceptions"]
    assert len(kinds) > 25
    assert [name for name, kind in kinds.items() if kind is None] == []
    assert kinds["ContextWindowExceededError"] == [400, "invalid_request_error", "context_length_exceeded"]


def test_the_recorded_parameters_are_all_there_are(library: Any) -> None:
    """Or the proof in tests/e2e/test_steering.py would leave some out."""
    assert library["parameters"] == recorded_parameters()


def test_imported_rows_lead_where_the_library_sends_calls(library: Any) -> None:
    """Ours may be another path of the same host: DeepSeek's stable one, and Ollama's of OpenAI's shape."""
    told = {name: urlsplit(url.replace("localhost", "127.0.0.1")) for name, url in library["addresses"].items() if url}
    ours = {name: urlsplit(_KNOWN[name].base_url) for name in told}
    assert len(told) > 7
    assert {name: (url.scheme, url.netloc) for name, url in ours.items()} == {
        name: (url.scheme, url.netloc) for name, url in told.items()
    }
    assert {name for name in told if ours[name].path != told[name].path} <= {"deepseek", "ollama", "ollama_chat"}


def test_the_library_reports_caches_counts_and_logs_nothing(library: Any) -> None:
    assert library["settings"] == {"different": {}, "loud": [], "has_unknown_callbacks": False}


def test_no_client_of_the_library_sends_anything_outside_a_call(library: Any) -> None:
    assert library["outside"] == ["Blocked"] * 7


@pytest.mark.parametrize("key", ["sk-rig", ""])
def test_serving_loads_nothing_of_the_library(upstream: Upstream, key: str) -> None:
    """Installed, configured and with a key: it is loaded when it is first called."""
    before = upstream.connections
    state = asked("start", CATALOG='version = "1"\n' + models(upstream), RIG_PROVIDER_KEY=key)
    assert state["active"] == (sorted([NOVA, MISTRAL, COHERE, COHERE_EMBED, CANVAS, NOBODY]) if key else [])
    assert state["loaded"] == []
    assert upstream.connections == before


def locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE))


def test_the_environment_holds_the_gateways_own_dependencies_at_its_own_versions() -> None:
    here = locked(REPOSITORY / "tests" / "clients" / "python" / "litellm" / "requirements.lock")
    ours = locked(REPOSITORY / "requirements.lock")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^A-Za-z0-9-]", dependency)[0].lower() for dependency in project["dependencies"]}
    assert {name: here.get(name) for name in names} == {name: ours[name] for name in names}
    assert here["litellm"] not in ("1.82.7", "1.82.8")
