"""Binding: strict accounts between an adapter's tensors and a base's."""

from __future__ import annotations

import math
from typing import Any

import pytest

from modpkg.adapters import TensorChange, bind_adapter, bind_head
from modpkg.core.errors import ModpkgError
from modpkg.core.records import TensorType
from tests.raising import raises

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
BASE = {
    "model.layers.0.q.weight": TensorType("F32", [4, 6]),
    "model.layers.1.q.weight": TensorType("F32", [4, 6]),
    "model.layers.10.q.weight": TensorType("F32", [4, 6]),
    "model.norm.weight": TensorType("F32", [4]),
}


def pair(path: str, rank: int = 2, rows: int = 4, columns: int = 6) -> dict[str, Any]:
    return {
        f"base_model.model.{path}.lora_A.weight": ("F32", (rank, columns)),
        f"base_model.model.{path}.lora_B.weight": ("F32", (rows, rank)),
    }


def bind(names: dict[str, Any], base: Any = BASE, **config: Any) -> tuple[TensorChange, ...]:
    settings = {**PLAIN, **config}
    return bind_adapter("an-adapter", names, settings, base, base_name="a-base 1.0").changes


def transposed(change: TensorChange) -> bool:
    return bool(change.parameters.get("transposed"))


def test_a_pair_finds_its_tensor() -> None:
    (binding,) = bind(pair("model.layers.0.q"))
    assert (binding.target, binding.weight) == ("model.layers.0.q.weight", 3.0)
    assert not transposed(binding)


@pytest.mark.parametrize("path", ["layers.0.q", "bert.model.layers.0.q"])
def test_one_leading_part_may_differ(path: str) -> None:
    assert bind(pair(path))[0].target == "model.layers.0.q.weight"


def test_the_leading_part_differs_for_all_or_for_none() -> None:
    with raises("M208", match="cannot be matched to a-base"):
        bind(pair("layers.0.q") | pair("model.layers.1.q"))


def test_two_leading_parts_that_fit_are_an_error() -> None:
    base = {"a.q.weight": TensorType("F32", [4, 6]), "b.q.weight": TensorType("F32", [4, 6])}
    with raises("M208", match=r"'a\.q\.weight' or 'b\.q\.weight'"):
        bind(pair("q"), base)


def test_nothing_matches() -> None:
    with raises("M207", match="an-adapter"):
        bind(pair("transformer.h.0.attn"))


def test_a_layer_too_many_is_named() -> None:
    with raises("M208", match=r"layers\.2\.q"):
        bind(pair("model.layers.0.q") | pair("model.layers.2.q"))


def test_an_adapter_name_inside_the_tensor_name() -> None:
    names = {key.replace(".weight", ".default.weight"): v for key, v in pair("layers.0.q").items()}
    assert bind(names)[0].target == "model.layers.0.q.weight"


def test_both_spellings_of_one_tensor_are_refused() -> None:
    names = pair("layers.0.q")
    names |= {key.replace(".weight", ".default.weight"): value for key, value in names.items()}
    with raises("M208", match="same module and role"):
        bind(names)


def test_half_a_pair_is_refused() -> None:
    names = pair("layers.0.q")
    names.popitem()
    with raises("M208", match="lora_B that belongs to it is missing"):
        bind(names)


@pytest.mark.parametrize(
    "extra",
    [
        "layers.0.q.lora_magnitude_vector",
        "layers.0.q.lora_embedding_A",
        "layers.0.q.lora_B.bias",
        "layers.0.q.lora_A.bias",
        "layers.0.q.lora_C.weight",
        "layers.0.q.bias",
        "layers.0.q.trainable_tokens_delta",
        "classifier.modules_to_save.weight",
        "score.weight",
        "odd",
    ],
)
def test_every_other_tensor_is_refused_by_name(extra: str) -> None:
    with raises("M606", "M208", match=extra):
        bind(pair("layers.0.q") | {f"base_model.model.{extra}": ("F32", (4,))})


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "PREFIX_TUNING"},
        {"peft_type": "XLORA"},
        {"peft_type": "NEW"},
        {"peft_type": None},
        {"use_dora": True},
        {"lora_bias": True},
        {"modules_to_save": "classifier"},
        {"trainable_token_indices": ["a"]},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["experts.up"]},
        {"alora_invocation_tokens": [1, 2]},
        {"use_qalora": True},
        {"use_bdlora": {"nblocks": 2}},
        {"kasa_config": {"beta": 1}},
        {"arrow_config": {"top_k": 1}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "loftq"},
        {"something_new": 1},
        {"r": "8"},
        {"r": 0},
        {"lora_alpha": math.inf},
        {"rank_pattern": {"(a+)+b": 4}},
        {"rank_pattern": {".*.*.*q": 4}},
        {"rank_pattern": {"q[": 4}},
        {"alpha_pattern": ["q"]},
    ],
    ids=str,
)
def test_configurations_that_would_not_be_applied_are_refused(config: dict[str, Any]) -> None:
    with raises("M606", match="cannot be composed exactly"):
        bind(pair("layers.0.q"), **config)


@pytest.mark.parametrize(
    "config",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"lora_dropout": 0.1, "target_modules": ["q"], "task_type": "CAUSAL_LM"},
        {"bias": "lora_only"},  # of a base without biases there are none
        {"modules_to_save": ["classifier", "score"]},  # PEFT names both, whichever there is
        {"use_dora": False, "modules_to_save": None, "something_new": None, "bias": "none"},
    ],
    ids=str,
)
def test_configurations_that_change_nothing_are_taken(config: dict[str, Any]) -> None:
    assert bind(pair("layers.0.q"), **config)[0].weight == 3.0


