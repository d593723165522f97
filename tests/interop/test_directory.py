"""``modpkg.path``: folders whose weights are linked, on disks that may be read-only."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch

import modpkg
from modpkg.core import files, system
from modpkg.core.names import parse_requirement
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import find_project
from modpkg.environment.repair import repair
from modpkg.environment.workspace import Workspace
from modpkg.interop import weights
from modpkg.store import grouping
from modpkg.store.contents import scan_store
from modpkg.store.corruption import find_corruption
from tests.raising import raises
from tests.runtime.helpers import publish_two_adapters

IDS = torch.tensor([[3, 4, 5]])


@pytest.fixture
def workspace(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The user's environment with a base and two adapters of the same layers."""
    monkeypatch.setattr(grouping, "LARGE", 1)
    monkeypatch.setattr(weights, "SMALL", 0)
    publish_two_adapters(home / "registry", tmp_path / "p")
    workspace = Workspace(find_project())
    names = ("tiny", "lora-1", "lora-2")
    install(workspace, InstallRequest(add=[parse_requirement(name) for name in names]))
    return workspace


def disk_of(*folders: Path) -> int:
    """Return the bytes of safetensors files in folders; one with several links counts once."""
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    stats = {path.stat().st_ino: path.stat().st_size for path in paths if _has_weights(path)}
    return sum(stats.values())


def _has_weights(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(64)[8:9] == b"{" and path.suffix != ".json"


def taken(workspace: Workspace) -> int:
    return disk_of(workspace.store.root, workspace.environment.root)


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    return found


def test_a_folder_costs_no_bytes(workspace: Workspace) -> None:
    for name in ("tiny", "lora-1", "lora-2"):
        wanted = modpkg.load(name)(IDS).logits  # composes, if it is an adapter
        before = taken(workspace)
        folder = modpkg.path(name)
        assert taken(workspace) == before, name
        assert torch.equal(logits(folder), wanted)
        found = sorted(folder.glob("*.safetensors"))
        assert len(found) > 1
        assert {path.stat().st_mode & 0o777 for path in found} == {0o444}
        assert modpkg.path(name) == folder
    before = taken(workspace)
    adapter = modpkg.path("lora-1", form="peft")
    assert (adapter / "adapter_model.safetensors").stat().st_nlink > 1
    assert taken(workspace) == before


def test_what_no_pack_holds_is_copied_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SMALL", 1 << 20)  # so one file, which no pack is
    wanted = modpkg.load("lora-1")(IDS).logits
    before = taken(workspace)
    folder = modpkg.path("lora-1")
    after = taken(workspace)
    size = (folder / "model.safetensors").stat().st_size
    assert after == before + size
    assert torch.equal(logits(folder), wanted)
    (workspace.project.manifest_path).write_text(workspace.text + "\n")
    install(Workspace(workspace.project), InstallRequest())  # another generation
    again = modpkg.path("lora-1")
    assert again != folder
    assert taken(workspace) == after
    assert torch.equal(logits(again), wanted)
    assert not find_corruption(workspace.store, scan_store(workspace.store))


def test_a_store_elsewhere_is_not_copied_into(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "store")

    wanted = modpkg.load("lora-1")(IDS).logits
    monkeypatch.setattr(weights, "SMALL", 1 << 20)
    monkeypatch.setattr(weights, "pack_named", refuse)
    folder = modpkg.path("lora-1")
    assert torch.equal(logits(folder), wanted)
    assert (folder / "model.safetensors").stat().st_nlink == 1


@pytest.mark.parametrize("share", ["reflink", "link", "copy"])
def test_a_file_that_is_shared_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"1234")
    source.chmod(0o444)
    if share == "reflink":
        monkeypatch.setattr(system, "share_blocks", lambda one, other: os.write(other, b"1234"))
    if share == "copy":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "")))
    files.share_file(source, target)
    assert target.read_bytes() == b"1234"
    assert target.stat().st_mode & 0o777 == 0o444
    assert (target.stat().st_nlink == 2) == (share == "link")


def test_a_folder_that_is_there_needs_no_writing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {form: modpkg.path("lora-1", form=form) for form in ("hf", "peft")}

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(os, "mkdir", refuse)
    for form, folder in there.items():
        assert modpkg.path("lora-1", form=form) == folder
    for form in ("hf", "peft"):
        with raises("M728", match="read-only"):
            modpkg.path("lora-2", form=form)
    with raises("M728", match="read-only"):
        modpkg.path("tiny")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_is_read_only_gives_what_is_there(workspace: Workspace, home: Path) -> None:
    there = modpkg.path("lora-1")
    subprocess.run(["mount", "--bind", home, home], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", home, home], check=True)
        assert modpkg.path("lora-1") == there
        fused = modpkg.load("lora-1")(IDS).logits
        live = modpkg.load(["lora-1", "lora-2"], live=True)  # the store's index and locks too
        assert torch.allclose(live(IDS).logits, fused, atol=1e-6)
        assert modpkg.tokenizer("lora-2") is not None
        with raises("M840", match="read-only"):
            modpkg.load("lora-2")  # nobody has composed it yet
        for name, form in (("lora-2", "hf"), ("lora-2", "peft"), ("tiny", "hf")):
            with raises("M728", match="read-only"):
                modpkg.path(name, form=form)  # type: ignore[arg-type]
    finally:
        subprocess.run(["umount", "-l", home], check=True)  # models map it


def test_a_write_into_a_folder_is_found_and_repaired(workspace: Workspace) -> None:
    wanted = modpkg.load("lora-1")(IDS).logits
    folder = modpkg.path("lora-1")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    corruptions = find_corruption(workspace.store, scan_store(workspace.store))
    assert {item.kind for item in corruptions} == {"tensor", "composed"}
    assert len(repair(workspace, corruptions)) == len(corruptions)
    assert not find_corruption(workspace.store, scan_store(workspace.store))
    assert torch.equal(logits(modpkg.path("lora-1")), wanted)


def test_a_file_that_was_written_over_is_not_loaded(workspace: Workspace) -> None:
    from safetensors.torch import load_file, save

    path = next(modpkg.path("tiny").glob("*.safetensors"))
    data = save(load_file(path), {"format": "pt", "by": "another program" * 99})
    path.chmod(0o644)
    with open(path, "r+b") as file:  # in place, as save_file of earlier versions
        file.truncate()
        file.write(data)
    with raises("M506", match="another program"):
        modpkg.load("tiny")


def test_a_folder_of_what_cannot_be_repaired_is_removed(workspace: Workspace, home: Path) -> None:
    folder, kept = modpkg.path("lora-1"), modpkg.path("lora-1", form="peft")
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])
    (home / "registry").rename(home / "elsewhere")
    damaged = find_corruption(workspace.store, scan_store(workspace.store))
    assert repair(workspace, damaged) == []
    assert not folder.exists()
    assert kept.exists()
