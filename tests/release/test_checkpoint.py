"""A folder's weights are what its index names, or model.safetensors; nothing is poured together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.core.packs import read_pack_header
from modpkg.release.checkpoint import checkpoint_of
from tests.conftest import safetensors_bytes
from tests.raising import raises
from tests.tiny import publish, write_adapter, write_base

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def weights(path: Path, *names: str) -> None:
    tensors = {name: ("F32", [1], b"\0\0\0\0") for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(tensors))


def shards(folder: Path, *, index: bool = True) -> Path:
    weights(folder / ONE, "a", "b")
    weights(folder / TWO, "c")
    if index:
        table = {"weight_map": {"a": ONE, "b": ONE, "c": TWO}}
        (folder / INDEX).write_text(json.dumps(table))
    return folder


def test_what_the_index_names(tmp_path: Path) -> None:
    shards(tmp_path)
    for other in ("consolidated.safetensors", "adapter_model.safetensors", "model.safetensors"):
        weights(tmp_path / other, "a", "x")
    weights(tmp_path / "original" / "model.safetensors", "a")
    assert checkpoint_of(tmp_path).files == (ONE, TWO)


def test_one_file(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "a")
    weights(tmp_path / "consolidated.safetensors", "b")
    assert checkpoint_of(tmp_path).files == ("model.safetensors",)


def test_an_index_of_an_earlier_save_is_passed_over(tmp_path: Path) -> None:
    """transformers removes the shards when it saves one file, and leaves their index."""
    shards(tmp_path)
    weights(tmp_path / "model.safetensors", "a")
    (tmp_path / ONE).unlink()
    (tmp_path / TWO).unlink()
    assert checkpoint_of(tmp_path).files == ("model.safetensors",)


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard_is_named(index: bool, tmp_path: Path) -> None:
    shards(tmp_path, index=index)
    assert checkpoint_of(tmp_path).files == (ONE, TWO)
    (tmp_path / ONE).unlink()
    with raises("M213", match=ONE):
        checkpoint_of(tmp_path)


def test_a_shard_without_a_tensor_that_the_index_finds_in_it(tmp_path: Path) -> None:
    shards(tmp_path)
    weights(tmp_path / TWO, "d")
    with raises("M213", match=f"c of {TWO}"):
        checkpoint_of(tmp_path)


def test_a_file_that_the_config_names(tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", "a")
    weights(tmp_path / "fp16.safetensors", "a")
    named = {"transformers_weights": "fp16.safetensors"}
    assert checkpoint_of(tmp_path, named).files == ("fp16.safetensors",)
    with raises("M213", match="gone"):
        checkpoint_of(tmp_path, {"transformers_weights": "gone.safetensors"})


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": "model.bin"}},
        {"weight_map": {"a": "../model.safetensors"}},
        {"weight_map": {"a": "/model.safetensors"}},
    ],
)
def test_a_malformed_index_is_refused(index: object, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    with raises("M206", match="index"):
        checkpoint_of(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("weights.safetensors",),
        ("a-00001-of-00001.safetensors", "b-00001-of-00001.safetensors"),
        ("a-00001-of-00001.safetensors", "b.safetensors"),
        ("a-00001-of-99999.safetensors",),
    ],
)
def test_weights_that_nothing_names_are_not_guessed(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        weights(tmp_path / name, "a")
    assert checkpoint_of(tmp_path).files == ()


def test_a_project_of_two_sets_is_not_built(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    held = read_pack_header(base / "model.safetensors")
    weights(base / "consolidated.safetensors", "tok_embeddings.weight")
    with raises("M214", match="consolidated"):
        publish(base, tmp_path / "registry")
    (base / "consolidated.safetensors").unlink()
    (base / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(held, ONE)}))
    (base / "model.safetensors").rename(base / TWO)
    with raises("M213", match=ONE):
        publish(base, tmp_path / "registry")
    (base / TWO).rename(base / ONE)
    publish(base, tmp_path / "registry")
    adapter = write_adapter(tmp_path / "adapter")
    weights(adapter / "style" / "adapter_model.safetensors", "x")
    with raises("M214", match="style/adapter_model"):
        publish(adapter, tmp_path / "registry")
