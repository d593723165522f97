"""What is fetched has to fit on the disk, and leave a reserve."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from modpkg.core.bounds import DISK_RESERVE
from modpkg.transfer.fetch import check_space
from modpkg.transfer.staging import disk_usage
from tests.raising import raises

FREE = DISK_RESERVE + 1000


@pytest.mark.parametrize(
    ("free", "needed", "fits"),
    [
        (FREE, 1000, True),
        (FREE, 1001, False),
        (DISK_RESERVE, 1, False),
        (DISK_RESERVE - 1, 0, True),
        (0, 0, True),
    ],
)
def test_a_reserve_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, needed: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    folder = tmp_path / "store" / "new"
    with (
        contextlib.nullcontext() if fits else raises("M502", match="beside 16.8 MB that stay free")
    ):
        check_space(folder, needed)
    assert folder.is_dir()


def test_an_unfinished_pack_that_another_process_finishes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "name.pack").write_bytes(bytes(3))
    (tmp_path / "name.spool").write_bytes(bytes(4))
    usage = disk_usage(tmp_path, "name")
    assert usage > 0
    monkeypatch.setattr(Path, "exists", lambda self: True)  # until it is looked at
    for path in tmp_path.glob("name.*"):
        path.unlink()
    assert disk_usage(tmp_path, "name") == 0
