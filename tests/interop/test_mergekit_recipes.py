"""mergekit's recipes as people write them: what they mean, and what is reported of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modpkg.core.names import ModuleName
from modpkg.interop.mergekit import import_mergekit
from modpkg.interop.mergekit_settings import WrongValue, converted, setting_of
from modpkg.manifest.read import read_manifest
from modpkg.manifest.schema import Compose, Filtered, TokenRow, Vocabulary
from modpkg.release.content import collect
from tests.raising import raises

LINEAR = "merge_method: linear\nparameters: {weight: 1}\n"
TASK = "merge_method: task_arithmetic\nparameters: {weight: 1}\n"
TWO = "models: [{model: a}, {model: b}]\n"


def imported(folder: Path, recipe: str) -> tuple[Compose, str]:
    """Return the composition of a recipe, and the notes on it."""
    (folder / "r.yml").write_text(recipe)
    notes = import_mergekit(folder / "r.yml", folder / "out", "m", "1.0")
    found = read_manifest(folder / "out" / "modpkg.toml").compose
    assert found is not None
    return found, "\n".join(notes)


def model(folder: Path, name: str, layers: int) -> None:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))


def of_slice(end: int, more: str = "") -> str:
    sources = f"[{{model: a, layer_range: [0, {end}]}}, {{model: b, layer_range: [0, {end}]}}]"
    return f"slices: [{{sources: {sources}{more}}}]\n"


def test_a_slice_has_a_base_model_of_its_own(tmp_path: Path) -> None:
    recipe = TASK + "base_model: c\n" + of_slice(4, ", base_model: a, residual_weight: 0.5")
    found, notes = imported(tmp_path, recipe)
    assert (found.base, [step.module for step in found.steps]) == ("a", ["b"])
    assert "mergekit takes these from c" in notes
    assert "'residual_weight' of a slice is ignored" in notes


def test_layers_of_a_slice_may_be_a_part(tmp_path: Path) -> None:
    model(tmp_path, "a", 6)
    found, notes = imported(tmp_path, TASK + "base_model: a\n" + of_slice(4))
    (run,) = found.layers
    assert (run.module, run.range, run.steps[0].module) == ("a", (0, 4), "b")
    assert run.tensors == ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    assert not found.steps
    assert "are assumed" in notes


def test_slices_are_merged_one_by_one(tmp_path: Path) -> None:
    recipe = """
merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]
    parameters: {t: [{filter: mlp, value: 0.3}]}
  - base_model: b
    sources: [{model: b, layer_range: [2, 4]}, {model: c, layer_range: [2, 4]}]
