"""Assets as files in a folder, readable by this user alone.

A file has its name only once it is complete and on disk: what a crash leaves behind begins with a dot. They lie in 256
folders by the end of the id, which is random; its beginning is the time.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.assets.base import AssetError, AssetMissing
from gateway.durable_folder import sync_folder
from gateway.ledger.ids import is_entry_id
from gateway.secrets import random_id

__all__ = ["FolderStore"]

_THREADS = 4
Result = TypeVar("Result")


class FolderStore:
    """Has threads of its own, so that a slow disk keeps no other part of the gateway waiting."""

    def __init__(self, folder: Path) -> None:
        """Makes nothing before the first asset is put."""
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "asset-folder")

    async def put(self, id: str, content_type: str, data: bytes) -> None:
        path = self._path(id)
        await self._in_thread(lambda: _write(path, data))

    async def read(self, id: str, start: int, length: int) -> bytes:
        path = self._path(id)
        return await self._in_thread(lambda: _read(path, start, length))

    async def delete(self, id: str) -> None:
        path = self._path(id)
        await self._in_thread(lambda: path.unlink(missing_ok=True))

    async def close(self) -> None:
        """Waits for what is being written."""
        await asyncio.to_thread(self._threads.shutdown)

    def _path(self, id: str) -> Path:
        if not is_entry_id(id):
            raise AssetMissing("not an asset's id")
        return self._folder / id[-2:] / id

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except FileNotFoundError as exc:
            raise AssetMissing("there is no such file") from exc
        except OSError as exc:
            # Without its path: the message says what is wrong, the setting says where.
            raise AssetError(f"the asset folder cannot be used: {exc.strerror}") from exc
        except RuntimeError as exc:
            raise AssetError("the asset folder is closed") from exc


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{random_id()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)
