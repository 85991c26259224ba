"""How processes agree on the way of counting, in every order in which their beats can fall.

A model of a few processes drives the code that decides: each beat is split into the instant at which it reads the table
and the one at which it is committed, and between any two of these anything else may happen: somebody loses Redis or finds
it again, stops taking or begins, joins, is taken for dead, comes back. What must hold in every state:

1. nobody counts in Redis while another counts locally, nor locally for another agreement;
2. whoever counts locally has a share that leaves room for all who do;
3. nobody fills a share anew while another goes on with one of the same agreement;
4. wherever it is left alone, all end up counting in the same way, and that by which they can count.
"""

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import pytest
import structlog

from gateway.instances.shared import SharedInstances, _Other, _Said, _Step

LONG_AGO, NOW = -float("inf"), float("inf")
ROUNDS_MAX = 12
STATES_MAX = 60_000
WALKS, STEPS = 120, 80
LOOKED_FOR_CONVERGENCE = 7
"""Every so many states."""
NAMES = "abc"
NOTHING_SAID = _Said("", 0, "")


class Row(NamedTuple):
    said: _Said
    wants_local: bool
    is_seen: bool


class Beat(NamedTuple):
    """Between what it has read and its commit."""

    said: _Said
    wants_local: bool
    others: tuple[_Other, ...]


class Process(NamedTuple):
    step: _Step = "to_shared"
    round: int = 0
    agreed: str = ""
    said: _Said | None = None
    wants_local: bool = False
    others: tuple[str, ...] = ()
    """Whom it saw when it last looked."""
    has_lapsed: bool = True
    beat: Beat | None = None
    counts: Literal["shared", "stopped", "local"] = "stopped"
    """As of `FallbackCounters`, which follows what was agreed after a moment; and so is all that comes."""
    has_stopped: bool = True
    is_asking: bool = False
    """Redis may have been asked in the way of before. What is answered after it lapsed is not believed."""
    filled_in: int = -1
    """The round of its last share, and for how many it was."""
    filled_for: int = 0


class State(NamedTuple):
    processes: tuple[Process | None, ...]
    """None: it has not joined yet."""
    table: tuple[Row | None, ...]
    changes_left: int
    lapses_left: int


class Broken(AssertionError):
    """One of the rules does not hold."""