parameters: {t: [0, 1]}
"""
    found, notes = imported(tmp_path, recipe)
    first, second = found.layers
    assert (found.base, found.method, found.parameters) == ("a", "slerp", {})
    assert (first.module, first.steps[0].module, first.steps[0].range) == ("a", "b", (1, 3))
    assert first.parameters["t"] == (Filtered(0.3, "mlp"), Filtered((0.0, 1.0)))
    assert (second.module, second.steps[0].module, second.steps[0].range) == ("b", "c", None)
    assert second.parameters["t"] == (0.0, 1.0)
    assert first.tensors == ("model.embed_tokens.weight",)
    assert second.tensors == ("model.norm.weight", "lm_head.weight")
    assert "mergekit 0.1.5 merges only" not in notes
    more = "slices:\n  - sources: [{model: a, layer_range: [4, 5]}]"
    (tmp_path / "x").mkdir()
    recipe = recipe.replace("slices:", more).replace("slerp", "ties").replace("{t:", "{weight:")
    assert "only the first 1" in imported(tmp_path / "x", recipe)[1]


def test_layers_of_a_slice_are_all_where_models_are_not_here(tmp_path: Path) -> None:
    found, notes = imported(tmp_path, TASK + "base_model: a\n" + of_slice(4))
    assert found.layers[0].range == (0, 4)  # a fine-tune with more of them is refused
    assert "layers 0 to 4" in notes


@pytest.mark.parametrize(
    ("layers", "end", "reason"),
    [(3, 4, "up to 4 of a, which has 3"), (4, 4, None)],
)
def test_layers_of_models_that_are_here(
    tmp_path: Path, layers: int, end: int, reason: str | None
) -> None:
    model(tmp_path, "a", layers)
    model(tmp_path, "b", layers)
    recipe = TASK + "base_model: a\n" + of_slice(end)
    if reason is None:
        assert not imported(tmp_path, recipe)[0].layers
    else:
        with raises("M801", match=reason):
            imported(tmp_path, recipe)


@pytest.mark.parametrize(
    ("recipe", "note"),
    [
        (LINEAR + TWO + "flavour: x\n", "'flavour' of the recipe"),
        (LINEAR + "models: [{model: a, revision: x}, {model: b}]\n", "'revision' of a model's"),
        (LINEAR + "models: [{model: a, weight: 2}, {model: b}]\n", "'weight' of a model's entry"),
        (LINEAR + TWO + "name: other\n", "'name' of the recipe"),
        ("merge_method: linear\nparameters: {weight: {value: 1, fliter: x}}\n" + TWO, "'fliter'"),
        (LINEAR + "models: [{model: {model: {path: a, revision: v1}}}, {model: b}]\n", "v1"),
        (
            "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n"
            "models: [{model: a}, {model: b, parameters: {t: 1}}]\n",
            "t of a model is ignored",
        ),
    ],
)
def test_what_mergekit_ignores_is_noted(tmp_path: Path, recipe: str, note: str) -> None:
    assert note in imported(tmp_path, recipe)[1]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (LINEAR + TWO + "slices: [{sources: []}]\n", "has models and slices"),
        (LINEAR + "modules: {vision: {models: [{model: a}]}}\n", "several modules; to know"),
        (LINEAR + "modules: {default: {}}\n", "needs either 'models' or 'slices'"),
        (LINEAR + "models: [{model: a@v1}, {model: a@v2}]\n", "two revisions of a"),
        (LINEAR + TWO + "---\n" + LINEAR + TWO, "several documents"),
        (LINEAR + TWO + "chat_template: llama3\n", "'llama3'; known are 'auto'"),
        ("merge_method: linear\nbase_model: c\nmodels: [{model: a, parameters: {weight: 1}}]\n",
         "c has no weight"),
        ("merge_method: slerp\nbase_model: a\n" + TWO, "needs the parameter 't'"),
        ("merge_method: ties\nbase_model: a\nparameters: {weight: 1, normalize: 2}\n" + TWO,
         "neither true nor false"),
        (TASK + "base_model: a\nslices: [{sources: [{model: b, layer_range: [2, 1]}]}]\n",
         "no first and last layer"),
        (TASK + "base_model: a\nslices: [{sources: [{model: a, layer_range: [0, 1]}, "
         "{model: b, layer_range: [0, 2]}]}]\n", "different numbers of layers"),
        (TASK + "base_model: c\n" + of_slice(2).replace("[0,", "[1,"), "among the sources"),
        (TASK + "base_model: c\n" + of_slice(2), "among the sources"),
        ("merge_method: multislerp\nparameters: {weight: 1}\nbase_model: c\n" + of_slice(2),
         "has a base_model, and it has to be among the sources"),
        ("merge_method: multislerp\nbase_model: a\nmodels: [{model: a}]\n", "needs another"),
        ("merge_method: slerp\nparameters: {t: 0.5}\nslices: [{sources: [{model: a, "
         "layer_range: [0, 1]}], base_model: a}, {sources: [{model: a, layer_range: [1, 2]}, "
         "{model: b, layer_range: [1, 2]}], base_model: a}]\n", "needs another"),
        ("merge_method: linear\nparameters: {weight: [{filter: layers.1, value: 1}, {value: 2}]}\n"
         + of_slice(2).replace("[0,", "[1,"), "the number of a layer"),
        (LINEAR.replace("{", "{normalize: false, ") + "slices: [{sources: [{model: a, "
         "layer_range: [0, 1]}]}, {sources: [{model: b, layer_range: [0, 1]}]}]\n", "one source"),
        ("merge_method: passthrough\nbase_model: b\nmodels: [{model: a}]\n", "is another"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path: Path, recipe: str, reason: str) -> None:
    with raises("M801", match=reason):
        imported(tmp_path, recipe)


def test_values_are_converted_as_pydantic_does_it() -> None:
    assert [converted(v, bool) for v in (1, 0.0, True, "Yes", "off")] == [
        True, False, True, True, False,
    ]  # fmt: skip
    assert [converted(v, float) for v in (True, "1e-5", 2)] == [1.0, 1e-5, 2.0]
    assert [converted(v, int) for v in ("10", 10.0, 10)] == [10, 10, 10]
    for value, kind in ((2, bool), ("maybe", bool), ("x", float), (1.5, int), (None, float)):
        with pytest.raises(WrongValue):
            converted(value, kind)
    for value in ({"filter": "x"}, [{"value": []}], [{"value": 1, "filter": 2}], "inf"):
        with pytest.raises(WrongValue):
            setting_of([value], float)


def test_scopes_fall_back_where_no_filter_matches() -> None:
    scopes = [[{"filter": "mlp", "value": 1}], {"filter": "q", "value": ["2", 3]}, 4, 5]
    assert setting_of(scopes, float) == [
        {"filter": "mlp", "value": 1.0}, {"filter": "q", "value": [2.0, 3.0]}, {"value": 4.0},
    ]  # fmt: skip
    assert setting_of([[{"filter": "", "value": 1}], 2], float) == 1.0
    assert setting_of([], float) is None


def test_linear_counts_the_base_model_among_models_but_not_in_slices(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, LINEAR + "base_model: c\n" + TWO)
    assert (found.base, found.parameters["base_weight"]) == ("c", 1.0)
    (tmp_path / "x").mkdir()
    found, _ = imported(tmp_path / "x", LINEAR + "base_model: c\n" + of_slice(2))
    assert (found.base, found.parameters["base_weight"]) == ("c", 0.0)


def test_scales_of_the_first_and_last_slice_count_outside_of_layers(tmp_path: Path) -> None:
    recipe = """
