import os
import subprocess
import sys

import pytest

from gateway.errors import ConfigError
from gateway.lock import LOCK_FILE, DataLock

HOLDER = """
import sys
from pathlib import Path
from gateway.lock import DataLock
with DataLock(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_with_the_firsts_pid(tmp_path):
    with DataLock(tmp_path), pytest.raises(ConfigError, match=rf"another gateway .*\(pid {os.getpid()}\)"):
        DataLock(tmp_path).acquire()


def test_another_process_is_refused_and_its_death_frees_the_folder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"pid {holder.pid}"):
            DataLock(tmp_path).acquire()
        holder.kill()
        holder.wait()
    with DataLock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"{os.getpid()}\n"


def test_a_released_lock_can_be_taken_again(tmp_path):
    lock = DataLock(tmp_path)
    lock.acquire()
    lock.release()
    lock.release()
    with lock, pytest.raises(ConfigError):
        DataLock(tmp_path).acquire()


def test_one_lock_is_not_taken_twice(tmp_path):
    with DataLock(tmp_path) as lock, pytest.raises(RuntimeError):
        lock.acquire()


def test_a_missing_folder_is_made_private(tmp_path):
    folder = tmp_path / "new" / "data"
    with DataLock(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / LOCK_FILE).stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="GATEWAY_DATA_DIR"):
        DataLock(tmp_path / "file" / "data").acquire()