class Driver:
    """The real thing, given the state of each process in turn."""

    def __init__(self, count: int) -> None:
        self.reals = [SharedInstances("", NAMES[number]) for number in range(count)]

    def real(self, number: int, process: Process) -> SharedInstances:
        real = self.reals[number]
        real._step, real.round, real._agreed, real._said = process[:4]
        real.wants_local = process.wants_local
        real._others = [_Other(name, NOTHING_SAID, wants_local=False) for name in process.others]
        real.has_stopped = lambda: process.has_stopped
        real._beaten_at = LONG_AGO if process.has_lapsed else NOW
        return real

    def way(self, number: int, process: Process) -> tuple[str, int] | None:
        """In which way it may be taking."""
        counting = self.real(number, process).counting
        if process.has_lapsed:
            return None
        if process.counts == "shared" and (counting == "shared" or process.is_asking):
            return "shared", 0
        if process.counts == "local" and counting == "local" and process.filled_in == process.round:
            return "local", process.round
        return None

    # What can happen

    def next_states(self, state: State) -> Iterator[State]:
        for number, process in enumerate(state.processes):
            if process is None:
                yield self.with_process(state, number, Process())
                continue
            yield from self.followed(state, number, process)
            if process.beat is None:
                yield self.with_process(state, number, self.read(state, number, process))
            else:
                yield self.committed(state, number, process, process.beat)
            if state.changes_left:
                changed = process._replace(wants_local=not process.wants_local)
                yield self.with_process(state, number, changed)._replace(changes_left=state.changes_left - 1)
            yield from self.lapsed(state, number, process)

    def read(self, state: State, number: int, process: Process) -> Process:
        others = tuple(
            _Other(NAMES[other], row.said, row.wants_local)
            for other, row in enumerate(state.table)
            if other != number and row is not None and row.is_seen
        )
        return process._replace(beat=Beat(self.real(number, process)._saying(), process.wants_local, others))

    def committed(self, state: State, number: int, process: Process, beat: Beat) -> State:
        real = self.real(number, process)
        real._others, real._beaten_at = beat.others, NOW
        real._agree(beat.said, had_lapsed=process.has_lapsed)
        process = process._replace(
            step=real._step,
            round=real.round,
            agreed=real._agreed,
            said=real._said,
            others=tuple(other.id for other in beat.others),
            has_lapsed=False,
            beat=None,
        )
        row = Row(beat.said, beat.wants_local, is_seen=True)
        return self.with_process(self.with_row(state, number, row), number, process)

    def followed(self, state: State, number: int, process: Process) -> Iterator[State]:
        """The counters do what was agreed."""
        real = self.real(number, process)
        counting = real.counting
        if counting == "paused":
            if not process.has_stopped or process.counts != "stopped":
                yield self.with_process(
                    state, number, process._replace(counts="stopped", has_stopped=True, is_asking=False)
                )
        elif counting == "shared":
            if process.counts != "shared":
                yield self.with_process(
                    state, number, process._replace(counts="shared", has_stopped=False, is_asking=True)
                )
        elif process.counts != "local" or process.filled_in != process.round:
            self.require_alone_in_filling_again(state, number, process)
            filled = process._replace(counts="local", has_stopped=False, filled_in=process.round, filled_for=real.count)
            yield self.with_process(state, number, filled)

    def lapsed(self, state: State, number: int, process: Process) -> Iterator[State]:
        row = state.table[number]
        if process.has_lapsed:
            if row is not None and row.is_seen:
                yield self.with_row(state, number, row._replace(is_seen=False))
        elif state.lapses_left:
            silent = self.with_process(state, number, process._replace(has_lapsed=True, is_asking=False, beat=None))
            silent = silent._replace(lapses_left=state.lapses_left - 1)
            yield silent
            if process.beat is not None:  # committed, but it never hears of that
                said = Row(process.beat.said, process.beat.wants_local, is_seen=True)
                yield self.with_row(silent, number, said)

    def with_process(self, state: State, number: int, process: Process) -> State:
        before = state.processes
        return state._replace(processes=(*before[:number], process, *before[number + 1 :]))

    def with_row(self, state: State, number: int, row: Row) -> State:
        before = state.table
        return state._replace(table=(*before[:number], row, *before[number + 1 :]))

    # What must hold

    def require_alone_in_filling_again(self, state: State, number: int, process: Process) -> None:
        if process.filled_in != process.round:
            return
        for other, one in enumerate(state.processes):
            if other != number and one is not None and self.way(other, one) == ("local", process.round):
                raise Broken(f"{NAMES[number]} fills the share of round {process.round} again")

    def require(self, state: State) -> None:
        ways = {
            number: way
            for number, process in enumerate(state.processes)
            if process is not None and (way := self.way(number, process)) is not None
        }
        if len(set(ways.values())) > 1:
            raise Broken(f"counted in several ways: {ways}")
        for number in ways:
            process = state.processes[number]
            assert process is not None
            if process.counts == "local" and process.filled_for < len(ways):
                raise Broken(f"{NAMES[number]} has a share of {process.filled_for}, and {len(ways)} take")
            if process.round > ROUNDS_MAX:
                raise Broken("they never agree")

    def require_agreement_in_the_end(self, state: State) -> None:
        """Nothing more happens but beats, and who is silent is dead."""
        for number, process in enumerate(state.processes):
            row = state.table[number]
            if process is not None and process.has_lapsed and row is not None:
                state = self.with_row(state, number, row._replace(is_seen=False))
        alive = [number for number, one in enumerate(state.processes) if one is not None and not one.has_lapsed]
        for _ in range(40):
            for number in alive:
                for following in self.followed(state, number, self.at(state, number)):
                    state = following
                if self.at(state, number).beat is None:
                    state = self.with_process(state, number, self.read(state, number, self.at(state, number)))
                process = self.at(state, number)
                assert process.beat is not None
                state = self.committed(state, number, process, process.beat)
        wanted = "local" if any(self.at(state, number).wants_local for number in alive) else "shared"
        ways = {self.way(number, self.at(state, number)) for number in alive}
        if alive and (len(ways) != 1 or (next(iter(ways)) or ("paused", 0))[0] != wanted):
            raise Broken(f"left alone they end up with {ways}, and {wanted} is wanted")

    def at(self, state: State, number: int) -> Process:
        process = state.processes[number]
        assert process is not None
        return process


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