merge_method: passthrough
base_model: c
slices:
  - sources: [{model: a, layer_range: [0, 2], parameters: {scale: 0.5}}]
  - sources: [{model: b, layer_range: [2, 4]}]
    parameters: {scale: [{filter: lm_head, value: 3}, {filter: o_proj, value: 0}]}
"""
    found, notes = imported(tmp_path, recipe)
    assert found.base == "c"
    assert found.parameters["scale"] == (
        Filtered(value=0.5, filter="model.embed_tokens.weight"),
        Filtered(value=3.0, filter="lm_head.weight"),
    )
    assert [run.tensors for run in found.layers] == [
        ("model.embed_tokens.weight",), ("model.norm.weight", "lm_head.weight"),
    ]  # fmt: skip
    assert "b, which is not available" in notes


def test_prompts_of_experts_may_have_lines(tmp_path: Path) -> None:
    recipe = "base_model: a\ngate_mode: hidden\nexperts:\n"
    for name in ("a", "b"):
        recipe += f"  - source_model: {name}\n    noise_scale: 0\n    comment: x\n"
        recipe += "    positive_prompts:\n      - |-\n        <|im_start|>user\n        Hello\n"
    found, notes = imported(tmp_path, recipe)
    assert found.steps[0].parameters["prompts"] == ("<|im_start|>user\nHello",)
    assert "'comment' of an expert" in notes


@pytest.mark.parametrize("given", ["auto", "chatml", '"{% for m in messages %}\\n{% endfor %}"'])
def test_chat_templates_are_carried_out(tmp_path: Path, given: str) -> None:
    found, _ = imported(tmp_path, LINEAR + TWO + f"chat_template: {given}\n")
    assert found.chat_template is not None
    assert ("{" in found.chat_template) == (given != "auto")


SLERP = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n" + TWO


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        (SLERP + "tokenizer_source: base\n", Vocabulary(source="a")),
        (SLERP + "tokenizer_source: org/b\n", Vocabulary(source="org-b")),
        (SLERP + "tokenizer: {}\n", Vocabulary(source="union")),
        (LINEAR + TWO + "tokenizer_source: union\n", Vocabulary(source="union", missing="mean")),
        (
            SLERP + "tokenizer: {source: base, pad_to_multiple_of: 64, extra: 1, tokens: {x: "
            "{source: {kind: model_token, model: b, token_id: 3}, force: 1}, y: {source: b}}}\n",
            Vocabulary(
                source="a",
                tokens=(
                    TokenRow(token="x", module=ModuleName("b"), number=3, force=True),
                    TokenRow(token="y", module=ModuleName("b")),
                ),
                pad_to_multiple_of=64,
            ),
        ),
    ],
)
def test_tokenizers_are_carried_out(tmp_path: Path, recipe: str, wanted: Vocabulary) -> None:
    found, notes = imported(tmp_path, recipe)
    assert found.vocabulary == wanted
    assert wanted.source == "union" or wanted.source in found.modules()
    assert ("'extra' of tokenizer" in notes) == ("extra" in recipe)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ("{x: {}}", "names no source"),
        ("{x: {source: {kind: other, model: a}}}", "which is none"),
        ("{x: {source: {kind: model_token, model: a}}}", "which is none"),
        ("{x: 1}", "which is no mapping"),
        ("[x]", "which is no mapping"),
    ],
)
def test_tokens_without_a_row_are_refused(tmp_path: Path, tokens: str, reason: str) -> None:
    with raises("M801", match=reason):
        imported(tmp_path, SLERP + f"tokenizer: {{source: union, tokens: {tokens}}}\n")


LORA_AS_TEXT = "org/tiny+me/tiny-lora@abc"
LORA_AS_TABLE = "{model: {path: org/tiny}, lora: {path: me/tiny-lora, revision: abc}}"


@pytest.mark.parametrize("reference", [LORA_AS_TEXT, LORA_AS_TABLE])
def test_a_model_with_a_lora_is_a_module_of_its_own(tmp_path: Path, reference: str) -> None:
    models = f"models: [{{model: {reference}}}, {{model: other}}]\n"
    found, notes = imported(tmp_path, TASK + "base_model: org/tiny\n" + models)
    assert found.base == "tiny"
    assert [step.module for step in found.steps] == ["tiny-tiny-lora", "other"]
    assert "build and publish it before this one" in notes
    assert "me/tiny-lora is pinned to revision abc" in notes
    part = read_manifest(tmp_path / "out" / "parts" / "tiny-tiny-lora" / "modpkg.toml")
    assert part.compose is not None
    assert part.compose.modules() == ["tiny", "tiny-lora"]
    outer = read_manifest(tmp_path / "out" / "modpkg.toml")
    assert {d.name for d in outer.dependencies} == {"tiny", "tiny-tiny-lora", "other"}
    assert not collect(outer).files


def test_a_lora_written_in_two_ways_is_one_model(tmp_path: Path) -> None:
    models = f"models: [{{model: {LORA_AS_TEXT}}}, {{model: {LORA_AS_TABLE}}}]\n"
    with raises("M801", match="names a model twice"):
        imported(tmp_path, TASK + "base_model: org/tiny\n" + models)


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 3}\n", {}),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: 3, normalize: 0}\n",
            {"method": "passthrough", "parameters": {"scale": 3.0}},
        ),
        (TASK + "base_model: a\nmodels: [{model: a}]\n", {}),
        ("merge_method: karcher\nmodels: [{model: a}]\n", {}),
    ],
)
def test_one_model_alone(tmp_path: Path, recipe: str, wanted: dict[str, Any]) -> None:
    found, _ = imported(tmp_path, recipe)
    assert found == Compose(base=ModuleName("a"), **wanted)


def test_most_methods_need_two_models(tmp_path: Path) -> None:
    with raises("M801", match="nuslerp needs another model than a"):
        imported(tmp_path, "merge_method: nuslerp\nmodels: [{model: a}]\nparameters: {weight: 1}\n")


def tower_model(folder: Path, name: str, kind: str = "gemma3") -> None:
    (folder / name).mkdir()
    config = {"model_type": kind, "text_config": {"num_hidden_layers": 4}}
    (folder / name / "config.json").write_text(json.dumps(config))
    names = ("language_model.model.embed_tokens.weight", "language_model.model.norm.weight")
    names += ("vision_tower.vision_model.embeddings.patch_embedding.bias",)
    names += ("multi_modal_projector.mm_soft_emb_norm.weight", "visual.blocks.0.w", "model.x.w")
    save_file({each: torch.ones(2) for each in names}, folder / name / "model.safetensors")


TOWERS = """
merge_method: slerp
base_model: a
modules:
  text_decoder:
    slices:
      - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]
      - sources: [{model: a, layer_range: [1, 4]}, {model: b, layer_range: [1, 4]}]
    parameters: {t: [0, 1]}
  vision_tower:
    models: [{model: a}, {model: b}]
    parameters: {t: 0.25}
