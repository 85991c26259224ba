"""Every file of examples/ is run as it stands against a gateway with the packaged catalog, and prints what its head says."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.catalog import packaged_catalog
from gateway.plans import packaged_plans
from tests.clients import environments
from tests.clients.node_process import scripts
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.gateway import Gateway, free_port
from tests.rig.upstream import Upstream
from tests.rig.waiting import PATIENCE_S, eventually
from tests.rig.warm import warm_command

EXAMPLES = REPOSITORY / "examples"
README = (EXAMPLES / "README.md").read_text()
WITHIN_S = 90.0
"""Bound on hanging: some libraries take many seconds to import."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that leads to nobody: an example reaches the gateway and nothing else."""
FAMILIES = {
    **dict.fromkeys(("agents_run.py", "anthropic_messages.py", "langchain_chat.py", "pydantic_ai_agent.py"), "openai3"),
    "instructor_typed.py": "openai2",
    "litellm_client.py": "litellm",
    "webhook_receiver.py": "litellm",
}
"""The environment of those that are not openai's own; `litellm` is the one with the gateway's dependencies."""
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SERVER = "webhook_receiver.py"
ENDING = sorted(
    path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".mjs", ".sh") and path.name != SERVER
)


def head(name: str) -> list[str]:
    """The comment or docstring a file begins with, without its signs."""
    text = (EXAMPLES / name).read_text()
    if name.endswith(".py"):
        return text.split('"""')[1].splitlines()
    sign = "//" if name.endswith(".mjs") else "#"
    lines = [line for line in text.splitlines() if not line.startswith("#!")]
    ended = next(number for number, line in enumerate(lines) if not line.startswith(sign))
    return [line.removeprefix(sign).removeprefix(" ") for line in lines[:ended]]


def promised(name: str) -> list[str]:
    """What the head says that it prints: the indented lines after `Prints:`."""
    lines = head(name)
    begin = next(number for number, line in enumerate(lines) if line.rstrip().endswith("Prints:"))
    return [line.removeprefix("    ") for line in lines[begin + 1 :] if line.startswith("    ")]


@pytest.fixture(scope="module")
def webhook_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def fresh(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, webhook_port: int) -> Iterator[Gateway]:
    """As `make run` starts it, but for its notices."""
    settings = {
        "PRICING_FILE": packaged_catalog(),
        "PLANS_FILE": packaged_plans(),
        "WEBHOOK_URL": f"http://127.0.0.1:{webhook_port}/",
        "WEBHOOK_SECRET": SECRET,
    }
    gateway = Gateway(tmp_path_factory.mktemp("examples"), upstream, settings=settings)
    try:
        yield gateway.start()
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def beside_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Node's packages, because Node looks for them above a script."""
    return scripts(tmp_path_factory.mktemp("examples-node"))


def environment(gateway: Gateway, **more: str) -> dict[str, str]:
    """What a reader exports, and proxies that lead nowhere."""
    proxies = {
        name: NOWHERE for proxy in ("http", "https", "all") for name in (f"{proxy}_proxy", f"{proxy}_PROXY".upper())
    }
    local = dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1")
    key = gateway.new_key(plan="free").key
    told = {"GATEWAY_URL": gateway.url, "GATEWAY_KEY": key, "GATEWAY_ADMIN_KEY": gateway.admin_key}
    return {**inherited(), **proxies, **local, **told, **more}


def command(name: str, packages: Path) -> list[str]:
    if name.endswith(".sh"):
        return ["sh", str(EXAMPLES / name)]
    if name.endswith(".mjs"):
        (packages / name).write_bytes((EXAMPLES / name).read_bytes())
        return [str(environments.node()), "--import", str(packages / "only_local.mjs"), str(packages / name)]
    family = FAMILIES.get(name, "openai3")
    python = environments.python_of(family)
    if family == "openai3":
        return warm_command(python, EXAMPLES / name)
    return [str(python), str(EXAMPLES / name)]


@pytest.mark.parametrize("name", ENDING)
def test_an_example_prints_what_its_head_says(fresh: Gateway, beside_packages: Path, name: str) -> None:
    done = subprocess.run(
        command(name, beside_packages),
        cwd=REPOSITORY,
        env=environment(fresh),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.splitlines()] == promised(name)
    assert "foreign connection" not in done.stderr


def test_the_receiver_believes_what_is_signed_and_nothing_else(
    fresh: Gateway, beside_packages: Path, webhook_port: int, tmp_path: Path
) -> None:
    told = environment(fresh, WEBHOOK_SECRET=SECRET, RECEIVER_PORT=str(webhook_port))
    output = tmp_path / "stdout"
    with output.open("w") as stdout:
        process = subprocess.Popen(command(SERVER, beside_packages), env=told, stdout=stdout, stdin=subprocess.DEVNULL)
    try:
        forged = eventually(lambda: posted(webhook_port), "the receiver", WITHIN_S)
        assert forged.status_code == 401
        fresh.admin_json("POST", "/admin/notices/test")
        eventually(lambda: len(output.read_text().splitlines()) > 1, "the notice", PATIENCE_S)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    assert output.read_text().splitlines() == promised(SERVER)


def posted(port: int) -> httpx.Response | None:
    """The answer to a forged notice, once somebody listens."""
    try:
        with httpx.Client(trust_env=False) as client:
            return client.post(f"http://127.0.0.1:{port}/", json={"type": "test", "data": {"message": "believe me"}})
    except httpx.TransportError:
        return None


def test_every_example_is_in_the_list_and_says_how_to_run_it() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert files == {*ENDING, SERVER}, "a kind of file that no test runs"
    assert set(re.findall(r"^\| \[([^\]]+)\]\(\1\) \| \S", README, re.MULTILINE)) == files
    for name in files:
        assert f"examples/{name}" in "\n".join(head(name))
        assert promised(name)
    assert set(FAMILIES) <= files
