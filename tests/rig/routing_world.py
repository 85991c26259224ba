"""Models with several deployments, and an upstream that answers for each of them what a test says.

Health is kept per provider and upstream model, so every test takes a model of its own (`Models.fresh`): the places of
`pair-3` are called `pair-3-a` and `pair-3-b` at the upstream. All of them are one upstream on several paths, whose record
then is the order in which they were asked.
"""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.rig import wire
from tests.rig.catalog import PRICES, model, provider
from tests.rig.gateway import Gateway
from tests.rig.upstream import Action, Request, Script, Send, Upstream

T = TypeVar("T")

COPIES = 96
PROVIDERS = {"a": "place-a", "b": "place-b", "c": "place-c"}
KEYLESS = "rig-keyless"
DEAD = "rig-dead"
FREE = {"input": "0", "cached": "0", "output": "0", "reasoning": "0"}
USAGE = wire.usage(40, 10)
ATTEMPTS_MAX = 3


def prices_of(name: str) -> str:
    numbers = FREE if name == "free" else PRICES[name]
    return "\n".join(
        f"{field}_usd_per_mtok = {numbers[kind]}"
        for field, kind in (
            ("input", "input"),
            ("cached_input", "cached"),
            ("output", "output"),
            ("reasoning", "reasoning"),
        )
    )


def place(provider_name: str, upstream: str, *, weight: int = 1, prices: str = "") -> str:
    lines = [f'provider = "{provider_name}"', f'upstream_model = "{upstream}"', f"weight = {weight}"]
    return "\n".join([*lines, prices_of(prices) if prices else ""])


def by_name(name: str, *, weight: int = 1) -> str:
    return f'model = "{name}"\nweight = {weight}'


def routed(name: str, *places: str, more: str = "", provider_name: str = "place-a") -> str:
    """A model row and its deployments."""
    rows = "".join(f'\n[[models."{name}".deployments]]\n{lines}\n' for lines in places)
    return model(name, provider=provider_name, upstream=f"{name}-a") + more + "\n" + rows


def unenforced(row: str) -> str:
    """The row of a model whose provider does not see to schemas."""
    return row.replace('["tools", "json_schema"]', '["tools"]')


def _copies(number: int) -> str:
    def at(shape: str, letter: str, **options: object) -> str:
        return place(PROVIDERS[letter], f"{shape}-{number}-{letter}", **options)  # type: ignore[arg-type]

    def lone(shape: str, *, more: str = "") -> str:
        return routed(f"{shape}-{number}", more=more)

    cheap = {"weight": 0, "prices": "rig-cheap"}
    return "".join(
        [
            lone("lone"),
            lone("again", more="retries = 2"),
            unenforced(lone("loose")),
            routed(f"pair-{number}", at("pair", "a"), at("pair", "b", **cheap)),
            routed(f"twice-{number}", at("twice", "a"), at("twice", "b", **cheap), more="retries = 5"),
            routed(f"trio-{number}", *(at("trio", letter, weight=int(letter == "a")) for letter in "abc")),
            routed(f"five-{number}", *(place("place-a", f"five-{number}-{n}") for n in range(5))),
        ]
    )


CHANGING = routed("changing", place("place-a", "changing-a"))
"""One place before the change; afterwards another, at another price."""
CHANGED = routed("changing", place("place-b", "changing-b", prices="rig-cheap"))
DOWNGRADE = routed("grand", more='downgrade_to = "smaller"', provider_name="place-c") + routed(
    "smaller",
    place("place-a", "smaller-a", prices="rig-cheap"),
    place("place-b", "smaller-b", weight=0, prices="rig-cheap"),
)
CREDITS = (
    routed("credited", place("place-a", "credited-a"), place("place-b", "credited-b", weight=0), more="credits = 5")
    + routed("mixed", by_name("mixed-a"), by_name("mixed-b", weight=0), more="credits = 5")
    + routed("mixed-a", more="credits = 5")
    + routed("mixed-b", provider_name="place-b")
)