"""


def test_each_tower_is_runs_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        tower_model(tmp_path, name)
    found, notes = imported(tmp_path, TOWERS)
    first, second, vision = found.layers
    assert (first.range, first.steps[0].range, first.parameters) == (
        (0, 2),
        (2, 4),
        {"t": (0.0, 1.0)},
    )
    assert first.tensors == ("language_model.model.embed_tokens.weight",)
    assert (second.range, second.steps[0].range) == ((1, 4), None)
    assert second.tensors == ("language_model.model.norm.weight",)
    assert (vision.range, vision.tensors) == (None, ("vision_tower.",))
    assert (vision.steps[0].module, vision.parameters) == ("b", {"t": 0.25})
    assert "multi_modal_projector are the base's" in notes


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (TOWERS.replace("vision_tower", "audio_tower"), "its module is 'audio_tower'; known are"),
        (TOWERS.replace("base_model: a", "base_model: c"), "of gemma3, qwen2_vl"),
        (TOWERS.replace("text_decoder", "vision_model"), "its module is 'vision_model'"),
        (TOWERS.replace("models: [{model: a}, {model: b}]", "slices: [{sources: "
         "[{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}]}]"), "has slices"),
        (TOWERS + "models: [{model: a}]\n", "has models and modules"),
    ],
)  # fmt: skip
def test_towers_that_are_refused(tmp_path: Path, recipe: str, reason: str) -> None:
    for name, kind in (("a", "gemma3"), ("b", "gemma3"), ("c", "qwen2_vl")):
        tower_model(tmp_path, name, kind)
    with raises("M801", match=reason):
        imported(tmp_path, recipe)


def test_only_prefixes_of_tensors_that_are_there_are_taken(tmp_path: Path) -> None:
    tower_model(tmp_path, "a", "qwen2_vl")
    tower_model(tmp_path, "b", "qwen2_vl")
    recipe = "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  text_decoder:\n"
    recipe += "    models: [{model: a}, {model: b}]\n  vision_tower:\n    models: [{model: b}]\n"
    found, _ = imported(tmp_path, recipe)
    text, vision = found.layers
    assert (text.module, text.tensors, text.parameters) == ("a", ("model.",), {"base_weight": 1.0})
    assert (vision.module, vision.tensors, vision.steps) == ("b", ("visual.blocks.",), ())


def test_a_result_without_a_dtype_has_the_widest_of_models_that_are_here(tmp_path: Path) -> None:
    for name, dtype in (("a", torch.bfloat16), ("b", torch.float32)):
        model(tmp_path, name, 1)
        save_file({"x": torch.zeros(1, dtype=dtype)}, tmp_path / name / "model.safetensors")
    assert imported(tmp_path, LINEAR + TWO)[0].dtype == "float32"
    (tmp_path / "b" / "model.safetensors").unlink()
    (tmp_path / "out").rename(tmp_path / "before")
    found, notes = imported(tmp_path, LINEAR + TWO)
    assert found.dtype is None
    assert "mergekit takes the widest" in notes


@pytest.mark.parametrize("name", ["Mixtral", "qwen3", "qwen3_moe"])
def test_names_of_architectures_may_be_cut(tmp_path: Path, name: str) -> None:
    experts = "[{source_model: a, positive_prompts: [x]}, {source_model: b, positive_prompts: [y]}]"
    imported(tmp_path, f"base_model: a\narchitecture: {name}\nexperts: {experts}\n")


@pytest.mark.parametrize("written", ["arcee_fusion", "ramplus_tl"])
def test_methods_whose_result_is_float32_in_mergekit(tmp_path: Path, written: str) -> None:
    recipe = f"merge_method: {written}\nbase_model: a\nmodels: [{{model: b}}]\n"
    found, notes = imported(tmp_path, recipe)
    assert found.dtype == "float32"
    assert "the result is float32" in notes
    (tmp_path / "out").rename(tmp_path / "before")
    assert imported(tmp_path, recipe + "dtype: bfloat16\n")[0].dtype == "bfloat16"


def test_a_lora_has_no_say_in_the_dtype_of_the_result(tmp_path: Path) -> None:
    for name, dtype in (("a", torch.bfloat16), ("b", torch.bfloat16), ("lora", torch.float32)):
        model(tmp_path, name, 1)
        save_file({"x": torch.zeros(1, dtype=dtype)}, tmp_path / name / "model.safetensors")
    models = "models: [{model: a+lora}, {model: b}]\n"
    assert imported(tmp_path, LINEAR + models)[0].dtype is None
