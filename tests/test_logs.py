"""Lines on their way out: each once, urgent ones at once, and a reader in trouble is nobody else's."""

import asyncio
import errno
import io
import threading

import pytest

from gateway.logs import _HELD_BYTES_MAX, _Lines

HANG_S = 10


class Disk(io.BytesIO):
    """An output that fails while `fault` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None

    def write(self, data: object) -> int:
        if self.fault is not None:
            raise self.fault
        return super().write(data)  # type: ignore[arg-type]

    def lines(self) -> list[bytes]:
        return self.getvalue().splitlines()


FAULTS = {
    "disk full": OSError(errno.ENOSPC, "No space left on device"),
    "reader slow": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "device broken": OSError(errno.EIO, "Input/output error"),
    "reader gone": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "closed": ValueError("I/O operation on closed file"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_output_in_trouble_costs_its_lines_and_nothing_else(fault: Exception) -> None:
    disk = Disk()
    lines = _Lines(disk)
    disk.fault = fault
    lines.error(b"lost")
    lines.info(b"lost too")
    lines.flush()
    disk.fault = None
    lines.error(b"written")
    assert disk.lines() == [b"written"]


def test_a_full_device_does_not_reach_who_logs() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device, not a path of ours
        lines = _Lines(full)
        for _ in range(3):
            lines.error(b"x" * 100_000)
        full.raw.close()


async def test_lines_of_requests_wait_for_each_other_and_leave_by_themselves() -> None:
    disk = Disk()
    lines = _Lines(disk)
    lines.info(b"one")
    lines.info(b"two")
    assert disk.lines() == []
    async with asyncio.timeout(HANG_S):
        while not disk.lines():
            await asyncio.sleep(0.005)
    assert disk.lines() == [b"one", b"two"]
    lines.info(b"three")
    lines.flush()
    assert disk.lines() == [b"one", b"two", b"three"]


async def test_an_urgent_line_takes_along_what_waited_before_it() -> None:
    disk = Disk()
    lines = _Lines(disk)
    lines.info(b"before")
    lines.warning(b"urgent")
    assert disk.lines() == [b"before", b"urgent"]


async def test_what_waits_is_bounded() -> None:
    disk = Disk()
    lines = _Lines(disk)
    line = b"x" * 1_000
    for _ in range(_HELD_BYTES_MAX // len(line)):
        lines.info(line)
    assert disk.lines() == []
    lines.info(line)
    assert len(disk.lines()) == _HELD_BYTES_MAX // len(line) + 1


def test_without_a_loop_no_line_waits() -> None:
    disk = Disk()
    _Lines(disk).info(b"at the start")
    assert disk.lines() == [b"at the start"]


def test_lines_of_many_threads_are_each_written_once() -> None:
    disk = Disk()
    lines = _Lines(disk)

    def speak(speaker: int) -> None:
        for number in range(200):
            lines.error(b"%d-%d" % (speaker, number))

    threads = [threading.Thread(target=speak, args=(speaker,)) for speaker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(disk.lines()) == sorted(b"%d-%d" % (speaker, number) for speaker in range(4) for number in range(200))
