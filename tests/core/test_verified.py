"""A verified file counts as long as nothing about it has changed."""

from __future__ import annotations

import os
from pathlib import Path

from modpkg.core.verified import VerifiedFiles


def test_a_file_is_verified_until_its_stat_changes(tmp_path: Path) -> None:
    path = tmp_path / "pack"
    path.write_bytes(b"one")
    verified = VerifiedFiles()
    assert path not in verified
    verified.add(path)
    assert path in verified
    assert str(path) in verified
    times = path.stat().st_mtime_ns
    os.utime(path, ns=(times, times + 1))
    assert path not in verified
    os.utime(path, ns=(times, times))
    assert path in verified


def test_another_file_in_its_place_is_not_verified(tmp_path: Path) -> None:
    path, other = tmp_path / "pack", tmp_path / "other"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    times = path.stat().st_mtime_ns
    verified = VerifiedFiles()
    verified.add(path)
    os.utime(other, ns=(times, times))
    other.replace(path)
    assert path not in verified
    path.unlink()
    assert path not in verified
