"""Models with different tokenizers: rows are merged by token, as mergekit moves them.

``tests/compose/mergekit/vocabularies.safetensors`` has what mergekit 0.1.5 made of each recipe in
``vocabularies``, in float64 and float32, and the tokens of its rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.named_tokens import tokens_of
from modpkg.compose.plan import plan
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.interop.mergekit import import_mergekit
from modpkg.manifest.read import read_manifest
from modpkg.manifest.schema import Compose, Layers, Step, TokenRow, Vocabulary
from tests.compose.helpers import module, raw, values
from tests.raising import raises

HERE = Path(__file__).parent / "mergekit"
KEPT = HERE / "vocabularies.safetensors"
RECIPES = sorted(path.stem for path in (HERE / "vocabularies").glob("*.yml"))
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
WORDS = {
    "a": ["<unk>", "<s>", "</s>", "red", "green", "blue", "one"],
    "b": ["<unk>", "<s>", "</s>", "green", "red", "two", "blue"],
    "c": ["<unk>", "</s>", "<s>", "three", "two", "red"],
}
ADDED = {"a": ["<|pad|>"], "b": ["<|end|>"], "c": ["<|end|>", "<|pad|>"]}
Table = dict[str, torch.Tensor]


def of(table: Table, prefix: str) -> Table:
    return {key[len(prefix) + 1 :]: t for key, t in table.items() if key.startswith(f"{prefix}/")}


def a_model(folder: Path, name: str, tensors: Table, **files: Any) -> InstalledModule:
    """Return one of the models that mergekit had; ``files`` replace its tokenizer."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1,
        "vocab_size": tensors[EMBEDDING].shape[0], "tie_word_embeddings": False,
    }  # fmt: skip
    made = module(folder, name, "base", tensors, config=config)
    words = WORDS[name]
    document = {
        "added_tokens": [
            {"id": len(words) + n, "content": token, "special": True, "normalized": False}
            for n, token in enumerate(ADDED[name])
        ],
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}},
    }
    for path, data in (files or {"tokenizer.json": document}).items():
        file = next(iter(made.files.values())).parent / path
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        made.files[path] = file
    return made


def models(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, InstalledModule]:
    kept = load_file(KEPT)
    return {
        name: a_model(folder, name, {k: t.to(dtype) for k, t in of(kept, name).items()})
        for name in WORDS
    }


def tokens_in(composition: Composition) -> dict[str, int]:
    document = composition.documents.get("tokenizer.json")
    if document is None:
        return tokens_of(composition.files)
    added = {token["content"]: token["id"] for token in document["added_tokens"]}
    return {**document["model"]["vocab"], **added}


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_are_those_of_mergekit_or_nearer_to_float64(tmp_path: Path, recipe: str) -> None:
    import_mergekit(HERE / "vocabularies" / f"{recipe}.yml", tmp_path / "project", "m", "1.0")
    written = read_manifest(tmp_path / "project" / "modpkg.toml").compose
    assert written is not None
    composition = plan("m", "1.0", written, models(tmp_path))
    ours = values(compose(composition, tmp_path / "store").tensors)
    with safe_open(KEPT, "pt") as file:
        words = json.loads(file.metadata()["tokens"])
    theirs = load_file(KEPT)
    tokens = tokens_in(composition)
    judged, single = words[f"{recipe}/float64"], words[f"{recipe}/float32"]
    assert tokens.keys() == judged.keys()
    for tensor in (EMBEDDING, OUTPUT):
        judge, narrow = theirs[f"{recipe}/float64/{tensor}"], theirs[f"{recipe}/float32/{tensor}"]
        found = ours[tensor]
        assert found.shape == judge.shape == (composition.config["vocab_size"], judge.shape[1])
        slack = 4 * torch.finfo(torch.float64).eps * judge.abs().max()
        # Means are rounded to float32 once before they are merged, or with a pad of all rows.
        slack += torch.finfo(torch.float32).eps * judge.abs().max() / 2
        for token, number in tokens.items():
            wanted = judge[judged[token]]
            far = (narrow[single[token]].double() - wanted).abs()
            assert ((found[number].double() - wanted).abs() <= far + slack).all(), token
        padding = found[len(tokens) :].double() - judge[len(tokens) :]
        assert padding.abs().max() < 1e-6 if len(padding) else True


