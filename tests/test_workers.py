"""What workers share: a port, a page of metrics, a place for their logs."""

import io
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import Settings, load_settings
from gateway.errors import ConfigError
from gateway.lock import control_socket
from gateway.logs import _Lines
from gateway.siblings import Siblings, merged
from gateway.sockets import base_url, bind_control, bind_port, bind_shared_port
from tests.test_metrics import metrics

HOST = "127.0.0.1"
POSTGRES, REDIS = "postgresql://u@127.0.0.1/gateway", "redis://127.0.0.1"
SECRET = "a-root-secret-of-the-tests-0123456789"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# Which stores


@pytest.mark.parametrize("stores", [{}, {"database_url": POSTGRES}, {"redis_url": REDIS}], ids=["none", "one", "other"])
def test_several_workers_need_stores_that_they_can_share(stores: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY_WORKERS.*GATEWAY_DATABASE_URL.*GATEWAY_REDIS_URL"):
        load_settings(workers=2, secret=SECRET, **stores)


def test_one_worker_needs_nothing_and_several_are_fine_on_shared_stores() -> None:
    assert load_settings(workers=1).workers == 1
    settings: Settings = load_settings(workers=3, secret=SECRET, database_url=POSTGRES, redis_url=REDIS)
    assert settings.workers == 3


# The port


def test_connections_spread_over_the_sockets_that_listen(stack: ExitStack) -> None:
    listeners = [stack.enter_context(listener) for listener in bind_shared_port(HOST, 0, 3)]
    address = listeners[0].getsockname()
    assert {listener.getsockname() for listener in listeners} == {address}
    for listener in listeners[:2]:
        listener.listen(64)
    clients = [stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(60)]
    accepted = [len(all_waiting(listener, stack)) for listener in listeners[:2]]
    assert sum(accepted) == len(clients)
    assert min(accepted) > 0, "of sixty, each has some"


def all_waiting(listener: socket.socket, stack: ExitStack) -> list[socket.socket]:
    found: list[socket.socket] = []
    while True:
        try:
            found.append(stack.enter_context(listener.accept()[0]))
        except BlockingIOError:
            return found


def test_a_port_that_workers_share_is_refused_to_every_other_gateway(stack: ExitStack) -> None:
    listeners = [stack.enter_context(listener) for listener in bind_shared_port(HOST, 0, 2)]
    for listener in listeners:
        listener.listen()
    port = listeners[0].getsockname()[1]
    for bind in (lambda: bind_port(HOST, port), lambda: bind_shared_port(HOST, port, 2)):
        with pytest.raises(ConfigError, match="GATEWAY_PORT"):
            bind()


def test_a_taken_port_is_refused_to_workers(stack: ExitStack) -> None:
    taken = stack.enter_context(bind_port(HOST, 0))
    taken.listen()
    with pytest.raises(ConfigError, match="GATEWAY_HOST and GATEWAY_PORT"):
        bind_shared_port(HOST, taken.getsockname()[1], 2)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")], ids=["one", "all"])
def test_an_address_is_told_as_a_client_here_would_use_it(stack: ExitStack, host: str, shown: str) -> None:
    listener = stack.enter_context(bind_port(host, 0))
    assert base_url(listener) == f"http://{shown}:{listener.getsockname()[1]}"


def test_a_control_socket_is_its_users_alone_and_gone_with_the_process(tmp_path: Path) -> None:
    path = control_socket(tmp_path, 0)
    path.write_text("left behind")
    with bind_control(path) as listener:
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o600
        assert listener.family == socket.AF_UNIX
    assert not path.exists()


def test_commands_ask_the_first_worker() -> None:
    assert [control_socket(Path("data"), number).name for number in range(3)] == [
        "control.sock",
        "control-1.sock",
        "control-2.sock",
    ]


# One page of metrics

PAGE = b"""# HELP gateway_ready 1 while new calls are taken.
# TYPE gateway_ready gauge
gateway_ready 1.0
# HELP gateway_refused_total Calls a policy refused.
# TYPE gateway_refused_total counter
gateway_refused_total{code="a b} c",endpoint="chat"} 3.0
"""


def test_pages_of_workers_make_one_with_each_family_once() -> None:
    page = merged({0: PAGE, 2: PAGE.replace(b"3.0", b"4.0")})
    assert page.count(b"# HELP") == page.count(b"# TYPE") == 2
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    assert [(s.labels, s.value) for s in families["gateway_ready"].samples] == [
        ({"worker": "0"}, 1),
        ({"worker": "2"}, 1),
    ]
    assert [(s.labels, s.value) for s in families["gateway_refused"].samples] == [
        ({"worker": number, "code": "a b} c", "endpoint": "chat"}, value) for number, value in (("0", 3), ("2", 4))
    ]


def test_a_family_that_only_one_version_has_is_there() -> None:
    other = b"# HELP new_thing New.\n# TYPE new_thing gauge\nnew_thing 7.0\n"
    families = {family.name: family for family in text_string_to_metric_families(merged({0: PAGE, 1: other}).decode())}
    assert families.keys() == {"gateway_ready", "gateway_refused", "new_thing"}
    assert families["new_thing"].samples[0].labels == {"worker": "1"}


def test_a_real_page_survives_being_merged() -> None:
    own = metrics(in_flight=3).render()
    alone = {family.name: family.samples for family in text_string_to_metric_families(own.decode())}
    together = {
        family.name: family.samples for family in text_string_to_metric_families(merged({0: own, 1: own}).decode())
    }
    assert together.keys() == alone.keys()
    for name, samples in together.items():
        assert len(samples) == 2 * len(alone[name])


async def test_workers_that_do_not_answer_are_left_out(tmp_path: Path) -> None:
    """One has a socket nobody listens on, one none, one listens and says nothing."""
    with bind_control(control_socket(tmp_path, 1)), bind_control(control_socket(tmp_path, 3)) as silent:
        silent.listen()
        page = await Siblings(tmp_path, 0, 4).page_with(PAGE)
    assert page == merged({0: PAGE})


async def test_the_only_process_shows_its_own_page() -> None:
    own = metrics()
    assert await own.page() == own.render()
    assert b"worker=" not in own.render()


# Logs


class Pipe(io.BytesIO):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: object) -> int:
        self.writes.append(bytes(data))  # type: ignore[call-overload]
        return len(self.writes[-1])


def test_lines_of_workers_leave_in_pieces_that_a_pipe_takes_whole() -> None:
    pipe = Pipe()
    lines = _Lines(pipe, write_bytes_max=100)
    said = [b"a" * 40, b"b" * 40, b"c" * 99, b"d" * 500, b"e", b"f"]
    for line in said:
        lines._held.append(line)
    lines.flush()
    assert b"".join(pipe.writes).splitlines() == said
    assert [len(write) for write in pipe.writes] == [82, 100, 501, 4]
