"""Locks of files, also where `flock` is missing or does not hold."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import file_lock as module
from modpkg.core import system_locks
from modpkg.core.file_lock import file_lock
from tests.raising import raises

real_flock, real_fcntl = fcntl.flock, fcntl.fcntl


def failing(code: int) -> Callable[..., Any]:
    def lock(*arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return lock


ABSENT = {
    "ENOSYS": failing(errno.ENOSYS),
    "ENOLCK": failing(errno.ENOLCK),
    "EOPNOTSUPP": failing(errno.EOPNOTSUPP),
    "granted to everybody": lambda *arguments: None,
}


def count(path: Path, rounds: int, flock: Any) -> None:
    """Add to a number in a file, reading and writing it within the lock."""
    fcntl.flock = flock
    for _ in range(rounds):
        with file_lock(path.with_suffix(".lock"), exclusive=True):
            path.write_text(str(int(path.read_text()) + 1))


@pytest.mark.parametrize("name", [*ABSENT, "flock"])
def test_processes_take_turns(name: str, tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    flock = ABSENT.get(name, real_flock)
    workers = [context.Process(target=count, args=(path, 200, flock)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert path.read_text() == "800"


@pytest.mark.parametrize("name", [*ABSENT, "flock"])
def test_threads_share_and_exclude(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", ABSENT.get(name, real_flock))
    path, order, waited = tmp_path / "lock", [], threading.Event()

    def write() -> None:
        with file_lock(path, exclusive=True, waiting=waited.set):
            order.append("written")

    with file_lock(path), file_lock(path):
        thread = threading.Thread(target=write)
        thread.start()
        assert waited.wait(300)
        order.append("read")
    thread.join()
    assert order == ["read", "written"]


@pytest.mark.parametrize("name", ABSENT)
def test_no_lock_at_all_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", ABSENT[name])
    monkeypatch.setattr(fcntl, "fcntl", ABSENT[name])
    with raises("M509", match=f"{tmp_path}.*MODPKG_HOME"), file_lock(tmp_path / "lock"):
        pytest.fail("held without a lock")


def test_another_error_of_locking_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), file_lock(tmp_path / "lock"):
        pytest.fail("held without a lock")


def test_a_lock_file_that_its_holder_removed_counts_as_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        path.unlink()
        assert module._holds(system_locks._flock, path, descriptor)
        path.touch()
        assert module._holds(system_locks._flock, path, descriptor)
    finally:
        os.close(descriptor)