def recipe_of(source: str, *tokens: TokenRow, multiple: int | None = None) -> Compose:
    return Compose(
        base=ModuleName("a"),
        method="mean",
        steps=(Step(op="dense", module=ModuleName("b")),),
        vocabulary=Vocabulary(source=source, tokens=tokens, pad_to_multiple_of=multiple),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_and_threads_change_no_byte(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of("union", multiple=8)
    composition = plan("m", "1.0", recipe, models(tmp_path, dtype))
    whole = compose(composition, tmp_path / "one", threads=1).tensors
    monkeypatch.setattr("modpkg.compose.rows.BLOCK_ELEMENTS", 8)
    monkeypatch.setattr("modpkg.compose.moved_rows.BLOCK_ELEMENTS", 24)
    parts = compose(composition, tmp_path / "two", threads=3).tensors
    for name in (EMBEDDING, OUTPUT):
        assert raw(whole[name]) == raw(parts[name])
        assert whole[name].shape == [16, 8]


def test_equal_vocabularies_move_nothing(tmp_path: Path) -> None:
    modules = models(tmp_path)
    kept = load_file(KEPT)
    rows = {k: (t[:8] if k in (EMBEDDING, OUTPUT) else t) for k, t in of(kept, "a").items()}
    modules["a"] = a_model(tmp_path / "x", "a", rows)
    modules["b"] = a_model(tmp_path / "y", "b", of(kept, "b"), **{
        "tokenizer.json": json.loads(modules["a"].files["tokenizer.json"].read_text())
    })  # fmt: skip
    for source in ("a", "b", "union"):
        composition = plan("m", "1.0", recipe_of(source), modules)
        assert not composition.inner
        assert "tokenizer.json" not in composition.documents


def test_tokenizers_that_are_no_json_have_to_be_equal(tmp_path: Path) -> None:
    kept = load_file(KEPT)
    rows = {k: (t[:8] if k in (EMBEDDING, OUTPUT) else t) for k, t in of(kept, "a").items()}
    same = {
        name: a_model(tmp_path / name, name, rows, **{"tokenizer.model": "pieces"})
        for name in ("a", "b")
    }
    assert not plan("m", "1.0", recipe_of("a"), same).inner
    same["b"] = a_model(tmp_path / "other", "b", rows, **{"tokenizer.model": "others"})
    with raises("M601", match=r"a has no tokenizer\.json"):
        plan("m", "1.0", recipe_of("a"), same)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (TokenRow(token="x", module=ModuleName("b"), of="none"), "b has no row for 'x'"),
        (
            TokenRow(token="x", module=ModuleName("b"), number=8),
            r"b has no row 8 \(it has rows 0 to 7\)",
        ),
        (TokenRow(token="x", module=ModuleName("c")), "which is not merged with it"),
    ],
)
def test_rows_that_are_not_there_are_refused(tmp_path: Path, row: TokenRow, reason: str) -> None:
    with raises("M601", match=reason):
        plan("m", "1.0", recipe_of("union", row), models(tmp_path))


def test_only_merges_of_whole_models_move_rows(tmp_path: Path) -> None:
    modules = models(tmp_path)
    lora = Compose(
        base=ModuleName("a"),
        steps=(Step(op="lora", module=ModuleName("b")),),
        vocabulary=Vocabulary(source="union"),
    )
    with raises("M601", match="merges of whole models"):
        plan("m", "1.0", lora, modules)


def test_layers_that_are_merged_move_the_rows_of_their_models(tmp_path: Path) -> None:
    """One slice of all layers is the merge of whole models."""
    modules = models(tmp_path)
    step = Step(op="dense", module=ModuleName("b"))
    run = Layers(module=ModuleName("a"), range=(0, 1), steps=(step,), tensors=(EMBEDDING, OUTPUT))
    layered = Compose(
        base=ModuleName("a"), method="mean", layers=(run,), vocabulary=Vocabulary(source="union")
    )
    found = [
        compose(plan("m", "1.0", recipe, modules), tmp_path / str(number)).tensors
        for number, recipe in enumerate((layered, recipe_of("union")))
    ]
    for name in (EMBEDDING, OUTPUT):
        assert raw(found[0][name]) == raw(found[1][name])


def test_other_tokens_without_a_vocabulary_are_refused(tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(recipe_of("union"), vocabulary=None)
    with raises("M226", match="b has 8 rows"):
        plan("m", "1.0", recipe, models(tmp_path))


def tied(folder: Path, name: str) -> InstalledModule:
    """Return one of the models with its output layer tied to its embedding."""
    tensors = of(load_file(KEPT), name)
    del tensors[OUTPUT]
    made = a_model(folder / "tied", name, tensors)
    config = json.loads(made.files["config.json"].read_text())
    made.files["config.json"].write_text(json.dumps({**config, "tie_word_embeddings": True}))
    return made


def test_a_tied_model_has_its_embedding_as_output_layer(tmp_path: Path) -> None:
    modules = {**models(tmp_path), "b": tied(tmp_path, "b")}
    composition = plan("m", "1.0", recipe_of("union"), modules)
    ours, tokens = values(compose(composition, tmp_path).tensors), tokens_in(composition)
    kept = load_file(KEPT)
    own, other = kept[f"a/{OUTPUT}"], kept[f"b/{EMBEDDING}"]
    for token, number in tokens.items():
        in_a, in_b = (tokens_of(modules[name].files).get(token) for name in ("a", "b"))
        first = own[in_a] if in_a is not None else other[in_b or 0]
        second = other[in_b] if in_b is not None else own[in_a or 0]
        assert torch.equal(ours[OUTPUT][number], ((first.double() + second) / 2).float()), token


def test_a_tied_base_that_lacks_tokens_is_not_merged_with_untied_models(tmp_path: Path) -> None:
    modules = {**models(tmp_path), "a": tied(tmp_path, "a")}
    with raises("M601", match="untie it first"):
        plan("m", "1.0", recipe_of("union"), modules)
