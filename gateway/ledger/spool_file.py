"""A file of settles that wait for the database: appended to, synced, and emptied when all of them are committed.

Each record is its length and its CRC-32 (four bytes each, little-endian) and JSON: a settle with its number, or the numbers
of settles that are committed. What a crash left half written at the end is no record, and was promised to nobody.

The process that writes to a file has it locked (`flock`), so that whoever gets the lock knows that the process is gone. It
is locked before it has its name. Everything here may wait for a disk: not for the event loop.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4
from zlib import crc32

import orjson

from gateway.durable_folder import sync_folder
from gateway.ledger.records import Attribution, Entry, Route
from gateway.usage import Usage

__all__ = ["SPOOL_BYTES_MAX", "SpoolFile", "SpooledSettle", "settle_record"]

SPOOL_BYTES_MAX = 2**30
"""Of one file; beyond it, it is as if the disk were full."""
_SUFFIX = ".spool"
_HEAD = struct.Struct("<II")
_RECORD_BYTES_MAX = 16 * 2**20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SpooledSettle(NamedTuple):
    hold_id: str
    entries: Sequence[Entry]
    frees: str
    """The id of a reservation that ends with the hold; empty for none."""


def settle_record(number: int, settle: SpooledSettle) -> bytes:
    """As it is written. Raises `TypeError` for what is no text or number of 64 bits, which no database would take."""
    entries = [_entry_json(entry) for entry in settle.entries]
    return _record({"number": number, "hold_id": settle.hold_id, "frees": settle.frees, "entries": entries})


class SpoolFile:
    """Open, and locked, until `close`. Made by `make` or `take_over`. All of it raises `OSError`."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle
        self._end = 0
        """Behind the last whole record."""
        self._left: set[int] = set()

    @classmethod
    def make(cls, folder: Path) -> "SpoolFile":
        """An empty one of this process, in a folder that is there."""
        name = uuid4().hex
        new = folder / f"{name}.new"
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = new.with_suffix(_SUFFIX)
            new.rename(path)
            sync_folder(folder)
            sync_folder(folder.parent)  # which may have made the folder just now
        except BaseException:
            os.close(handle)
            raise
        return cls(path, handle)

    @classmethod
    def left_behind(cls, folder: Path) -> list["SpoolFile"]:
        """Those in `folder` whose processes are gone, the oldest first."""
        paths = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: (_written_at(path), path))
        return [file for path in paths if (file := cls.take_over(path)) is not None]

    @classmethod
    def take_over(cls, path: Path) -> "SpoolFile | None":
        """None where its process lives, or somebody else has taken it over."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_still(path, handle):  # somebody was done with it just now
                os.close(handle)
                return None
            file = cls(path, handle)
            file._read()
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        return file

    @property
    def count(self) -> int:
        """Settles that are not known to be committed."""
        return len(self._left)

    def append(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Number and bytes of each; they survive a power cut when this returns. All or none."""
        data = b"".join(record for _, record in records)
        if self._end + len(data) > SPOOL_BYTES_MAX:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            self._write(data)
            os.fsync(self._handle)
        except OSError:
            self._cut()
            raise
        self._end += len(data)
        self._left.update(number for number, _ in records)

    def strike(self, numbers: Collection[int]) -> None:
        """They are committed. A crash may forget this: to post one again changes nothing."""
        self._left.difference_update(numbers)
        if not self._left:
            self._end = 0
            self._cut()
            return
        data = _record({"struck": sorted(numbers)})
        try:
            self._write(data)
        except OSError:
            self._cut()
        else:
            self._end += len(data)

    def settles(self, at_once: int) -> Iterator[list[SpooledSettle]]:
        """Those that are left, in their order, in lists. Raises `ValueError` for what another version wrote."""
        found: list[SpooledSettle] = []
        for record in self._records():
            if record.get("number") in self._left:
                found.append(_settle_of(record))
            if len(found) >= at_once:
                yield found
                found = []
        if found:
            yield found

    def remove(self) -> None:
        """Nothing in it is needed any more."""
        try:
            self.path.unlink(missing_ok=True)
        finally:
            self.close()

    def close(self) -> None:
        """Whatever is in it waits for the next process. May be called twice."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _read(self) -> None:
        for record in self._records():
            if "struck" in record:
                self._left.difference_update(record["struck"])
            else:
                self._left.add(record["number"])

    def _records(self) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            head = os.pread(self._handle, _HEAD.size, offset)
            if len(head) < _HEAD.size:
                return
            size, checksum = _HEAD.unpack(head)
            if not 0 < size <= _RECORD_BYTES_MAX:
                return
            text = os.pread(self._handle, size, offset + _HEAD.size)
            if len(text) < size or crc32(text) != checksum:
                return
            offset += _HEAD.size + size
            yield orjson.loads(text)

    def _write(self, data: bytes) -> None:
        offset, left = self._end, memoryview(data)
        while left:
            written = os.pwrite(self._handle, left, offset)
            offset, left = offset + written, left[written:]

    def _cut(self) -> None:
        """Nothing behind the last whole record. If it fails, what is there is overwritten, or is no record."""
        try:
            os.ftruncate(self._handle, self._end)
        except OSError:
            return


def _record(content: dict[str, Any]) -> bytes:
    text = orjson.dumps(content)
    if len(text) > _RECORD_BYTES_MAX:
        raise TypeError("a settle too long to be kept")
    return _HEAD.pack(len(text), crc32(text)) + text


def _entry_json(entry: Entry) -> dict[str, Any]:
    attribution = entry.attribution
    return {
        **entry._asdict(),
        "attribution": {**attribution._asdict(), "admitted_at": (attribution.admitted_at - _EPOCH) // _MICROSECOND},
        "route": entry.route._asdict(),
        "usage": entry.usage._asdict(),
    }


def _settle_of(record: dict[str, Any]) -> SpooledSettle:
    try:
        entries = [_entry_of(entry) for entry in record["entries"]]
        return SpooledSettle(record["hold_id"], entries, record["frees"])
    except (TypeError, KeyError, OverflowError) as exc:
        raise ValueError(f"a settle of another version ({exc})") from exc


def _entry_of(record: dict[str, Any]) -> Entry:
    attribution = dict(record["attribution"])
    admitted_at = _EPOCH + attribution.pop("admitted_at") * _MICROSECOND
    parts = {
        "attribution": Attribution(**attribution, admitted_at=admitted_at),
        "route": Route(**record["route"]),
        "usage": Usage(**record["usage"]),
    }
    return Entry(**{**record, **parts})


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
