"""The peers: nginx as a plain reverse proxy (about what the machine can do) and LiteLLM's proxy.

nginx checks no key, counts nothing and writes nothing. LiteLLM runs with a master key and without a database, so it
keeps no ledger; it is given everything that makes it quick: httptools, uvloop, the OpenTelemetry packages it looks
for, compiled modules. Both are installed into `build/`, never into the system.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.machine import BUILD, HERE, environment
from benchmarks.targets.base import MODELS, Target, Unavailable

_INSTALL_TIMEOUT_S = 1200


class Nginx(Target):
    name = "nginx"

    def start(self) -> None:
        program = _find_nginx()
        shown = subprocess.run([program, "-v"], capture_output=True, text=True)
        if shown.returncode != 0:
            raise Unavailable(f"{program} does not run: {shown.stderr.strip()}")
        self.version = shown.stderr.strip().rpartition("/")[2]
        prefix = self.folder / "nginx"
        prefix.mkdir()
        template = (HERE / "nginx.conf").read_text()
        config = template.replace("@PORT@", str(self.port)).replace("@UPSTREAM_PORT@", str(self.upstream_port))
        (prefix / "nginx.conf").write_text(config)
        self._launch([program, "-p", str(prefix), "-c", "nginx.conf", "-e", "error.log"], None, {})


def _find_nginx() -> str:
    """The system's nginx, or the distribution's package unpacked into `build/`. Raises `Unavailable`."""
    unpacked = BUILD / "nginx"
    for candidate in (shutil.which("nginx"), "/usr/sbin/nginx", str(unpacked / "usr/sbin/nginx")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Unavailable("nginx is not installed, and there is no apt-get to fetch it")
    downloads = BUILD / "downloads"
    downloads.mkdir(exist_ok=True)
    fetched = subprocess.run(
        ["apt-get", "download", "--quiet", "nginx"], cwd=downloads, capture_output=True, text=True, timeout=120
    )
    packages = sorted(downloads.glob("nginx_*.deb"))
    if fetched.returncode != 0 or not packages:
        raise Unavailable(
            f"nginx is not installed, and `apt-get download nginx` failed: {fetched.stderr.strip()[-200:]}"
        )
    subprocess.run(["dpkg-deb", "-x", str(packages[-1]), str(unpacked)], check=True, timeout=60)
    return str(unpacked / "usr/sbin/nginx")


class LiteLLM(Target):
    name = "litellm"
    key = "sk-benchmark-litellm"
    streams_max = 500  # at 2 000 none finishes, and the backlog outlives the run

    def start(self) -> None:
        python = _install_litellm()
        shown = "import importlib.metadata as m; print(m.version('litellm'))"
        self.version = subprocess.run([python, "-c", shown], capture_output=True, text=True, check=True).stdout.strip()
        config = self.folder / "litellm.json"  # JSON is YAML
        config.write_text(json.dumps(self._config()))
        program = str(python.parent / "litellm")
        arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        self._launch([program, *arguments, "--telemetry", "False"], "/health/liveliness", _LITELLM_ENV)

    def _config(self) -> dict[str, object]:
        base = f"http://127.0.0.1:{self.upstream_port}/v1"
        rows = [
            {
                "model_name": model,
                "litellm_params": {"model": f"openai/{model}", "api_base": base, "api_key": "sk-upstream"},
            }
            for model in MODELS
        ]
        settings = {"num_retries": 0, "request_timeout": 120, "telemetry": False}
        return {"model_list": rows, "litellm_settings": settings, "general_settings": {"master_key": self.key}}


_LITELLM_ENV = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it fetches its price map when it starts
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOG": "ERROR",
    "NO_DOCS": "True",
}


def _install_litellm() -> Path:
    """The Python of a venv that holds exactly `litellm.lock`. Raises `Unavailable`."""
    venv, lock = BUILD / "litellm", HERE / "litellm.lock"
    python, stamp = venv / "bin" / "python", venv / "installed.sha256"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print("installing LiteLLM's proxy into benchmarks/build/litellm, once ...", file=sys.stderr, flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        [*pip, "install", "--quiet", "--no-deps", "--require-hashes", "--requirement", str(lock)],
        # Modules that are not compiled are compiled again at each start, some in each request. A package may ship
        # a template that is not valid Python: compileall then ends with 1 and has compiled the rest.
        [str(python), "-m", "compileall", "-q", str(venv / "lib")],
    ]
    for step in steps:
        done = subprocess.run(step, env=environment({}), capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
        if done.returncode != 0 and "compileall" not in step:
            raise Unavailable(f"LiteLLM could not be installed: {done.stderr.strip()[-300:]}")
    stamp.write_text(wanted)
    return python