def explore(driver: Driver, state: State, states_max: int) -> int:
    """Looks at every state that can be reached, the nearest first. Returns how many; `states_max` and above: not all."""
    found: dict[State, State | None] = {state: None}
    waiting = [state]
    try:
        for looked_at, state in enumerate(waiting):
            driver.require(state)
            if looked_at % LOOKED_FOR_CONVERGENCE == 0:
                driver.require_agreement_in_the_end(state)
            if len(found) >= states_max:
                continue
            for following in driver.next_states(state):
                if following not in found:
                    found[following] = state
                    waiting.append(following)
    except Broken as broken:
        raise Broken(f"{broken}\n{_story(found, state)}") from None
    return len(found)


def _story(found: dict[State, State | None], state: State) -> str:
    steps: list[State] = []
    at: State | None = state
    while at is not None:
        steps.append(at)
        at = found[at]
    return "\n\n".join(
        "\n".join(
            f"{name}: {process}\n   {row}"
            for name, process, row in zip(NAMES, each.processes, each.table, strict=False)
        )
        for each in reversed(steps)
    )


def begun(driver: Driver, count: int, joining: int, *, changes: int, lapses: int) -> State:
    """All of `count` count in Redis, and `joining` more are to come."""
    total = count + joining
    state = State((*(Process() for _ in range(count)), *((None,) * joining)), (None,) * total, changes, lapses)
    for _ in range(6):
        for number in range(count):
            process = driver.read(state, number, driver.at(state, number))
            assert process.beat is not None
            state = driver.committed(state, number, process, process.beat)
            for following in driver.followed(state, number, driver.at(state, number)):
                state = following
    assert all(driver.way(number, driver.at(state, number)) == ("shared", 0) for number in range(count))
    return state


def walk(driver: Driver, state: State, choices: random.Random, steps: int) -> None:
    """One way through the states, to where they are all left alone."""
    for _ in range(steps):
        following = list(driver.next_states(state))
        if not following:
            break
        state = choices.choice(following)
        driver.require(state)
    driver.require_agreement_in_the_end(state)


@pytest.mark.parametrize(
    ("count", "joining", "changes", "lapses"),
    [
        pytest.param(2, 0, 1, 0, id="two"),
        pytest.param(1, 1, 1, 0, id="one-and-one-that-joins"),
        pytest.param(1, 0, 1, 1, id="one-that-is-taken-for-dead"),
    ],
)
def test_a_few_processes_never_count_in_two_ways_whatever_the_order_of_their_beats(
    count: int, joining: int, changes: int, lapses: int
) -> None:
    driver = Driver(count + joining)
    assert explore(driver, begun(driver, count, joining, changes=changes, lapses=lapses), STATES_MAX) < STATES_MAX


def test_more_of_them_do_not_either_along_many_ways() -> None:
    choices = random.Random(6)
    for _ in range(WALKS):
        count = choices.choice([1, 2, 2, 3])
        joining = 3 - count
        driver = Driver(3)
        walk(driver, begun(driver, count, joining, changes=3, lapses=2), choices, STEPS)
