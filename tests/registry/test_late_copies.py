"""Copies are written once nothing is being fetched, and none is needed to be right."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from modpkg.core import bounds
from modpkg.registry import late_copies
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.late_copies import copies_wait, keep_copy, waiting_copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies"


def test_a_copy_is_written_at_once_where_nothing_is_fetched(folder: Path) -> None:
    keep_copy(folder / "index" / "a", b"one")
    assert (folder / "index" / "a").read_bytes() == b"one"
    keep_copy(folder / "index" / "a", b"two")
    assert (folder / "index" / "a").read_bytes() == b"two"


def test_copies_wait_for_the_last_pool(folder: Path) -> None:
    a, b = folder / "a", folder / "b"
    with fetch_pool() as pool:
        pool.submit(keep_copy, a, b"old").result()
        with fetch_pool(waits=False) as inner:
            inner.submit(keep_copy, a, b"new").result()
        assert not a.exists()
        pool.submit(keep_copy, b, b"b")  # which the end of the pool waits for
    assert (a.read_bytes(), b.read_bytes()) == (b"new", b"b")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_what_is_much_does_not_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "LATE_COPIES_BYTES", 8)
    with copies_wait():
        keep_copy(folder / "a", b"12345678")
        keep_copy(folder / "b", b"9")
        assert [path.name for path in folder.iterdir()] == ["b"]
    with copies_wait():  # what was written is counted no more
        keep_copy(folder / "c", b"12345678")
        assert not (folder / "c").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]


def test_a_newer_copy_is_not_replaced_by_one_that_waited(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "LATE_COPIES_BYTES", 4)
    with copies_wait():
        keep_copy(folder / "a", b"old")
        assert waiting_copy(folder / "a") == b"old"
        keep_copy(folder / "a", b"newer")
        assert waiting_copy(folder / "a") is None
    assert (folder / "a").read_bytes() == b"newer"


def test_what_another_command_has_written_meanwhile_is_not_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time() + 1000
    monkeypatch.setattr(late_copies, "time", SimpleNamespace(time=lambda: now))
    for name, written in (("meanwhile", now + 5), ("before", now - 5), ("to-come", now + 99)):
        (folder / name).write_bytes(b"another")
        os.utime(folder / name, (written, written))
    with copies_wait():
        for path in [*folder.iterdir()]:
            keep_copy(path, b"this")
        now += 10
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {"meanwhile": b"another", "before": b"this", "to-come": b"this"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_loses_no_copy_and_an_interruption_waits_for_none(
    folder: Path, error: type[BaseException]
) -> None:
    def fetch() -> None:
        with copies_wait():
            keep_copy(folder / "a", b"one")
            raise error

    with pytest.raises(error):
        fetch()
    assert (folder / "a").exists() == (error is ValueError)
    keep_copy(folder / "b", b"two")
    assert (folder / "b").exists()


def test_a_copy_that_cannot_be_written_is_none(folder: Path) -> None:
    (folder / "a").mkdir()
    with copies_wait():
        keep_copy(folder / "a", b"one")
        keep_copy(folder / "b", b"two")
    assert (folder / "a").is_dir()
    assert (folder / "b").read_bytes() == b"two"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_writes_its_own_copies(folder: Path) -> None:
    with copies_wait():
        keep_copy(folder / "parent", b"p")
        child = os.fork()
        if child == 0:
            keep_copy(folder / "child", b"c")
            os._exit(0 if (folder / "child").exists() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [path.name for path in folder.iterdir()] == ["child"]


def test_many_threads_lose_none(folder: Path) -> None:
    start = threading.Barrier(8)

    def fetch(number: int) -> None:
        start.wait(60)
        for at in range(20):
            with copies_wait():
                keep_copy(folder / f"{number}-{at}", b"%d" % at)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {f"{n}-{at}": b"%d" % at for n in range(8) for at in range(20)}
