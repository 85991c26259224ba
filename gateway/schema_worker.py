"""`python -m gateway.schema_worker`: checks JSON values against JSON Schemas, in a process that may be killed.

Schemas come from callers, and a small one can take for ever to check: alternatives inside alternatives double the work
with every level of the value. So it happens here, where `gateway.schema_checker` ends whatever takes too long, and where
memory and processor time have a limit of their own. References are followed inside a schema only and patterns have no
backtracking, so that nothing is fetched.

A job is a line of JSON on standard input, its answer a line on standard output; the first line says that it is ready.
"""

import resource
import signal
import sys
from typing import Any

import orjson
from jsonschema_rs import RegexOptions, ValidationError, Validator, validator_for

__all__ = ["FLAWS_MAX", "FLAW_CHARS_MAX", "READY"]

READY = b"ready\n"
FLAWS_MAX = 5
"""Told of one value."""
FLAW_CHARS_MAX = 300
_REGEX_BYTES_MAX = 2**20
"""Of one compiled pattern."""
_MEMORY_BYTES_MAX = 1024 * 2**20
_CPU_S = 5.0
"""Processor time of one job: more than anybody waits for it."""
_KEPT_MAX = 64
"""Compiled schemas: callers send the same ones again and again."""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES_MAX, _MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kept: dict[bytes, Validator] = {}
    answers = sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    # Without a handler of Python's: the process ends in the middle of whatever it does, also where nobody kills it.
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_VIRTUAL, _CPU_S)
        answers.write(orjson.dumps(_done(orjson.loads(line), kept)) + b"\n")
        answers.flush()


def _done(job: dict[str, Any], kept: dict[bytes, Validator]) -> dict[str, Any]:
    """`{"flaws": [[...], ...]}`, one list a value; `{"unsound": true}` for what is no schema."""
    key = orjson.dumps(job["schema"])
    try:
        if (validator := kept.get(key)) is None:
            options = RegexOptions(size_limit=_REGEX_BYTES_MAX)
            validator = validator_for(job["schema"], offline=True, pattern_options=options)
            if len(kept) >= _KEPT_MAX:
                kept.clear()
            kept[key] = validator
    except (ValidationError, ValueError):
        return {"unsound": True}
    return {"flaws": [_flaws(validator, value) for value in job["values"]]}


def _flaws(validator: Validator, value: Any) -> list[str]:
    found: list[str] = []
    for error in validator.iter_errors(value):
        place = "/".join(str(part) for part in error.instance_path) or "the top level"
        found.append(f"at {place}: {error.message}"[:FLAW_CHARS_MAX])
        if len(found) == FLAWS_MAX:
            break
    return found


if __name__ == "__main__":
    main()
