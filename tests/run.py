"""`python -m tests.run [--coverage] [pytest arguments]`: every test, in two processes.

It makes the client environments, and brings the servers, when the chosen tests may need them; the tests start their
gateways, upstreams and servers themselves. What cannot be made fails the tests that want it and no other.
Exits with pytest's code. With `--coverage` the lines are counted that ran, in the gateways' own processes too, which takes
a third longer; the report is printed whatever the code is.
"""

import subprocess
import sys

from tests.clients import environments
from tests.rig.environment import REPOSITORY
from tests.servers import provision

_PROCESSES = ["-n", "2", "--dist", "worksteal"]


def main(arguments: list[str]) -> int:
    is_counting = "--coverage" in arguments
    arguments = [argument for argument in arguments if argument != "--coverage"]
    if environments.are_needed(arguments):
        environments.main()
    if provision.are_needed(arguments):
        provision.main()
    chosen = any(argument.startswith(("-n", "--numprocesses", "--dist", "--pdb")) for argument in arguments)
    command = ["-m", "pytest", *([] if chosen else _PROCESSES), *arguments]
    if not is_counting:
        return _python(*command)
    _coverage("erase")
    code = _coverage("run", *command)
    _coverage("combine", "--quiet")
    _coverage("report")
    return code


def _coverage(*arguments: str) -> int:
    return _python("-m", "coverage", *arguments)


def _python(*arguments: str) -> int:
    return subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
