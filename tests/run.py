"""`python -m tests.run [pytest arguments]`: every test, in two processes, with coverage of the gateway's own processes.

It makes the client environments, and brings the servers, when the chosen tests may need them; the tests start their
gateways, upstreams and servers themselves. What cannot be made fails the tests that want it and no other.
Exits with pytest's code; the coverage report is printed whatever it is.
"""

import subprocess
import sys

from tests.clients import environments
from tests.rig.environment import REPOSITORY
from tests.servers import provision

_PROCESSES = ["-n", "2", "--dist", "worksteal"]


def main(arguments: list[str]) -> int:
    if environments.are_needed(arguments):
        environments.main()
    if provision.are_needed(arguments):
        provision.main()
    _coverage("erase")
    chosen = any(argument.startswith(("-n", "--numprocesses", "--dist", "--pdb")) for argument in arguments)
    code = _coverage("run", "-m", "pytest", *([] if chosen else _PROCESSES), *arguments)
    _coverage("combine", "--quiet")
    _coverage("report")
    return code


def _coverage(*arguments: str) -> int:
    command = [sys.executable, "-m", "coverage", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
