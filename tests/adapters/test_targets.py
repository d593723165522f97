"""Which modules an adapter's configuration names, and a file that lacks some of them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from modpkg.adapters import bind_adapter
from modpkg.adapters.reader import check_alone
from modpkg.adapters.targets import _matcher
from modpkg.core.records import TensorType
from tests.adapters.samples import PLAIN, pair
from tests.raising import raises

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
def test_an_adapter_may_select_layers(config: dict[str, Any], model: dict[str, Any]) -> None:
    given = {**PLAIN, "target_modules": ["q_proj"], **config}
    changes = bind_adapter("a", TWO, given, LAYERED, model_config=model)
    assert len(changes.changes) == 2


@pytest.mark.parametrize(
    "model", [{"num_hidden_layers": 3}, {"n_layer": 3}, {"text_config": {"num_layers": 3}}]
)
def test_a_base_with_more_layers_than_it_was_trained_on_is_refused(model: dict[str, Any]) -> None:
    given = {**PLAIN, "target_modules": ["q_proj"]}
    with raises("M606", match="it changes 2 layers.* the base has 3"):
        bind_adapter("a", TWO, given, LAYERED, model_config=model)


STACK = {
    f"model.layers.{k}.{name}.weight": TensorType("F32", [4, 4])
    for k in range(4)
    for name in ("attn.q_proj", "attn.v_proj", "cross.q_proj", "mlp.up", "mlp.experts.0.up")
} | {
    "model.layers.0.attn.v_proj.bias": TensorType("F32", [4]),
    "model.head.weight": TensorType("F32", [4, 4]),
    "encoder.layers.0.attn.q_proj.weight": TensorType("F32", [4, 4]),
}
FULL = [f"layers.{k}.{n}" for k in range(4) for n in ("attn.q_proj", "attn.v_proj", "cross.q_proj")]


def bind_parts(parts: list[str], **config: Any) -> None:
    names: dict[str, Any] = {}
    for path in parts:
        names |= pair(f"model.{path}", columns=4)
    given = {**PLAIN, "target_modules": ["q_proj", "v_proj"], **config}
    bind_adapter("a", names, given, STACK, model_config={"num_hidden_layers": 4})


def test_a_file_without_the_output_layer_that_it_names_is_refused() -> None:
    targets = ["q_proj", "v_proj", "head"]
    with raises("M606", match=r"no tensors for 'model.head', which"):
        bind_parts(FULL, target_modules=targets)
    bind_parts([*FULL, "head"], target_modules=targets)
    bind_parts(FULL, target_modules=targets, exclude_modules=["head"])
    with raises("M606", match="modules_to_save"):
        bind_parts(FULL, target_modules=targets, modules_to_save=["head"])


def without(*lacks: str) -> list[str]:
    return [path for path in FULL if not any(lack in path for lack in lacks)]


@pytest.mark.parametrize(
    ("lacks", "example"),
    [
        (["layers.2."], "model.layers.2.attn.q_proj"),
        (["layers.0."], "model.layers.0.attn.q_proj"),
        (["v_proj"], "model.layers.0.attn.v_proj"),
        (["cross"], "model.layers.0.cross.q_proj"),
        (["layers.1.attn.v_proj"], "model.layers.1.attn.v_proj"),
        (["layers.1.", "layers.3."], "model.layers.1.attn.q_proj"),
    ],
    ids=str,
)
def test_a_part_of_an_adapter_is_refused(lacks: list[str], example: str) -> None:
    with raises("M606", match=f"no tensors for '{example}', which its target_modules name"):
        bind_parts(without(*lacks))
    pattern = r".*\.(q_proj|v_proj)"
    with raises("M606", match=f"no tensors for '{example}', which its target_modules name"):
        bind_parts(without(*lacks), target_modules=pattern)


@pytest.mark.parametrize(
    ("lacks", "config"),
    [
        ([], {}),
        (["layers.2."], {"layers_to_transform": [0, 1, 3]}),
        (["layers.2."], {"layers_to_transform": [0, 1, 3], "layers_pattern": "layers"}),
        (["layers.2."], {"layers_to_transform": [0, 1, 3], "layers_pattern": "(layers|h)"}),
        (["layers.2."], {"layers_to_transform": [0, 1, 3], "layers_pattern": ["(.*)*", "h"]}),
        (["layers.0.", "layers.1.", "layers.2."], {"layers_to_transform": 3}),
        (["layers.2."], {"exclude_modules": r"model\.layers\.2\..*"}),
        (["layers.2.attn.q_proj"], {"exclude_modules": ["2.attn.q_proj"]}),
        (["v_proj"], {"target_modules": ["q_proj"]}),
        (["cross"], {"target_modules": ["attn.q_proj", "v_proj"]}),
        (["cross", "v_proj"], {"target_modules": r"model\.layers\.\d\.attn\.q_proj"}),
        (["cross"], {"modules_to_save": ["cross"]}),
        ([], {"target_modules": ["q_proj", "v_proj", "up_proj", "lm_head"]}),
    ],
    ids=str,
)
def test_what_the_configuration_leaves_out_may_be_missing(
    lacks: list[str], config: dict[str, Any]
) -> None:
    parts = without(*lacks)
    if "modules_to_save" in config:
        with raises("M606", match="modules_to_save = .*no tensor for them"):
            bind_parts(parts, **config)
    else:
        bind_parts(parts, **config)


def test_a_part_of_what_target_parameters_name_is_refused() -> None:
    parts = ["layers.0.mlp.up", "layers.1.mlp.up", "layers.3.mlp.up"]
    with raises("M606", match=r"no tensors for 'model.layers.2.mlp.up.weight'"):
        bind_parts(parts, target_modules=[], target_parameters=["up.weight"])


def test_a_file_without_the_biases_that_were_trained_is_refused() -> None:
    with raises("M606", match=r"bias = 'all', and it has no bias, such as .*v_proj.bias"):
        bind_parts(FULL, bias="all")


def test_keys_that_the_upper_layers_share_may_be_missing() -> None:
    names = pair("layers.0.k_proj", columns=4) | pair("layers.0.q_proj", columns=4)
    names |= pair("layers.1.q_proj", columns=4)
    base = {
        f"layers.{k}.{n}.weight": TensorType("F32", [4, 4])
        for k in range(2)
        for n in ("q_proj", "k_proj")
    }
    given = {**PLAIN, "target_modules": ["q_proj", "k_proj"]}
    model = {"num_hidden_layers": 2}
    bind_adapter("a", names, given, base, architecture="gemma3n_text", model_config=model)
    with raises("M606", match=r"no tensors for 'layers.1.k_proj'"):
        bind_adapter("a", names, given, base, architecture="gemma3_text", model_config=model)


def test_a_file_that_lacks_a_module_of_a_base_without_layers() -> None:
    base = {f"{name}.weight": TensorType("F32", [4, 4]) for name in ("first", "last")}
    config = {**PLAIN, "target_modules": ["first", "last"]}
    with raises("M606", match="no tensors for 'last', which its target_modules name"):
        bind_adapter("an-adapter", pair("first", columns=4), config, base)


@pytest.mark.parametrize(
    "pattern", [r"(?:model\.)?layers\.\d+\.(?:q|k)_proj", r"(?!.*head)(.*\.)*[qk]_proj"]
)
def test_patterns_with_repeated_groups_name_modules(pattern: str) -> None:
    config = {**PLAIN, "target_modules": pattern}
    with raises("M606", match="model.layers.2.q_proj|has 3"):
        bind_adapter("an-adapter", TWO, config, LAYERED, model_config={"num_hidden_layers": 3})


def test_a_layers_pattern_that_is_none_is_not_one() -> None:
    config = {**PLAIN, "layers_to_transform": [0, 1], "layers_pattern": 3.5}
    bind_adapter("an-adapter", TWO, config, LAYERED, model_config={"num_hidden_layers": 3})


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["k_proj"]},
        {"target_modules": r".*layers\.0\.q_proj"},
        {"target_modules": ["q_proj"], "exclude_modules": ["layers.1.q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
    ],
)
def test_tensors_that_peft_would_leave_out_are_refused(config: dict[str, Any]) -> None:
    with raises("M606", match="q_proj', which its adapter_config.json does not name"):
        bind_adapter("a", TWO, {**PLAIN, **config}, LAYERED)


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("q_proj", True),
        ("0.q_proj", True),
        ("model.layers.0.q_proj", True),
        ("proj", False),
        ("s.0.q_proj", False),
        ("model.layers.0", False),
        ("", False),
    ],
)
def test_a_name_is_the_end_of_a_path(name: str, chosen: bool) -> None:
    """As `peft.tuners.tuners_utils.check_target_module_exists` has it."""
    path = "model.layers.0.q_proj"
    assert (path in {name} or path.endswith(f".{name}")) is chosen
    named = _matcher([name], unknown=False)
    assert named is not None
    assert named(path) is chosen


def test_a_hundred_thousand_names_are_looked_up_at_once() -> None:
    names = [f"layer_{number}" for number in range(100_000)]
    named = _matcher(names, unknown=False)
    assert named is not None
    began = time.process_time()
    assert sum(named(f"model.layers.{number}.layer_{number}") for number in range(20_000)) == 20_000
    assert time.process_time() - began < 60


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"rank_pattern": {f"q{n}": 2 for n in range(20_001)}}, "20001 patterns"),
        ({"alpha_pattern": {f"q{n}": 2 for n in range(20_001)}}, "20001 patterns"),
        ({"modules_to_save": [f"q{n}" for n in range(100_000)]}, "100000 names in modules_to_save"),
        ({"layers_pattern": [f"q{n}" for n in range(100_000)]}, "100000 names in layers_pattern"),
        ({"layer_replication": [[0, 3]] * 400}, "repeats 1200 layers, more than 1000"),
        ({"layer_replication": [[0, 10**9]]}, "repeats 1000000000 layers"),
        ({"r": 10**9}, "rank"),
        ({"layers_to_transform": list(range(100_000))}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_long_lists_and_large_numbers_end_soon(config: dict[str, Any], match: str | None) -> None:
    began = time.process_time()
    given = {**PLAIN, "target_modules": ["q_proj"], **config}
    with raises("M606", "M607", match=match) if match else contextlib.nullcontext():
        bind_adapter("a", TWO, given, LAYERED, model_config={"num_hidden_layers": 2})
    assert time.process_time() - began < 60


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "EVIL"},
        {"r": 0},
        {"lora_alpha": float("inf")},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": {"(?i:[a-\uffee])": 2}},
        {"layer_replication": [[0, 10**9]]},
        {"modules_to_save": ["x"] * 1001},
        {"use_dora": True, "lora_bias": True},
    ],
    ids=str,
)
def test_what_no_base_makes_exact_is_told_without_one(config: dict[str, Any]) -> None:
    check_alone("a", TWO, PLAIN)
    with raises("M606"):
        check_alone("a", TWO, {**PLAIN, **config})


def test_a_series_has_an_end() -> None:
    """That of OFT and PSOFT."""
    names = {"base_model.model.model.layers.0.q_proj.oft_R.weight": ("F32", (2, 1))}
    config = {"peft_type": "OFT", "target_modules": ["q_proj"], "oft_block_size": 2, "r": 0}
    base = {"model.layers.0.q_proj.weight": TensorType("F32", [4, 4])}
    for terms, match in ((1000, None), (10**9, "more than 1000 are not summed")):
        given = {**config, "use_cayley_neumann": True, "num_cayley_neumann_terms": terms}
        with raises("M606", match=match) if match else contextlib.nullcontext():
            bind_adapter("a", names, given, base)
