"""`python -m tests.run [--coverage] [pytest arguments]`: every test, in one process more than the machine has cores.

It makes the client environments, and brings the servers, the browser and, where it can be had, promtool, when the chosen tests may
need them; the tests start their gateways, upstreams and servers themselves. What cannot be made fails the tests that want it and no
other; without promtool, the tests look with other eyes.
Exits with pytest's code. A few tests that failed are run again, one after the other and with nothing beside them: these
machines pause for seconds at a time, which no deadline of a test allows for. What passes then is named as such. With `--coverage` the lines are counted that ran, in the gateways' own processes too, which takes
a third longer; the report is printed whatever the code is.
"""

import json
import os
import subprocess
import sys

from tests.browser import provision as browser
from tests.clients import environments
from tests.monitoring import provision as monitoring
from tests.rig.environment import REPOSITORY, inherited
from tests.servers import provision

_CORES_MAX = 7
_PROCESSES = ["-n", str(min(os.cpu_count() or 1, _CORES_MAX) + 1), "--dist", "worksteal"]
"""One more than cores: there is always a test that waits."""
_AGAIN_MAX = 10
"""More failures than this are no accident."""
_LAST_FAILED = REPOSITORY / ".pytest_cache" / "v" / "cache" / "lastfailed"
_FAILED = 1


def main(arguments: list[str]) -> int:
    is_counting = "--coverage" in arguments
    arguments = [argument for argument in arguments if argument != "--coverage"]
    if environments.are_needed(arguments):
        environments.main()
    if provision.are_needed(arguments):
        provision.main()
    if browser.are_needed(arguments):
        browser.main()
    if monitoring.are_needed(arguments):
        for problem in monitoring.prepare():
            print(problem, flush=True)
    chosen = any(argument.startswith(("-n", "--numprocesses", "--dist", "--pdb")) for argument in arguments)
    command = ["-m", "pytest", *([] if chosen else _PROCESSES), *arguments]
    if not is_counting:
        code = _python(*command)
        return code if chosen or code != _FAILED else _again(code, arguments)
    _coverage("erase")
    code = _coverage("run", *command)
    _coverage("combine", "--quiet")
    _coverage("report")
    return code


def _again(code: int, arguments: list[str]) -> int:
    """The few tests that failed, once more, alone; else the code of the first run."""
    try:
        failed = sorted(json.loads(_LAST_FAILED.read_text()))
    except (OSError, ValueError):
        return code
    if not 0 < len(failed) <= _AGAIN_MAX:
        return code
    print("Failed beside others, and run again alone:", *failed, sep="\n  ", flush=True)
    return _python("-m", "pytest", "--last-failed", "-n", "0", *arguments)


def _coverage(*arguments: str) -> int:
    return _python("-m", "coverage", *arguments)


def _python(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, env=inherited(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
