"""An environment that came with a repository, or that was changed, is never taken as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec import structs

import modpkg as package
from modpkg.core.digests import digest_file
from modpkg.core.installed import InstalledModel, read_model
from modpkg.core.interface import weights_digest
from modpkg.core.sealed import seal
from tests import tiny
from tests.command import modpkg
from tests.raising import raises

MODEL = Path(".modpkg/generations/1/models/tiny")


@pytest.fixture
def app(home: Path, tmp_path: Path) -> Path:
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntiny = "*"\n')
    modpkg("install", cwd=folder)
    return folder


def forge_weights(folder: Path, model: InstalledModel) -> InstalledModel:
    """Zero every tensor, and let the record have the digests of that."""
    tensors = {}
    for name, ref in model.tensors.items():
        pack = folder / ".modpkg/packs" / ref.file
        data = bytearray(pack.read_bytes())
        data[ref.offset : ref.offset + ref.length] = bytes(ref.length)
        pack.unlink()  # it may be linked to the store's
        pack.write_bytes(data)
        digest = digest_file(pack, ref.offset, ref.length)
        tensors[name] = structs.replace(ref, digest=digest)
    return structs.replace(model, tensors=tensors, result=weights_digest(tensors))


def forge_bytes(folder: Path, model: InstalledModel) -> InstalledModel:
    """Zero every tensor, under the record as it was."""
    forge_weights(folder, model)
    return model


def forge_config(folder: Path, model: InstalledModel) -> InstalledModel:
    config = folder / MODEL / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.5}))
    return structs.replace(model, files={"config.json": digest_file(config)})


def forge_key(folder: Path, model: InstalledModel) -> InstalledModel:
    return structs.replace(forge_weights(folder, model), key="sha256:" + "0" * 64)


@pytest.mark.parametrize("forge", [forge_weights, forge_bytes, forge_config, forge_key])
@pytest.mark.parametrize("arguments", [(), ("--frozen",)])
def test_what_a_clone_brings_is_replaced(
    forge: Callable[[Path, InstalledModel], InstalledModel],
    arguments: tuple[str, ...],
    app: Path,
    tmp_path: Path,
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(app, clone, symlinks=True)
    (clone / MODEL / "model.json").write_bytes(seal(forge(clone, read_model(clone / MODEL))))
    modpkg("install", *arguments, cwd=clone)
    expected, got = (package.load("tiny", project=folder) for folder in (app, clone))
    assert got.config.rms_norm_eps == expected.config.rms_norm_eps
    weights = got.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in expected.state_dict().items())
    assert "Nothing to do" in modpkg("install", *arguments, cwd=clone).stdout


@pytest.mark.parametrize("forge", [forge_weights, forge_key])
def test_a_result_other_than_the_locks_is_replaced(
    forge: Callable[[Path, InstalledModel], InstalledModel], app: Path
) -> None:
    (app / MODEL / "model.json").write_bytes(seal(forge(app, read_model(app / MODEL))))
    modpkg("install", cwd=app)
    assert package.load("tiny", project=app).state_dict()["model.norm.weight"].any()


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_a_file_beside_a_model_is_checked(change: str, app: Path) -> None:
    config = app / MODEL / "config.json"
    if change == "changed":
        config.write_text(config.read_text() + "\n")
    elif change == "added":
        (app / MODEL / "generation_config.json").write_text("{}")
    else:
        config.unlink()
    with raises("M506"):
        package.load("tiny", project=app)
    modpkg("install", cwd=app)
    package.load("tiny", project=app)
