"""What differs between systems: each way, and that both ways give the same."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modpkg.core import system, system_processes
from modpkg.core.file_lock import file_lock
from modpkg.core.files import denied, refusal_of, remove_tree


@pytest.fixture(params=["own", "plain"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This system, and one that has none of the functions."""
    if request.param == "plain":
        for name in ("pread", "preadv", "pwrite", "copy_file_range", "posix_fallocate", "fchmod"):
            monkeypatch.delattr(os, name, raising=False)
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "WINDOWS", True)
    monkeypatch.setattr(system, "_PATIENCE", (0.001,))


@pytest.mark.usefixtures("each_way")
def test_threads_read_and_write_at_positions(tmp_path: Path) -> None:
    file = system.update_descriptor(tmp_path / "file")
    system.reserve(file, 1 << 16)
    assert os.fstat(file).st_size == 1 << 16

    def fill(number: int) -> None:
        for at in range(number, 256, 8):
            system.write_at(file, bytes([at]) * 256, at * 256)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = bytearray(1 << 16)
    for at in reversed(range(256)):
        assert system.read_at(file, memoryview(whole)[at * 256 : at * 256 + 256], at * 256) == 256
    assert bytes(whole) == b"".join(bytes([at]) * 256 for at in range(256))
    assert system.read_at(file, memoryview(bytearray(9)), 1 << 16) == 0
    other = system.update_descriptor(tmp_path / "other")
    assert system.copy_range(file, 255 * 256, other, 3, 1000) == 256
    assert (tmp_path / "other").read_bytes() == bytes(3) + b"\xff" * 256
    system.reserve(file, 10)
    assert (tmp_path / "file").read_bytes() == bytes(10)
    os.close(file)
    os.close(other)


@pytest.mark.usefixtures("each_way")
def test_there_is_a_core_at_least() -> None:
    assert system.available_cores() >= 1


def test_a_pointer_is_a_link_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system.make_pointer(tmp_path / "link", "generations/12")
    assert (tmp_path / "link").is_symlink()
    monkeypatch.delattr(os, "symlink")
    system.make_pointer(tmp_path / "file", "generations/12")
    assert (tmp_path / "file").read_bytes() == b"generations/12"
    for name in ("link", "file"):
        assert system.read_pointer(tmp_path / name) == "generations/12"
    system.replace(tmp_path / "file", tmp_path / "link")
    monkeypatch.delattr(os, "readlink")
    assert system.read_pointer(tmp_path / "link") == "generations/12"
    assert system.read_pointer(tmp_path / "missing") is None
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert system.read_pointer(tmp_path / "binary") is None


def in_use(*arguments: object) -> None:
    error = PermissionError(errno.EACCES, "used by another process", str(arguments[0]))
    error.winerror = 32  # type: ignore[attr-defined]
    raise error


@pytest.mark.usefixtures("windows")
def test_a_file_that_is_open_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder/open", "folder/closed"):
        (tmp_path / name).write_bytes(b"")
    unlink = os.unlink

    def some(path: str, **options: object) -> None:
        in_use(path) if os.fspath(path).endswith("open") else unlink(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", in_use)
        assert not system.remove_file(tmp_path / "file")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", in_use)
        patched.setattr(os, "unlink", some)
        remove_tree(tmp_path / "folder")
        with pytest.raises(PermissionError) as refused:
            system.replace(tmp_path / "file", tmp_path / "new")
    assert system.remove_file(tmp_path / "file")
    assert system.remove_file(tmp_path / "file")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["open"]
    error = denied(refused.value)
    assert error is not None
    assert "close the program that has it open" in str(error)


@pytest.mark.usefixtures("windows")
def test_a_scanner_that_has_a_file_open_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_bytes(b"")
    replace, tries = os.replace, []

    def busy(*arguments: str) -> None:
        tries.append(arguments)
        if len(tries) < 2:
            in_use(*arguments)
        replace(*arguments)

    monkeypatch.setattr(os, "replace", busy)
    system.replace(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").exists()


@pytest.mark.usefixtures("windows")
def test_a_path_that_windows_finds_too_long_is_told_so() -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file", "C:\\" + "x" * 260)
    assert "turn on long paths in Windows" in str(refusal_of(error))
    error = FileNotFoundError(errno.ENOENT, "No such file", "C:\\x")
    assert "long paths" not in str(refusal_of(error))


@pytest.mark.usefixtures("windows")
def test_drives_and_words_are_those_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.path_of_url("/C:/my%20models") == Path("C:/my models")
    assert system.path_of_url("/models") == Path("/models")
    assert system.shell_word(r"C:\my models") == r'"C:\my models"'
    monkeypatch.setenv("COMSPEC", r"C:\cmd.exe")
    assert system.shell_command("echo a") == [r"C:\cmd.exe", "/c", "echo a"]
    assert not system.others_can_read(0o644)


def test_locks_without_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared lock is shared within the process, in other threads too; an exclusive one is not."""
    monkeypatch.setattr("modpkg.core.file_lock.descriptor_locks", tuple)
    path, order = tmp_path / "lock", []

    def share(number: int) -> None:
        with file_lock(path):
            order.append(number)

    def own() -> None:
        with file_lock(path, exclusive=True, waiting=lambda: order.append(-1)):
            order.append(9)

    with file_lock(path), file_lock(path):
        threads = [threading.Thread(target=share, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        waits = threading.Thread(target=own)
        waits.start()
        while -1 not in order:
            waits.join(0.01)
        assert sorted(order) == [-1, 0, 1, 2]
    waits.join()
    assert order[-1] == 9


def test_all_that_a_process_started_ends_with_it() -> None:
    code = (
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(inner.pid, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **system_processes.group_options(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline()
    system_processes.kill_group(process)
    assert process.poll() is not None
    assert process.stdout.read() == b""  # once nobody has the pipe's other end
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii", "utf-8"])
def test_a_console_takes_any_text(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    monkeypatch.setattr(sys, "stdout", out)
    system.prepare_console()
    print("ä 你好 \udcff └──")
    out.flush()
    written = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert written.encode(encoding, "backslashreplace").decode(encoding) == written
    assert r"\udcff" in written
    assert ("你好" if encoding == "utf-8" else r"\u4f60\u597d") in written


def test_what_a_person_chose_for_a_console_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), "ascii", "replace")
    monkeypatch.setattr(sys, "stdout", out)
    system.prepare_console()
    assert out.errors == "replace"
