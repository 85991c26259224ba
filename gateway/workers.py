"""`gateway serve --workers N`: the process that starts N workers, looks after them and serves nobody itself.

1. It holds the data folder's lock and all sockets: of the port, one for each worker, so that the kernel spreads
   connections, and the control sockets. Whoever connects while a worker is being started again waits instead of being
   refused.
2. The first worker starts alone: it upgrades tables and tells the words of a first run. Then all others at once.
3. A worker that ends by itself is started again, at once or, if it did not live long, after a growing pause.
4. SIGUSR2 replaces one worker after the other: the new one listens on the same sockets before the old one stops.
5. SIGTERM and SIGINT have all of them drain, a second one at once; SIGHUP is passed on to one worker, from which the
   others hear. Should this process die, each worker sees it and ends by itself.

Workers are new interpreters, not forks: a replacement runs the code that is installed by then, so that an upgrade needs
no pause. What forks would share is little, since counting references soon makes a copy of every page.
"""

import asyncio
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import orjson
import structlog

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.lock import DataLock, control_socket
from gateway.logs import configure_logging
from gateway.sockets import bind_control, bind_shared_port
from gateway.tasks import spawn

__all__ = ["serve"]

_log = structlog.get_logger()

_STEADY_S = 10.0
"""Who lived that long had started well."""
_PAUSE_S = 0.5
_PAUSE_MAX_S = 30.0
_PORT_WITHIN_S = 5.0
_READY_WITHIN_S = 300.0
"""For a replacement; the one it is to replace goes on meanwhile."""
_END_WITHIN_S = 30.0
"""Beyond what the settings give it: whoever has not ended by then does not any more."""


def serve(settings: Settings) -> int:
    """Serve by `settings.workers` processes until a signal. Returns the exit code. Raises `ConfigError`."""
    configure_logging(settings.log_level, settings.log_format)
    with DataLock(settings.data_dir), ExitStack() as stack:
        for stale in settings.data_dir.glob("control*.sock"):
            stale.unlink()
        paths = [control_socket(settings.data_dir, number) for number in range(settings.workers)]
        controls = [stack.enter_context(bind_control(path)) for path in paths]
        listeners = _bind(settings)
        asyncio.run(_Supervisor(settings, listeners, controls).run())
    return 0


def _bind(settings: Settings) -> list[socket.socket]:
    """Raises `ConfigError`. Workers whose supervisor was killed may need a moment to see it and close the port."""
    give_up_at = time.monotonic() + _PORT_WITHIN_S
    while True:
        try:
            return bind_shared_port(settings.host, settings.port, settings.workers)
        except ConfigError:
            if time.monotonic() > give_up_at:
                raise
        time.sleep(_PAUSE_S)


