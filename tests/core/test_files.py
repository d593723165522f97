from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.errors import InvalidValue
from modpkg.core.files import human_bytes, link_or_copy, safe_path, write_atomically
from modpkg.core.tree import BlobTree
from tests.raising import raises

UNSAFE = [
    "",
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a//b",
    "./a",
    "a/.",
    "C:/x",
    "a\\b",
    "a\x00b",
    "a\nb",
    "con",
    "a/NUL.txt",
    "aux.json",
    "con .json",
    "lpt\u00b9.txt",
    "CONOUT$",
    "com1/config.json",
    "a /b",
    "a.",
    "x" * 600,
]


@pytest.mark.parametrize("path", UNSAFE)
def test_hostile_paths_are_refused(path: str) -> None:
    with raises("M105"):
        safe_path(path)


@given(st.text(max_size=30))
def test_an_accepted_path_stays_inside(text: str) -> None:
    try:
        path = safe_path(text)
    except InvalidValue:
        return
    joined = os.path.normpath(os.path.join("/base/folder", path))
    assert joined.startswith("/base/folder/")


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