def routed_catalog(upstream: Upstream, hole_port: int = 9) -> str:
    """Beside the copies: models that are about chance, keys, and places that cannot be reached."""
    paths = [provider(name, f"{upstream.base_url}/{name}") for name in PROVIDERS.values()]
    return "".join(
        [
            *paths,
            CHANGING,
            DOWNGRADE,
            CREDITS,
            provider("hole", f"http://127.0.0.1:{hole_port}/v1"),
            *(_copies(number) for number in range(COPIES)),
            routed("shared", place("place-a", "shared-a", weight=3), place("place-b", "shared-b")),
            routed("sticky", place("place-a", "sticky-a"), place("place-b", "sticky-b"), more="sticky = true"),
            routed("dead-first", place(DEAD, "dead-a"), place("place-b", "dead-b", weight=0)),
            routed("hole-first", place("hole", "hole-a"), place("place-b", "hole-b", weight=0)),
            routed("keyless-first", place(KEYLESS, "keyless-a"), place("place-b", "keyless-b", weight=0)),
            routed("keyless-both", place(KEYLESS, "none-a"), place(KEYLESS, "none-b")),
            routed("free", place("place-a", "free-a", prices="free"), place("place-b", "free-b", prices="free")),
        ]
    )


def routed_gateway(
    folder: Path, upstream: Upstream, *, models: str = "", hole_port: int = 9, **settings: object
) -> Gateway:
    """A gateway with these models, whose circuits stay closed unless `settings` say otherwise."""
    chosen = {"CIRCUIT_FAILURES_MAX": 0, "ATTEMPTS_MAX": ATTEMPTS_MAX, **settings}
    return Gateway(folder, upstream, settings=chosen, models=routed_catalog(upstream, hole_port) + models)


class Fresh:
    """Hands out each copy of a shape once."""

    def __init__(self) -> None:
        self._next: dict[str, itertools.count[int]] = {}

    def __call__(self, shape: str) -> str:
        number = next(self._next.setdefault(shape, itertools.count()))
        assert number < COPIES, f"all copies of {shape} are taken: more COPIES"
        return f"{shape}-{number}"


_FRESH = Fresh()


def fresh(shape: str) -> str:
    """A model of this shape that no other test of the session has used."""
    return _FRESH(shape)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port where nothing answers a connection: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


Play = Sequence[Action]
"""What one request is answered."""


def good(content: str = "Hello!", **message: object) -> list[Action]:
    return [Send(wire.reply(wire.completion(content, usage=USAGE, **message)))]  # type: ignore[arg-type]


def bad(status: int, headers: wire.Headers = (), **error: object) -> list[Action]:
    told = {"message": f"refused with {status}", "type": "some_error", "param": None, "code": None, **error}
    return [Send(wire.reply({"error": told}, status, headers))]


def streamed(*contents: str) -> list[Action]:
    events = [*wire.text_events(*(contents or ("Hel", "lo!"))), wire.event(wire.usage_chunk(USAGE)), wire.DONE]
    return [Send(wire.stream_head()), *(Send(wire.framed(event)) for event in events), Send(wire.LAST_CHUNK)]


def plays(upstream: Upstream, places: dict[str, Sequence[Play]]) -> Script:
    """For each upstream model its answers, one a request; the last one again for every further request."""
    asked: dict[str, int] = {}

    def answer(request: Request) -> Play:
        name = request.json["model"]
        number = asked[name] = asked.get(name, -1) + 1
        answers = places[name]
        return answers[min(number, len(answers) - 1)]

    return upstream.answer_with(answer)


def asked(script: Script) -> list[str]:
    """The upstream models that were asked, in order, by the ends of their names: `a`, `b`."""
    return [request.json["model"].rpartition("-")[2] for request in script.requests]


def begin(call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A call that goes on while the test does something else; the test awaits it."""
    return asyncio.get_running_loop().create_task(call)
