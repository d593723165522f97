"""Models of sentence-transformers, with layers after their pooling: in, run, and out again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import modpkg as package
from modpkg.runtime.dense import ACTIVATIONS, project
from modpkg.runtime.pooling import embed
from tests.command import modpkg, refused
from tests.raising import raises
from tests.registry.places.oci import docker_registry
from tests.runtime.helpers import bert, tokenizer

TEXTS = ["the cat sat on a mat", "it slept", "and then the cat"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model as sentence-transformers saves it: two Dense after two poolings, then Normalize."""
    from sentence_transformers import SentenceTransformer, models

    bert().save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    torch.manual_seed(1)
    whole = SentenceTransformer(
        modules=[
            models.Transformer(str(tmp_path / "bert")),
            models.Pooling(32, pooling_mode=("mean", "lasttoken")),
            models.Dense(64, 24, activation_function=torch.nn.GELU(), use_residual=True),
            models.Dense(24, 24, bias=False, use_residual=True),
            models.Normalize(),
        ],
        device="cpu",
    )
    whole.save(str(tmp_path / "saved"))
    return tmp_path / "saved"


def encoded(folder: Path) -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return torch.stack([torch.from_numpy(model.encode(text)) for text in TEXTS])


def imported(source: Path, name: str) -> None:
    modpkg("import", "hf", source, "--name", name, "--license", "MIT")
    modpkg("build", name)
    modpkg("publish", name)


@pytest.mark.filterwarnings("ignore")
def test_embeddings_are_those_of_sentence_transformers(saved: Path, tmp_path: Path) -> None:
    imported(saved, "small")
    modpkg("install", "small")
    wanted = encoded(saved)
    ours = torch.tensor([package.run("small", text).embedding for text in TEXTS])
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)
    assert type(package.load("small")).__name__ == "BertModel"

    modpkg("export", "small", "--to", "sentence-transformers", "out")
    assert torch.equal(encoded(Path("out")), wanted)
    for part in ("model", "2_Dense/model", "3_Dense/model"):
        mine, theirs = (load_file(f / f"{part}.safetensors") for f in (Path("out"), saved))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    imported(Path("out"), "again")
    for side in ("small", "out", "again"):
        output = modpkg("diff", "again==1.0.0", side).stdout
        assert " same" in output
        assert not re.search(
            r"changed|added|removed", output.partition("tensors")[2].splitlines()[0]
        )
    assert torch.equal(encoded(package.path("small")), wanted)

    with docker_registry(tmp_path / "oci") as registry:
        modpkg("export", "small", registry.repository("small"))
        modpkg("import", "oci", registry.repository("small"), "--out", "pulled")
    assert torch.equal(encoded(Path("pulled")), wanted)
    assert "[[composed]]" in Path("pulled/assembly/modpkg.lock").read_text()


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_missing_or_code_are_refused(saved: Path) -> None:
    pack = saved / "2_Dense" / "model.safetensors"
    weights = pack.read_bytes()
    pack.unlink()
    assert "2_Dense has no model.safetensors" in refused("import", "hf", saved, "--name", "a")
    pack.write_bytes(weights)
    config = saved / "2_Dense" / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "in_features": 63}))
    told = "2_Dense needs 'linear.weight' of shape"
    assert told in refused("import", "hf", saved, "--name", "a")
    config.write_text(json.dumps({**settings, "activation_function": "os.system"}))
    imported(saved, "bad")
    modpkg("install", "bad")
    with raises("M704", match="'os.system', which is not supported"):
        package.run("bad", "the cat")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
def test_every_activation_is_the_one_of_sentence_transformers(
    tmp_path: Path, activation: str
) -> None:
    from sentence_transformers import models

    torch.manual_seed(2)
    own = models.Dense(6, 4, activation_function=getattr(torch.nn, activation)()).eval()
    own.save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    x = 3 * torch.randn(5, 6)
    with torch.inference_mode():
        wanted = own({"sentence_embedding": x})["sentence_embedding"]
        got = project("m", "2_Dense", config, load_file(tmp_path / "model.safetensors"), x)
    assert torch.equal(got, wanted)


def test_every_activation_without_arguments_is_known() -> None:
    """All of torch's that work on a vector, but those with weights."""
    left = {"PReLU", "MultiheadAttention", "Threshold", "Softmax2d"}
    known = {
        name
        for name, kind in vars(torch.nn.modules.activation).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.nn.Module)
        and kind.__module__ == "torch.nn.modules.activation"
    }
    assert known - left == set(ACTIVATIONS.values()) - {"Identity"}


@pytest.mark.parametrize(
    ("change", "shapes", "message"),
    [
        ({}, {"linear.weight": (4, 5), "linear.bias": (4,)}, "'linear.weight' of shape"),
        ({}, {"linear.weight": (4, 6)}, "'linear.bias' of shape"),
        ({"bias": False}, {"linear.weight": (4, 6), "linear.bias": (4,)}, "'linear.bias'"),
        ({"use_residual": True}, {"linear.weight": (4, 6), "linear.bias": (4,)}, "'residual.w"),
        ({"in_features": 7}, {"linear.weight": (4, 7), "linear.bias": (4,)}, "of width 7"),
        ({"new_key": 1}, {}, "has 'new_key' in its config.json"),
        ({"activation_function": "torch.load"}, {}, "'torch.load', which is not supported"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(
    change: dict[str, Any], shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    config = {"in_features": 6, "out_features": 4, **change}
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with raises("M704", match=message):
        project("m", "2_Dense", config, weights, torch.zeros(1, 6))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "modes",
    [
        *("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"),
        ["lasttoken", "cls"],
    ],
)
def test_every_pooling_is_the_one_of_sentence_transformers(
    tmp_path: Path, modes: str | list[str]
) -> None:
    from sentence_transformers import models

    torch.manual_seed(3)
    states = torch.randn(3, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    own = models.Pooling(8, pooling_mode=modes)
    wanted = own({"token_embeddings": states, "attention_mask": mask})["sentence_embedding"]
    folder = written(tmp_path, pooling_mode=modes, embedding_dimension=8)
    if modes == "cls" or "cls" in modes:  # the first token, where padding is on the right
        states, mask, wanted = states[:2], mask[:2], wanted[:2]
    torch.testing.assert_close(embed("m", folder, states, mask), wanted)


def test_old_pooling_keys_are_concatenated_in_order(tmp_path: Path) -> None:
    states, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.int64)
    keys = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
    got = embed("m", written(tmp_path, **keys), states, mask)
    assert torch.equal(got[:, :4], states.max(dim=1).values)
    torch.testing.assert_close(got[:, 4:], states.mean(dim=1))


def test_unused_weights_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, pooling_mode="mean")
    states, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.int64)
    with raises("M704", match="1_Pooling has weights that are not used"):
        embed("m", folder, states, mask, {"1_Pooling": {"w": torch.ones(1)}})


def written(folder: Path, **pooling: Any) -> Path:
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    entries = [
        {"idx": n, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_two_layers_may_have_tensors_of_one_name(tmp_path: Path) -> None:
    from modpkg.release.packing import find_tensors

    packs = {}
    for part in ("model.safetensors", "2_Dense/model.safetensors", "3_Dense/model.safetensors"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        save_file({"linear.weight": torch.ones(2)}, tmp_path / part)
        packs[part] = tmp_path / part
    found = find_tensors(packs, ("2_Dense", "3_Dense"))
    assert list(found) == ["2_Dense/linear.weight", "3_Dense/linear.weight", "linear.weight"]
