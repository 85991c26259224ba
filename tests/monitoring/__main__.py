"""`python -m tests.monitoring`: every fault of deploy/prometheus and deploy/grafana that can be found; exits with 1 if there is one.

promtool is brought where it is missing (`provision`), and its absence is told, which is no fault of the files.
"""

import sys

from tests.monitoring.checks import all_faults, promtool_faults
from tests.monitoring.provision import Promtool, prepare


def main() -> int:
    for problem in prepare(again=True):
        print(problem)
    program = Promtool().program
    faults = all_faults() + list(promtool_faults(program) if program else ())
    print(*(faults or ["nothing is wrong"]), sep="\n")
    return min(1, len(faults))


if __name__ == "__main__":
    sys.exit(main())
