"""Files are opened without waiting, looked at when open, and read up to a bound."""

from __future__ import annotations

import ast
import os
import socket
from pathlib import Path

import pytest

import modpkg
from modpkg.core import system
from modpkg.core.files import refusal_of
from modpkg.core.regular_file import (
    IrregularFile,
    OversizedFile,
    check_regular,
    open_file,
    read_file,
    read_head,
    read_text,
)

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")


def irregular(folder: Path, kind: str) -> Path:
    """Make what no file is, and return its path."""
    path = folder / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@needs_pipes
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = irregular(tmp_path, kind)
    expected = IsADirectoryError if kind == "folder" else IrregularFile
    for read in (read_file, read_text, open_file, check_regular, lambda p: read_head(p, 10)):
        with pytest.raises(expected) as caught:
            read(path)
        assert caught.value.filename == str(path)
    told = refusal_of(caught.value)
    assert told.code == ("M510" if kind == "folder" else "M511")
    assert system.read_pointer(path) in (None, "/dev/zero")


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert (read_file(path, 5), read_head(path, 3), read_file(path)) == (b"12345", b"123", b"12345")
    with pytest.raises(OversizedFile) as caught:
        read_file(path, 4)
    assert refusal_of(caught.value).values == {"path": str(path), "limit": "4 B"}
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OversizedFile):
        read_file(path)


def test_a_file_that_is_longer_than_stat_says_is_read_up_to_its_bound() -> None:
    path = Path("/proc/self/maps")
    if not path.exists():
        pytest.skip("a system without /proc")
    assert path.stat().st_size == 0
    assert len(read_file(path)) > 1000
    with pytest.raises(OversizedFile):
        read_file(path, 1000)


def test_a_link_is_followed_only_where_links_are_expected(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a\r\nb\rc")
    (tmp_path / "link").symlink_to("x")
    assert read_text(tmp_path / "link") == "a\nb\nc"
    with pytest.raises(IrregularFile, match="it is a link"):
        read_file(tmp_path / "link", follow=False)


def test_writing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for make in (system.update_descriptor, system.append_descriptor):
        with pytest.raises(OSError, match="symbolic"):
            make(tmp_path / "link")
    assert not (tmp_path / "other").exists()


READS = {"read_bytes", "read_text"}
OPENED_ELSEWHERE = (
    "core/system_limits.py",
    "compose/template_process.py",
    "core/regular_file.py",
    "core/system.py",
    "core/system_folders.py",
)


def test_no_other_file_of_modpkg_reads_files_by_itself() -> None:
    root = Path(modpkg.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        if path.relative_to(root).as_posix() in OPENED_ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and node.func.attr in READS:
                found.append(f"{path.name}:{node.lineno}")
            elif isinstance(node.func, ast.Name) and node.func.id == "open":
                mode = node.args[1] if len(node.args) > 1 else None
                writes = isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wxa+")
                if not writes:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("size", [1, 3, 10, 1 << 17])
def test_a_file_that_comes_in_pieces_is_read_to_its_end(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole = tmp_path / "file", bytes(range(256)) * 40
    path.write_bytes(whole)
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, most: read(descriptor, min(most, size)))
    assert read_file(path) == whole
    assert read_head(path, 1000) == whole[:1000]


def test_a_file_that_grows_is_read_up_to_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, status = tmp_path / "file", os.fstat
    path.write_bytes(b"1234567890")

    def shorter(descriptor: int) -> os.stat_result:
        fields = [*status(descriptor)]
        fields[6] = 4
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", shorter)
    assert read_file(path, 10) == b"1234567890"
    with pytest.raises(OversizedFile):
        read_file(path, 9)
