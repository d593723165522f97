from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import system_processes
from modpkg.core.digests import digest_bytes, digest_file, parse_digest
from modpkg.core.files import (
    disk_errors,
    disk_full,
    human_bytes,
    link_or_copy,
    os_errors_told,
    refusal_of,
    replace_tree,
    write_atomically,
)
from modpkg.core.leftovers import LEFT_ALONE, leftovers, temporary_sibling
from modpkg.core.regular_file import CutShort, OversizedFile, read_file, read_head
from modpkg.core.system_folders import OpenFolder
from modpkg.core.tree import BlobTree, changed_file
from tests.raising import raises


def test_a_failing_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file"
    write_atomically(target, b"old")

    def chunks() -> object:
        yield b"new"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        write_atomically(target, chunks())  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with raises("M502"):
        write_atomically(tmp_path / "file", b"data")
    assert list(tmp_path.glob("file*")) == []


def test_m502_names_modpkg_home_where_that_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "home"))
    inside, outside = disk_full(tmp_path / "home" / "store"), disk_full(tmp_path / "out")
    assert "set MODPKG_HOME to a folder on another disk" in str(inside)
    assert str(outside).endswith("Free some, or choose a folder on another disk.")


def test_m508_of_a_copy_in_an_environment_says_to_install_it_again(tmp_path: Path) -> None:
    pack = tmp_path / ".modpkg" / "packs" / "a"
    pack.parent.mkdir(parents=True)
    pack.touch()
    assert str(changed_file("a", pack)).endswith(f"; remove {pack} and run 'modpkg install'.")
    os.link(pack, tmp_path / "b")
    assert "run 'modpkg store verify' to repair it; if that" in str(changed_file("a", pack))
    in_store = str(changed_file("a", tmp_path / "b"))
    assert in_store.endswith("; run 'modpkg store verify' to repair it.")


def test_blobs_are_verified_going_in_and_coming_out(tmp_path: Path) -> None:
    tree = BlobTree(tmp_path)
    digest = tree.add(b"data")
    assert tree.read(digest, "it") == b"data"
    wrong = digest_bytes(b"other")
    with raises("M305"):
        tree.add_stream([b"data"], wrong, "it", "there")
    assert not tree.has(wrong)
    with raises("M306"):
        tree.read(wrong, "it")
    path = tree.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"dat4")
    with raises("M305", match="tampered"):
        tree.read(digest, "it")


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "sha256:" + "../" * 21 + "a"]
)
def test_a_digest_is_the_only_way_to_a_blob_path(text: str) -> None:
    with raises("M104"):
        parse_digest(text)


def test_links_are_made_where_they_can_be(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    link_or_copy(source, tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target").stat().st_ino == source.stat().st_ino


def test_sizes_are_shown_in_decimal_units() -> None:
    shown = [human_bytes(n) for n in (0, 999, 1000, 999_949, 999_950, 10**9, 5 * 10**13)]
    assert shown == ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.0 GB", "50.0 TB"]


# A disk that fails --------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def ended() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_by_the_next_write(place: Path, ended: int) -> None:
    space, target = system_processes.process_space(), place / "file"
    gone = place / f".tmp-file-{space}-{ended}-01234567"
    folder = place / f".tmp-models-{space}-{ended}-01234567"
    (folder / "inside").mkdir(parents=True)
    alive = place / f".tmp-file-{space}-{os.getppid()}-01234567"
    elsewhere = place / f".tmp-file-00000000-{ended}-01234567"
    foreign = place / ".tmp-of-another-program"
    for path in (gone, alive, elsewhere, foreign):
        path.write_bytes(b"half")
    assert sorted(leftovers(place)) == [gone, folder]
    write_atomically(target, b"whole")
    assert sorted(place.iterdir()) == sorted([target, alive, elsewhere, foreign])
    week = time.time() - LEFT_ALONE - 1
    os.utime(elsewhere, (week, week))
    assert leftovers(place) == [elsewhere]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere such a process counts as running")
def test_a_killed_process_that_nobody_waited_for_has_ended(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        left = place / f".tmp-file-{system_processes.process_space()}-{process.pid}-01234567"
        left.write_bytes(b"half")
        assert leftovers(place) == [left]


def test_links_that_look_left_over_are_not_followed(tmp_path: Path, ended: int) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"data")
    place = tmp_path / "place"
    place.mkdir()
    (place / f".tmp-x-{system_processes.process_space()}-{ended}-01234567").symlink_to(precious)
    write_atomically(place / "file", b"")
    assert [path.name for path in place.iterdir()] == ["file"]
    assert (precious / "file").exists()


def failing(error: int) -> object:
    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_an_error_that_names_no_file_is_told_with_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = place / "file"
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with raises("M510", match="check that its disk is sound") as caught, os_errors_told():
        write_atomically(target, b"data")
    assert caught.value.values["path"] == str(target)
    assert list(place.iterdir()) == []
    monkeypatch.setattr(os, "fsync", failing(errno.EDQUOT))
    with raises("M517"):
        write_atomically(target, b"data")
    with raises("M502"), disk_errors(place):
        raise OSError(errno.ENOSPC, "full")


def test_the_file_in_hand_is_named(tmp_path: Path) -> None:
    def reads(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    temporary = temporary_sibling(tmp_path / "weights")
    for path in (tmp_path / "weights", temporary, temporary / "inside"):
        try:
            reads(path)
        except OSError as error:
            told = refusal_of(error)
        wanted = tmp_path / "weights"
        assert told.values["path"] == str(wanted / "inside" if path.name == "inside" else wanted)


def test_half_of_a_file_is_not_taken_for_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert (read_file(path), read_head(path, 4)) == (b"0123456789", b"0123")
    read, pieces = os.read, iter((4, 0, 4, 0))
    monkeypatch.setattr(os, "read", lambda file, count: read(file, next(pieces)))
    with pytest.raises(CutShort):
        read_file(path)
    with pytest.raises(CutShort):
        read_head(path, 8)
    monkeypatch.undo()
    assert digest_file(path, 8, 4) == digest_bytes(b"89")  # it is as short as it says


def test_a_tree_is_replaced_or_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = place / "dist", place / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / folder.name).touch()
    rename, calls = OpenFolder.rename, iter((True, False, True))

    def once(*arguments: Any, **options: Any) -> None:
        if not next(calls):
            raise OSError(errno.EIO, "no")
        rename(*arguments, **options)

    monkeypatch.setattr(OpenFolder, "rename", once)
    with pytest.raises(OSError, match="no"):
        replace_tree(new, old)
    assert [path.name for path in old.iterdir()] == ["dist"]
    monkeypatch.undo()
    replace_tree(new, old)
    assert [path.name for path in place.iterdir()] == ["dist"]
    assert [path.name for path in old.iterdir()] == ["new"]


def test_m512_of_more_than_is_read_of_such_a_file(tmp_path: Path) -> None:
    error = refusal_of(OversizedFile(tmp_path / "modpkg.toml", 1 << 20))
    assert error.code == "M512"
    assert "1.0 MiB" in str(error) or "1.0 MB" in str(error)


def test_small_files_are_written_by_many_threads(place: Path) -> None:
    def write(number: int) -> None:
        flush = bool(number % 2)
        write_atomically(place / f"{number % 5}", b"%d" % number * 1000, flush=flush)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    assert sorted(path.name for path in place.iterdir()) == ["0", "1", "2", "3", "4"]
    for path in place.iterdir():
        assert path.read_bytes() in {b"%d" % number * 1000 for number in range(80)}