def test_rslora_and_patterns() -> None:
    names = pair("layers.1.q", rank=4) | pair("layers.10.q")
    patterns = {"rank_pattern": {"layers.1.q": 4}, "alpha_pattern": {r"10\.q": 8}}
    found = {b.target: b.weight for b in bind(names, **patterns, use_rslora=True)}
    assert found == {
        "model.layers.1.q.weight": 6 / 2,
        "model.layers.10.q.weight": 8 / math.sqrt(2),
    }


def test_shapes_are_checked() -> None:
    with raises("M604", match=r"\[4, 8\].*\[4, 6\]"):
        bind(pair("layers.0.q", columns=8))
    with raises("M604", match="rank 2 of adapter_config"):
        bind(pair("layers.0.q", rank=3))


def test_only_matrices() -> None:
    with raises("M606", match="only matrices and convolutions"):
        bind(pair("norm"))


def test_transposed_weights_are_told_by_shape_and_by_architecture() -> None:
    base = {"c.weight": TensorType("F32", [6, 4]), "s.weight": TensorType("F32", [4, 4])}
    square = pair("s", columns=4)
    assert [transposed(b) for b in bind(pair("c") | square, base)] == [True, True]
    assert [transposed(b) for b in bind(square, base)] == [False]
    assert [transposed(b) for b in bind(square, base, fan_in_fan_out=True)] == [True]
    (binding,) = bind_adapter("a", square, PLAIN, base, architecture="gpt2").changes
    assert not transposed(binding)  # its output layer is stored as others are
    base = {"h.0.c_proj.weight": TensorType("F32", [4, 4])}
    square = pair("h.0.c_proj", columns=4)
    (binding,) = bind_adapter("a", square, PLAIN, base, architecture="gpt2").changes
    assert transposed(binding)


def test_a_square_weight_between_both_kinds_cannot_be_told() -> None:
    base = {
        "c.weight": TensorType("F32", [6, 4]),
        "l.weight": TensorType("F32", [4, 6]),
        "s.weight": TensorType("F32", [4, 4]),
    }
    with raises("M606", match=r"s\.weight"):
        bind(pair("c") | pair("l") | pair("s", columns=4), base)


def test_a_head_adds_replaces_and_removes() -> None:
    names = {"score.weight": ("F32", (2, 4)), "model.norm.weight": ("F32", (4,))}
    bound = bind_head("m", names, BASE, ["model.norm.", "model.layers.10."])
    assert bound.added == ("score.weight",)
    assert bound.replaced == ("model.norm.weight",)
    assert bound.removed == ("model.layers.10.q.weight",)


@pytest.mark.parametrize(
    ("names", "replace", "message"),
    [
        ({}, [], "no tensor"),
        ({"model.norm.weight": ("F32", (4,))}, [], 'replace = \\["model.norm.weight"\\]'),
        ({"score.weight": ("F32", (2, 4))}, ["lm_head."], "'lm_head.'"),
        ({"score.weight": ("F32", (2, 4))}, ["model.norm"], "'model.norm'"),
    ],
)
def test_a_head_is_held_to_its_word(names: Any, replace: list[str], message: str) -> None:
    with raises("M601", match=message):
        bind_head("m", names, BASE, replace)


def test_no_adapter_can_break_it_with_another_error() -> None:
    for name in ("", ".lora_A.weight", "x.lora_A.weight", "x" * 600 + ".lora_A.weight"):
        with pytest.raises(ModpkgError):
            bind({name: ("F32", (2, 2))})


LAYERED = {f"model.layers.{k}.q_proj.weight": TensorType("F32", [4, 4]) for k in range(3)}
TWO = {
    **pair("model.layers.0.q_proj", columns=4),
    **pair("model.layers.1.q_proj", columns=4),
}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"layers_to_transform": [0, 1]}, {"num_hidden_layers": 3}),
        ({"target_modules": r"model.layers.[01].q_proj"}, {"num_hidden_layers": 3}),
        ({"target_modules": ["layers.0.q_proj", "layers.1.q_proj"]}, {"num_hidden_layers": 3}),
        ({"exclude_modules": ["layers.2.q_proj"]}, {"num_hidden_layers": 3}),
        ({}, {"num_hidden_layers": 2}),  # one more on disk, which the model does not have
        ({}, {}),
    ],
)
def test_some_layers_are_fine_where_that_is_meant(
    config: dict[str, Any], model: dict[str, Any]
) -> None:
    given = {**PLAIN, "target_modules": ["q_proj"], **config}
    bound = bind_adapter("a", TWO, given, LAYERED, model_config=model)
    assert len(bound.changes) == 2


@pytest.mark.parametrize(
    "model", [{"num_hidden_layers": 3}, {"n_layer": 3}, {"text_config": {"num_layers": 3}}]
)
def test_more_layers_than_an_adapter_was_trained_on(model: dict[str, Any]) -> None:
    given = {**PLAIN, "target_modules": ["q_proj"]}
    with raises("M606", match="it changes 2 layers.* the base has 3"):
        bind_adapter("a", TWO, given, LAYERED, model_config=model)
