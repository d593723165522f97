"""Copies that are hashed on the bytes that are written."""

from __future__ import annotations

import ctypes
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modpkg.core import hashed_copy, system_writeback
from modpkg.core.hashed_copy import copy_hashed

DATA = bytes(range(256)) * 20_000


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("length", [0, 1, 3_000_000, 5_119_000, 9_000_000])
def test_what_is_hashed_is_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, threads: int
) -> None:
    monkeypatch.setattr(hashed_copy, "STEP", (1 << 20) + 7)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(DATA)
    first, second = hashlib.sha256(), hashlib.sha256(b"head")
    with open(source, "rb") as old, open(target, "xb") as new, ThreadPoolExecutor(2) as pool:
        count = copy_hashed(
            old.fileno(),
            1000,
            length,
            new.fileno(),
            4,
            (first, second),
            beside=pool if threads else None,
        )
    wanted = DATA[1000 : 1000 + length]
    assert count == len(wanted)
    assert target.read_bytes()[4:] == wanted
    assert first.digest() == hashlib.sha256(wanted).digest()
    assert second.digest() == hashlib.sha256(b"head" + wanted).digest()


def test_a_check_ends_the_copy(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)

    def stop() -> None:
        raise InterruptedError

    with (
        open(tmp_path / "source", "rb") as old,
        open(tmp_path / "target", "xb") as new,
        pytest.raises(InterruptedError),
    ):
        copy_hashed(old.fileno(), 0, 9, new.fileno(), 0, (hashlib.sha256(),), check=stop)
    assert (tmp_path / "target").read_bytes() == b""


def test_a_system_without_early_writing_writes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "file", "xb", buffering=0) as file:
        file.write(DATA)
        system_writeback.begin_writing(file.fileno(), 0, len(DATA))
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: os)
        system_writeback._call.cache_clear()
        system_writeback.begin_writing(file.fileno(), 0, len(DATA))
        system_writeback._call.cache_clear()
    assert (tmp_path / "file").read_bytes() == DATA
