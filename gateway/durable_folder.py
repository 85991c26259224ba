"""Names in a folder that survive a power cut."""

import os
from pathlib import Path

__all__ = ["sync_folder"]


def sync_folder(folder: Path) -> None:
    """Returns when what was made, renamed and removed in `folder` is durable: the sync of a file says nothing of its name.

    Raises `OSError`.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
