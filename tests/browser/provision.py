"""`python -m tests.browser.provision`: the Chromium that tests drive, the fonts it writes with, and axe-core.

All of them are npm packages, which `package-lock.json` names by hash: installed by the Node of `tests.clients`, unpacked
below `.venv-browser/`. No account or right is needed, nor any library or font of the machine.

- `@sparticuz/chromium` (MIT; Chromium BSD-3-Clause): a headless shell for Linux on x86-64, 67 MB, 209 MB unpacked, with the
  few libraries and the font that a bare machine lacks, each compressed by Brotli (package 153.0.0, 2026-11-21).
- `dejavu-fonts-ttf` (Bitstream Vera's licence): letters of a fixed width, and the scripts that the font above lacks.
- `axe-core` (MPL-2.0): the rules that accessibility is measured by.

Pages look the same wherever they are drawn: only these fonts are seen. Where the program cannot run, on ARM64 or with
another C library, the machine's own Chromium on `PATH` is taken when it is recent enough (`OLDEST`), with the machine's
fonts; `TEST_SERVERS=locked` forbids that.

As in `tests.servers.provision`, tests only ask for what is there, and a second call costs nothing until the lock changes.
"""

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.bringing import NotMade, are_chosen, run
from tests.clients.environments import environments
from tests.rig.environment import REPOSITORY, inherited

HERE = Path(__file__).resolve().parent
ROOT = REPOSITORY / ".venv-browser"
COMMAND = "python -m tests.browser.provision"
OLDEST = 130
"""Oldest acceptable major version of the machine's own Chromium."""

_USERS = (HERE,)
_NPM_FILES = ("package.json", "package-lock.json")
_STAMP = "made-from"
_OWN = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PROBE_WITHIN_S = 30.0
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>{folder}</dir>
  <cachedir>{folder}/cache</cachedir>
  <alias binding="same"><family>system-ui</family><prefer><family>Open Sans</family></prefer></alias>
  <alias binding="same"><family>sans-serif</family><prefer><family>Open Sans</family></prefer></alias>
  <alias binding="same"><family>serif</family><prefer><family>DejaVu Serif</family></prefer></alias>
  <alias binding="same"><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


@dataclass(frozen=True)
class Chromium:
    """A program, and what its environment must say for it to run."""

    program: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def major(self) -> int:
        """Of its version; 0 where it does not start."""
        return major_of(self.program, self.environment)


@dataclass(frozen=True)
class Packages:
    """What is unpacked from the locked packages."""

    root: Path = ROOT
    source: Path = HERE

    @property
    def folder(self) -> Path:
        return self.root / "programs"

    @property
    def is_ready(self) -> bool:
        return self._stamp.is_file() and self._stamp.read_text() == self._digest()

    @property
    def chromium(self) -> Chromium:
        libraries = {"LD_LIBRARY_PATH": str(self.folder / "lib"), "FONTCONFIG_FILE": str(self._font_settings)}
        return Chromium(self.folder / "chromium", libraries)

    @property
    def axe(self) -> Path:
        return self.folder / "axe.min.js"

    @property
    def _stamp(self) -> Path:
        return self.folder / _STAMP

    @property
    def _fonts(self) -> Path:
        return self.folder / "fonts"

    @property
    def _font_settings(self) -> Path:
        return self.folder / "fonts.conf"

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{platform.machine()} {self.root}".encode())
        for name in (*_NPM_FILES, Path(__file__).name):
            digest.update((self.source / name).read_bytes())
        return digest.hexdigest()

    def make(self) -> None:
        """Unpacks what the lock names, unless that was done. Raises `NotMade`; a process that comes second waits."""
        if self.is_ready:
            return
        with self._locked():
            if not self.is_ready:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._unpack(self._installed())
                self._stamp.write_text(self._digest())

    def require(self) -> "Packages":
        """Itself. Raises `NotMade` where it is not ready."""
        if not self.is_ready:
            raise NotMade(f"The browser is missing or older than its lock. Bring it: {COMMAND}")
        return self

    def _installed(self) -> Path:
        """The folder of packages, as npm makes it."""
        npm_folder = self.root / "npm"
        shutil.rmtree(npm_folder, ignore_errors=True)
        npm_folder.mkdir()
        for name in _NPM_FILES:
            shutil.copy(self.source / name, npm_folder)
        node = _node()
        npm = node.parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
        run([str(node), str(npm), "ci", *flags], cwd=npm_folder)
        return npm_folder / "node_modules"

    def _unpack(self, packages: Path) -> None:
        """The archives hold `lib/`, and `fonts/` beside settings that are not used."""
        compressed = packages / "@sparticuz/chromium/bin"
        self._fonts.mkdir(parents=True)
        archives = {"al2023.tar.br": self.folder, "fonts.tar.br": self.folder}
        program = self.folder / "chromium"
        targets = {"chromium.br": program, **{name: self.folder / name.removesuffix(".br") for name in archives}}
        pairs = [str(path) for name, target in targets.items() for path in (compressed / name, target)]
        run([str(_node()), str(HERE / "unpack.mjs"), *pairs])
        program.chmod(0o755)
        for name, folder in archives.items():
            with tarfile.open(targets[name]) as archive:
                archive.extractall(folder, filter="data")
            targets[name].unlink()
        for font in sorted((packages / "dejavu-fonts-ttf/ttf").glob("*.ttf")):
            shutil.copy(font, self._fonts)
        self._font_settings.write_text(_FONTS.format(folder=self._fonts))
        shutil.copy(packages / "axe-core/axe.min.js", self.axe)
        shutil.rmtree(packages.parent)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / ".gitignore").write_text("*\n")
        with (self.root / "programs.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@cache
def chromium() -> Chromium:
    """The browser to drive. Raises `NotMade`."""
    locked = Packages().require().chromium
    return locked if locked.major else _own()


def axe_script() -> str:
    """The text of axe-core. Raises `NotMade`."""
    return Packages().require().axe.read_text()


def prepare() -> list[str]:
    """Brings what is not here yet; a text for whatever went wrong."""
    try:
        Packages().make()
        chromium()
    except NotMade as problem:
        return [f"browser: {problem}"]
    return []


def are_needed(pytest_arguments: Sequence[str]) -> bool:
    """Whether the chosen tests may drive a browser: nothing named on the command line chooses every test."""
    return are_chosen(pytest_arguments, _USERS)


def major_of(program: Path, environment: dict[str, str]) -> int:
    """The number before the first dot of the version, or 0 where it prints none."""
    try:
        done = subprocess.run(
            [program, "--version"],
            env={**inherited(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"(\d+)\.\d+\.\d+", done.stdout)
    return int(found[1]) if found else 0


def _own() -> Chromium:
    """The machine's. Raises `NotMade`."""
    if inherited().get("TEST_SERVERS") != "locked":
        for path in filter(None, map(shutil.which, _OWN)):
            if (own := Chromium(Path(path))).major >= OLDEST:
                return own
    raise NotMade(f"The locked Chromium does not run here, and there is no Chromium {OLDEST} or newer on PATH")


@cache
def _node() -> Path:
    """The Node of the client environments, made where it is missing; its real path."""
    [environment] = [found for found in environments() if found.name == "node"]
    environment.make()
    return (environment.folder / "bin" / "node").resolve()


def main() -> int:
    problems = prepare()
    for problem in problems:
        print(problem, file=sys.stderr)
    return len(problems)


if __name__ == "__main__":
    sys.exit(main())