class _Worker:
    """One process. Lifetime: from its start to its end."""

    def __init__(
        self,
        number: int,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.number = number
        self.pid = process.pid
        self.started_at = time.monotonic()
        self.is_ready = False
        self.refusal: str | None = None
        """Why it could not start, where a setting is to blame."""
        self._process = process
        self._writer = writer
        self._is_ready_or_dead = asyncio.Event()
        self._listening = spawn(self._listen(reader), "listen-to-worker")

    async def comes_up(self) -> bool:
        """Waits until it serves, or has ended before."""
        await self._is_ready_or_dead.wait()
        return self.is_ready

    async def ended(self) -> int:
        """Waits for its end. The exit code; negative: the signal that ended it."""
        code = await self._process.wait()
        await self._listening
        return code

    def tell(self, word: str) -> None:
        if not self._writer.is_closing():
            self._writer.write(word.encode() + b"\n")

    def stop(self) -> None:
        """It drains; one that does not serve yet just ends."""
        if self.is_ready:
            self.tell("drain")
        else:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            async for line in reader:
                word, _, rest = line.strip().partition(b" ")
                if word == b"ready":
                    self.is_ready = True
                    self._is_ready_or_dead.set()
                elif word == b"refused":
                    self.refusal = str(orjson.loads(rest))
        self._is_ready_or_dead.set()
        self._writer.close()


class _Supervisor:
    def __init__(self, settings: Settings, listeners: list[socket.socket], controls: list[socket.socket]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._controls = controls
        self._numbers = range(settings.workers)
        self._port = listeners[0].getsockname()[1]
        self._current: dict[int, _Worker] = {}
        """Who is to serve in each place; one that was replaced is not among them and may still drain."""
        self._alive: set[_Worker] = set()
        self._died_early = dict.fromkeys(self._numbers, 0)
        """How many in a row."""
        self._ending = asyncio.Event()
        self._gone = asyncio.Event()
        """All have ended after `_ending`."""
        self._refusal: str | None = None
        self._starting = 0
        """Processes on their way into `_alive`."""
        self._ups = {number: asyncio.Event() for number in self._numbers}
        """Which places have been served once."""
        self._is_replacing = False
        self._replaces_again = False

    async def run(self) -> None:
        """Until all workers have ended. Raises `ConfigError` with why the first of them could not start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_or_hurry)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGUSR2, self._replace_all)
        _log.info("supervising", workers=len(self._numbers), port=self._port)
        spawn(self._begin(), "start-workers")
        await self._gone.wait()
        if self._refusal is not None:
            raise ConfigError(self._refusal)
        _log.info("stopped")

    # Starting

    async def _begin(self) -> None:
        await self._start(0)
        await self._ups[0].wait()
        await asyncio.gather(*(self._start(number) for number in self._numbers[1:]))

    @property
    def _is_up(self) -> bool:
        return all(up.is_set() for up in self._ups.values())

    async def _start(self, number: int) -> None:
        while not self._ending.is_set():
            try:
                self._current[number] = await self._new_worker(number)
                return
            except OSError as exc:
                _log.error("worker_not_started", of=number, reason=str(exc), pause_s=_PAUSE_MAX_S)
                await self._pause(_PAUSE_MAX_S)

    async def _new_worker(self, number: int) -> _Worker:
        """Raises `OSError` when the machine has no room for it."""
        self._starting += 1
        try:
            worker = await _launch(number, self._settings, self._port, self._listeners[number], self._controls[number])
            self._alive.add(worker)
        finally:
            self._starting -= 1
            self._end_if_all_are_gone()
        spawn(self._look_after(worker), "look-after-worker")
        if self._ending.is_set():
            worker.stop()
        return worker

    async def _look_after(self, worker: _Worker) -> None:
        number = worker.number
        if await worker.comes_up():
            self._ups[number].set()
        code = await worker.ended()
        self._alive.discard(worker)
        if self._ending.is_set():
            self._end_if_all_are_gone()
        elif self._current.get(number) is worker:
            if worker.refusal is not None and not self._is_up:
                self._refuse(worker.refusal)
                return
            pause_s = self._pause_before_next(worker)
            _log.error("worker_ended", of=number, pid=worker.pid, code=code, reason=worker.refusal, pause_s=pause_s)
            await self._pause(pause_s)
            if self._current[number] is worker:  # and was not replaced meanwhile
                await self._start(number)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _pause_before_next(self, worker: _Worker) -> float:
        if time.monotonic() - worker.started_at >= _STEADY_S:
            self._died_early[worker.number] = 0
            return 0.0
        self._died_early[worker.number] += 1
        return min(_PAUSE_MAX_S, _PAUSE_S * 2.0 ** min(16, self._died_early[worker.number] - 1))

    # Ending

    def _end_or_hurry(self) -> None:
        if not self._ending.is_set():
            self._end()
        else:
            for worker in self._alive:
                worker.tell("hurry")

    def _refuse(self, reason: str) -> None:
        self._refusal = self._refusal or reason
        self._end_or_hurry()
        for worker in self._alive:
            worker.tell("hurry")
        self._end_if_all_are_gone()

    def _end(self) -> None:
        _log.info("stopping", workers=len(self._alive))
        self._ending.set()
        for up in self._ups.values():
            up.set()
        # Each worker has its own; the port is closed when the last of them closes it.
        for listener in self._listeners:
            listener.close()
        for worker in self._alive:
            worker.stop()
        asyncio.get_running_loop().call_later(self._end_within_s, self._kill_all)
        self._end_if_all_are_gone()

    @property
    def _end_within_s(self) -> float:
        settings = self._settings
        return settings.drain_delay_s + settings.drain_grace_s + settings.settle_timeout_s + _END_WITHIN_S

    def _kill_all(self) -> None:
        for worker in self._alive:
            _log.error("worker_killed", of=worker.number, pid=worker.pid, note="it did not end in time")
            worker.kill()

    def _end_if_all_are_gone(self) -> None:
        if self._ending.is_set() and not self._alive and not self._starting:
            self._gone.set()

    # What it is told meanwhile

    def _reload(self) -> None:
        ready = [worker for _, worker in sorted(self._current.items()) if worker.is_ready and worker in self._alive]
        if ready:
            ready[0].tell("reload")

    def _replace_all(self) -> None:
        self._replaces_again = True
        if not self._is_replacing:
            self._is_replacing = True
            spawn(self._replace_in_turn(), "replace-workers")

    async def _replace_in_turn(self) -> None:
        try:
            for up in self._ups.values():
                await up.wait()
            while self._replaces_again and not self._ending.is_set():
                self._replaces_again = False
                for number in self._numbers:
                    if not await self._replace(number):
                        break
                else:
                    _log.info("workers_replaced", workers=len(self._numbers))
        finally:
            self._is_replacing = False

    async def _replace(self, number: int) -> bool:
        """Whether the next one may follow: a replacement that does not start leaves things as they are."""
        try:
            new = await self._new_worker(number)
        except OSError as exc:
            _log.error("replacement_failed", of=number, reason=str(exc))
            return False
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                is_ready = await new.comes_up()
        except TimeoutError:
            is_ready = False
            new.kill()
        if not is_ready or self._ending.is_set():
            _log.error("replacement_failed", of=number, reason=new.refusal)
            return False
        old, self._current[number] = self._current[number], new
        old.tell("hand_over")
        try:
            async with asyncio.timeout(self._end_within_s):
                await old.ended()
        except TimeoutError:
            _log.error("worker_killed", of=number, pid=old.pid, note="it did not end in time")
            old.kill()
        _log.info("worker_replaced", of=number, pid=new.pid, instead_of=old.pid)
        return not self._ending.is_set()


async def _launch(
    number: int, settings: Settings, port: int, listener: socket.socket, control: socket.socket
) -> _Worker:
    ours, theirs = socket.socketpair()
    orders = {
        "number": number,
        "listener": listener.fileno(),
        "control": control.fileno(),
        "supervisor": theirs.fileno(),
        "settings": {"host": settings.host, "port": port, "workers": settings.workers},
    }
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *_interpreter(),
            "-m",
            "gateway.worker",
            orjson.dumps(orders),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(listener.fileno(), control.fileno(), theirs.fileno()),
            # Not the terminal's: Ctrl+C is this process's to pass on.
            process_group=0,
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return _Worker(number, process, reader, writer)


def _interpreter() -> list[str]:
    """Which finds this package, and no other that may lie in the working directory."""
    is_run_from_here = str(Path.cwd()) in sys.path or "" in sys.path
    return [sys.executable] if is_run_from_here else [sys.executable, "-P"]
