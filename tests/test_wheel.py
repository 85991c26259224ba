"""The wheel as somebody installs it: the same files, and a gateway out of it serves its pages, texts, plans and prices."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from gateway.dashboard import dashboard_routes
from gateway.plans import load_plans
from tests.rig.environment import REPOSITORY, inherited
from tests.rig.waiting import PATIENCE_S, eventually

WITHIN_S = 120
ADMIN_KEY = "admin-canary-of-the-wheel-0123456789"
STATIC = REPOSITORY / "gateway" / "dashboard" / "static"
TEXTS = sorted(path.stem for path in (REPOSITORY / "docs").glob("*.md"))
_NOT_PAGES = ("/dashboard/export/", "/dashboard/me", "/dashboard/static")
PAGES = sorted(
    route.path
    for route in dashboard_routes()
    if isinstance(route, Route)
    and "GET" in (route.methods or ())
    and "{" not in route.path
    and not route.path.startswith(_NOT_PAGES)
)
"""Those an owner sees that need no name of anything."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would put among the packages. Built by what is locked, with no index."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", *build, "--wheel-dir", str(folder), str(REPOSITORY)], check=True, timeout=WITHIN_S
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder / "packages")
    return folder / "packages"


def environment(installed: Path, data: Path) -> dict[str, str]:
    """Its packages come before the checkout, which the interpreter of the tests knows too."""
    settings = {"DATA_DIR": str(data), "ADMIN_KEY": ADMIN_KEY, "PORT": "0"}
    return {**inherited(), "PYTHONPATH": str(installed), **{f"GATEWAY_{key}": value for key, value in settings.items()}}


@pytest.fixture(scope="module")
def served(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A signed-in owner at a gateway of the wheel, in a folder without a checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    out = folder / "out"
    with out.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve"],
            cwd=folder,
            env=environment(installed, folder / "data"),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
        )
    try:
        served_at = re.compile(r'"base_url":"([^"]+)"')
        (url,) = eventually(lambda: served_at.findall(out.read_text()), "the gateway to serve", 60)
        with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client:
            signed_in = client.post("/dashboard/sign-in", data={"key": ADMIN_KEY}, headers={"origin": url})
            assert signed_in.status_code == 303
            yield client
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def below(folder: Path, names: Mapping[str, Path]) -> set[str]:
    return {
        f"{name}/{path.relative_to(folder / root)}"
        for name, root in names.items()
        for path in (folder / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_the_packages_the_texts_and_the_prices_and_nothing_else(installed: Path) -> None:
    here = below(REPOSITORY, {"gateway": Path("gateway"), "policies": Path("policies")})
    texts = below(REPOSITORY, {"gateway/documentation": Path("docs")})
    there = below(installed, {"gateway": Path("gateway"), "policies": Path("policies")})
    assert there == here | texts | {"gateway/documentation/README.md", "gateway/pricing.toml"}
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"gateway", "policies", "llm_gateway"}


def test_what_is_started_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import gateway, policies; print(gateway.__path__[0], policies.__path__[0])"],
        cwd=tmp_path,
        env=environment(installed, tmp_path),
        capture_output=True,
        text=True,
        check=True,
        timeout=WITHIN_S,
    )
    assert done.stdout.split() == [str(installed / "gateway"), str(installed / "policies")]


@pytest.mark.parametrize("name", ["", "/readme", "/api", "/search?q=cache", *(f"/{name}" for name in TEXTS)])
def test_a_text_is_a_page(name: str, served: httpx.Client) -> None:
    answer = served.get(f"/docs{name}")
    assert answer.status_code == 200
    assert "<h1" in answer.text


def test_pictures_and_the_description_of_the_api_are_there(served: httpx.Client) -> None:
    for image in (REPOSITORY / "docs" / "img").iterdir():
        assert served.get(f"/docs/img/{image.name}").content == image.read_bytes()
    assert served.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_every_static_file_is_served(served: httpx.Client) -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file() and path.suffix in (".css", ".js", ".svg")]
    assert len(files) > 8
    for path in files:
        answer = served.get(f"/dashboard/static/{path.relative_to(STATIC)}")
        assert (answer.status_code, answer.content) == (200, path.read_bytes()), path.name


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_the_dashboard_is_made(path: str, served: httpx.Client) -> None:
    answer = served.get(path, follow_redirects=True)
    assert answer.status_code == 200
    assert "<h1" in answer.text or "/live" in path


def test_plans_and_prices_are_the_packaged_ones(served: httpx.Client) -> None:
    asked = {"authorization": f"Bearer {ADMIN_KEY}"}
    assert set(load_plans()) == {plan["name"] for plan in served.get("/admin/plans", headers=asked).json()["data"]}
    assert "mock-1" in served.get("/admin/models", headers=asked).text
