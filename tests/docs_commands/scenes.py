"""What the text around a block asks for before its commands are typed, and what blocks show that nobody types.

A page is read in one session with one gateway, as it is after the first run. The tables here say where that is not so.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from policies.anomaly import threshold, usual
from tests.docs_commands.pages import Block, blocks_of
from tests.docs_commands.session import Session
from tests.rig.waiting import eventually

__all__ = ["FIGURES", "SHARING", "Preparation", "Scene", "preparations", "scene_of"]

Act = Callable[[Session], None]
_HELLO = '{"model": "%s", "messages": [{"role": "user", "content": "Hi"}]}'
_USUAL_CALLS = "37 41 36 44 40 39 43 52 38 40 42 35 41 40 45 37 40 39 46 33 40 43 38 40"


SHARING = frozenset(
    f"docs/{name}.md"
    for name in (
        *(
            "admins",
            "downgrade",
            "endpoints",
            "errors",
            "limits-and-money",
            "metrics",
            "migrate-from-litellm",
            "repeats",
        ),
        *("sdks", "security"),
    )
)
"""Pages that show nothing of what others may have done, and so are read one after the other with one gateway."""


@dataclass(frozen=True)
class Scene:
    """How a section is read that does not go on with the gateway of the section before."""

    settings: Mapping[str, str] = field(default_factory=dict)
    begin: Act = lambda session: None
    """Runs before the gateway is started."""


@dataclass(frozen=True)
class Preparation:
    """What is done before the first command of `page` that contains `command`."""

    page: str
    command: str
    act: Act


def scene_of(page: str, section: str) -> Scene | None:
    """None: the section goes on where the one before it ended."""
    return _SCENES.get((page, section))


def preparations(page: str, command: str) -> list[Act]:
    return [row.act for row in _PREPARATIONS if row.page == page and row.command in command]


# Sections


def _two_deployments(session: Session) -> None:
    """The catalog of the example, "with `first` and `second` both of the dialect `mock`"."""
    (rows,) = (
        block.text
        for block in blocks_of("docs/providers.md")
        if block.language == "toml" and '"error-503"' in block.text
    )
    providers = "".join(f'[providers.{name}]\ndialect = "mock"\n' for name in ("first", "second"))
    (session.folder / "example.toml").write_text(f'version = "example"\n{providers}{rows}')


_SCENES = {
    ("README.md", "Other SDKs"): Scene(),
    ("README.md", "A walk: free images, credits, a budget"): Scene(),
    ("docs/providers.md", "Several deployments of one model"): Scene(
        {"PRICING_FILE": "example.toml"}, _two_deployments
    ),
    ("docs/notices.md", "Delivery"): Scene(
        {"WEBHOOK_URL": "http://127.0.0.1:9000/hook", "NOTICES_EVERY_S": "0.1", "ANOMALY_REQUESTS_MIN": "50"}
    ),
}


# Commands


def _five_more_calls(session: Session) -> None:
    for _ in range(5):
        session.run(_chat("chat"))


def _unusual_hour(session: Session) -> None:
    """The worked example: those hours, and 75 calls in the one that runs, of which the last is made here."""
    session.run(".venv/bin/gateway creators update default --override when_unusual=throttle")
    (key_id,) = re.findall(r"sk-gw-(\w{12})-", session.key)
    hours = [*((back + 1, calls) for back, calls in enumerate(map(int, _USUAL_CALLS.split()))), (0, 74)]
    with closing(sqlite3.connect(session.folder / "data" / "gateway.db", timeout=15)) as connection, connection:
        connection.executemany(
            "INSERT INTO usage_hourly (hour, creator, feature, key_id, calls, cost_nano_usd) VALUES (?, 'default', 'search', ?, ?, 0)",
            [(f"{datetime.now(UTC) - timedelta(hours=back):%Y-%m-%dT%H}", key_id, calls) for back, calls in hours],
        )
    session.run(_chat("mock-1", "-H 'x-gateway-feature: search'"))
    eventually(lambda: "done_at" in session.run(".venv/bin/gateway anomalies list"), "the unusual hour", 30)


def _one_call(session: Session) -> None:
    """The one that the costs on the page are of."""
    session.run(_chat("mock-1").replace("Hi", "Hello"))


def _chat(model: str, more: str = "") -> str:
    url = "http://127.0.0.1:8000/v1/chat/completions"
    return f"""curl -sS {url} -H "Authorization: Bearer $KEY" {more} -d '{_HELLO % model}'"""


_PREPARATIONS = (
    Preparation("docs/providers.md", "health/ready", _five_more_calls),
    Preparation("docs/saving-money.md", "ledger costs --group-by model", _one_call),
    Preparation("docs/notices.md", "anomalies list", _unusual_hour),
)


# Blocks without a language that show neither a session nor the output of a program


def _is_the_threshold(block: Block) -> None:
    """Written as the formula of `policies.anomaly`, and reckoned here in floats."""
    expression = block.text.strip().replace("×", "*")
    for calls in (list(map(int, _USUAL_CALLS.split())), [1, 900, 40, 41, 350, 2, 1, 1], [0] * 30 + [5] * 3):
        figures = usual(calls)
        reckoned = eval(
            expression,
            {
                "max": max,
                "floor": 100,
                "often": figures.often,
                "median": figures.median,
                "deviation": figures.deviation,
                "factor": 6,
            },
        )
        assert int(reckoned + 1e-9) == threshold(figures, factor_hundredths=600, floor=100), calls


def _is_the_worked_example(block: Block) -> None:
    calls = [int(number) for number in block.text.split()]
    assert calls == list(map(int, _USUAL_CALLS.split())), "the unusual hour of the same page is made of other hours"
    figures = usual(calls)
    assert (figures.median, figures.deviation, figures.often) == (40, 2, 45)
    assert threshold(figures, factor_hundredths=600, floor=50) == 64


def _is_a_notice(block: Block) -> None:
    """Its head, and a body whose figures agree with one another and with its sentence."""
    head, _, body = block.text.partition("\n\n")
    names = [line.partition(":")[0] for line in head.splitlines()[1:]]
    assert names == ["content-type", "webhook-id", "webhook-timestamp", "webhook-signature"]
    notice = json.loads(body)
    data = notice["data"]
    assert notice.keys() == {"type", "timestamp", "data"}
    assert f"webhook-id: {data['id']}\n" in head
    assert data["percent"] == 100 * data["used_nano_usd"] // data["limit_nano_usd"]
    for said in (data["creator"], f"{data['limit_usd']} USD", f"{data['used_usd']} USD", f"{data['percent']} %"):
        assert said in data["message"]


FIGURES: Mapping[tuple[str, str], Callable[[Block], None]] = {
    ("docs/notices.md", "max(floor, "): _is_the_threshold,
    ("docs/notices.md", "37 41 36"): _is_the_worked_example,
    ("docs/notices.md", "POST /hook"): _is_a_notice,
}
"""By page and by how the block begins."""
