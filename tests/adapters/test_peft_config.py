"""Keys of adapter_config.json: applied exactly, ignored, or refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from modpkg.core.records import TensorType
from tests.adapters.samples import bind, pair
from tests.raising import raises


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
        {"use_qalora": True, "qalora_group_size": 1},
        {"use_bdlora": {"nblocks": "2"}},
        {"use_bdlora": "x"},
        {"kasa_config": {"beta": 1}},
        {"kasa_config": {"beta": 1}, "use_dora": True},
        {"arrow_config": {"top_k": 1}},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": ["pissa"]},
        {"init_lora_weights": "loftq"},
        {"something_new": 1},
        {"r": "8"},
        {"r": 0},
        {"lora_alpha": math.inf},
        {"rank_pattern": {"q": 0}},
        {"rank_pattern": {"q": 1.5}},
        {"rank_pattern": {r"(q)\1": 4}},
        {"rank_pattern": {"q[": 4}},
        {"rank_pattern": {"(" * 50 + "q" + ")" * 50: 4}},
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
        {"init_lora_weights": "Gaussian"},  # PEFT does not look at the case
        {"init_lora_weights": None},
        {"init_lora_weights": False},
        {"lora_dropout": 0.1, "target_modules": ["q"], "task_type": "CAUSAL_LM"},
        {"bias": "lora_only"},  # of a base without biases there are none
        {"modules_to_save": ["classifier", "score"]},  # PEFT names both, whichever there is
        {"use_dora": False, "modules_to_save": None, "something_new": None, "bias": "none"},
    ],
    ids=str,
)
def test_configurations_that_change_nothing_are_accepted(config: dict[str, Any]) -> None:
    assert bind(pair("layers.0.q"), **config)[0].weight == 3.0


def test_an_unknown_initialisation_is_not_said_to_have_moved_the_base() -> None:
    with raises("M606", match="'kaiming', which is no initialisation of PEFT's"):
        bind(pair("layers.0.q"), init_lora_weights="kaiming")


def test_rslora_and_patterns() -> None:
    names = pair("layers.1.q", rank=4) | pair("layers.10.q")
    patterns = {"rank_pattern": {"layers.1.q": 4}, "alpha_pattern": {r"10\.q": 8}}
    weights = {change.target: change.weight for change in bind(names, **patterns, use_rslora=True)}
    assert weights == {
        "model.layers.1.q.weight": 6 / 2,
        "model.layers.10.q.weight": 8 / math.sqrt(2),
    }


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?:layers\.)?1\.q",
        r"layers\.(?!0)\d+\.q",
        r"(?:model\.)?(?:layers\.(?:1|3)\.)+[qk]",
        r"(?<=layers\.)1\.q",
        r".*.*.*1.*q",
        "(l|a|y)+ers.1.q",
        "k)|(.*1.q",  # PEFT puts it between parentheses
    ],
)
def test_patterns_match_as_in_peft(pattern: str) -> None:
    names = pair("layers.0.q") | pair("layers.1.q", rank=4)
    weights = {change.target: change.weight for change in bind(names, rank_pattern={pattern: 4})}
    assert weights == {"model.layers.0.q.weight": 3.0, "model.layers.1.q.weight": 1.5}


def test_a_hostile_pattern_is_refused_in_time() -> None:
    path = "layers.0." + "a." * 400 + "q"
    base = {f"{path}.weight": TensorType("F32", [4, 6])}
    with raises("M606", match="takes too long"):
        bind(pair(path), base, rank_pattern={"(.*.*)*(.*)*x": 4})
