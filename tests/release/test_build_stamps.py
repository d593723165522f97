"""A file that is unchanged since a build hashed it is not hashed again, and any other file is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modpkg.community.modules import view
from modpkg.core import system_folders, tree
from modpkg.core.digests import digest_file
from modpkg.core.filenames import DIST
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.reader import Registry
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.writer import RegistryWriter
from modpkg.release import verify
from modpkg.release.build_stamps import (
    STAMPS,
    read_stamps,
    stamp_of,
    stamps_of,
    unchanged,
    without_new,
)
from tests.changing import build_for, numbers, write
from tests.raising import raises

LONG_AGO = 1_600_000_000


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project that was built from weights that are not new."""
    folder = write(tmp_path / "m", numbers("a", "b"))
    os.utime(folder / "model.safetensors", (LONG_AGO, LONG_AGO))
    build_for(folder, tmp_path / "registry")
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of files that are hashed from now on."""
    paths: list[Path] = []

    def counting(path: Path, offset: int = 0, length: int | None = None) -> str:
        paths.append(path)
        return digest_file(path, offset, length)

    for module in (view, verify):
        monkeypatch.setattr(module, "digest_file", counting)
    return paths


def weights_hashed(project: Path, hashed: list[Path]) -> int:
    """Return how many tensors a check of the project hashes."""
    hashed.clear()
    checked = view.view_of_project(read_manifest(project / "modpkg.toml"))
    assert set(checked.tensors) == {"a", "b"}
    return sum(path.suffix == ".safetensors" for path in hashed)


def test_unchanged_weights_are_not_hashed_again(project: Path, hashed: list[Path]) -> None:
    before = view.view_of_project(read_manifest(project / "modpkg.toml"))
    assert weights_hashed(project, hashed) == 0
    (project / DIST / STAMPS).unlink()
    assert weights_hashed(project, hashed) == 2
    after = view.view_of_project(read_manifest(project / "modpkg.toml"))
    assert {n: t.digest for n, t in before.tensors.items()} == {
        n: t.digest for n, t in after.tensors.items()
    }


@pytest.mark.parametrize("change", ["time", "inode", "size"])
def test_weights_with_another_stamp_are_hashed(
    change: str, project: Path, hashed: list[Path]
) -> None:
    weights = project / "model.safetensors"
    if change == "time":
        os.utime(weights, (LONG_AGO, LONG_AGO + 1))
    elif change == "inode":
        copy = project / "copy"
        copy.write_bytes(weights.read_bytes())
        copy.rename(weights)
        os.utime(weights, (LONG_AGO, LONG_AGO))
    else:
        weights.write_bytes(weights.read_bytes() + b"\0")
        os.utime(weights, (LONG_AGO, LONG_AGO))
        with raises("M201"):
            weights_hashed(project, hashed)
        return
    assert weights_hashed(project, hashed) == 2


def test_a_file_changed_just_before_the_build_has_no_stamp(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    os.utime(file, ns=(0, time.time_ns() + 60 * 10**9))  # just now, as long as this test takes
    assert without_new(stamps_of({"f": file})) == {}
    os.utime(file, ns=(0, time.time_ns() - 10**9))
    assert without_new(stamps_of({"f": file})) == {"f": stamp_of(file)}


def test_a_missing_file_is_not_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    stamps = {"f": stamp_of(file), "g": stamp_of(file)}
    assert unchanged(stamps, {"f": file}) == {"f"}
    file.unlink()
    assert unchanged(stamps, {"f": file}) == set()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"release": 1, "sources": {}, "packs": {}}'])
def test_broken_stamps_are_ignored(text: str, project: Path, hashed: list[Path]) -> None:
    (project / DIST / STAMPS).write_text(text)
    assert weights_hashed(project, hashed) == 2


def test_publishing_trusts_an_unchanged_pack_and_hashes_any_other(
    project: Path, hashed: list[Path], tmp_path: Path
) -> None:
    built = Registry(str(project / DIST))
    (line,) = built.index("m")
    assert read_stamps(project / DIST, line.release) is not None
    RegistryWriter(tmp_path / "one").publish(built, line)
    assert hashed == []
    os.utime(_pack(project), (LONG_AGO, LONG_AGO))
    RegistryWriter(tmp_path / "two").publish(built, line)
    assert len(hashed) == 2


@pytest.mark.parametrize("linked", [True, False])
def test_an_unchanged_pack_is_linked_and_a_copy_is_hashed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return digest_file(path)

    monkeypatch.setattr(tree, "digest_file", counting)
    if not linked:
        monkeypatch.setattr(system_folders.system, "hard_link", lambda *_, **__: False)
    built = Registry(str(project / DIST))
    (line,) = built.index("m")
    record = built.record(line)
    RegistryWriter(tmp_path / "one").publish(built, line)
    pack = _pack(project)
    assert sum(path.stat().st_size == pack.stat().st_size for path in _blobs(tmp_path / "one")) == 1
    assert len(hashed) == len(blobs_of(record)) + (0 if linked else 1)
    assert verify.verify_release(record, BlobTree(tmp_path / "one").path) is None


def test_a_copy_that_is_damaged_is_not_published(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(source: Path, target: Path, *, within: Path | None = None) -> bool:
        target.write_bytes(source.read_bytes()[:-1] + b"?")
        return False

    monkeypatch.setattr(tree, "share_file", damaged)
    built = Registry(str(project / DIST))
    (line,) = built.index("m")
    with raises("M305"):
        RegistryWriter(tmp_path / "one").publish(built, line)
    assert _blobs(tmp_path / "one") == []


@pytest.mark.parametrize("change", ["removed", "shorter"])
def test_publishing_again_restores_what_the_registry_lost(
    project: Path, tmp_path: Path, change: str
) -> None:
    built, writer = Registry(str(project / DIST)), RegistryWriter(tmp_path / "one")
    (line,) = built.index("m")
    published = writer.publish(built, line)
    blobs = {path: path.read_bytes() for path in _blobs(tmp_path / "one")}
    for path, data in blobs.items():
        path.unlink()
        if change == "shorter":
            path.write_bytes(data[:-1])
    assert writer.publish(built, line) == published
    assert {path: path.read_bytes() for path in _blobs(tmp_path / "one")} == blobs
    assert writer.restored == sum(map(len, blobs.values()))
    writer.publish(built, line)
    assert writer.restored == 0


def _blobs(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("blobs/**/*") if path.is_file()]


@pytest.mark.parametrize("time_restored", [False, True])
def test_a_pack_of_the_same_size_and_other_bytes_is_refused(
    project: Path, tmp_path: Path, time_restored: bool
) -> None:
    pack = _pack(project)
    before = pack.stat()
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    if time_restored:
        os.utime(pack, ns=(before.st_atime_ns, before.st_mtime_ns))
    built = Registry(str(project / DIST))
    (line,) = built.index("m")
    with raises("M305"):
        RegistryWriter(tmp_path / "one").publish(built, line)


def _pack(project: Path) -> Path:
    """Return the largest blob of the built tree: its pack."""
    blobs = (project / DIST / "blobs").rglob("*")
    return max((path for path in blobs if path.is_file()), key=lambda path: path.stat().st_size)
