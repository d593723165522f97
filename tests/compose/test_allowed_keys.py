"""Of a config, transformers gets what its class declares and what is plain, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import CLIPConfig, GenerationConfig, LlamaConfig, LlavaConfig, PreTrainedConfig

from modpkg.compose.allowed_keys import allowed_config, allowed_generation
from tests.raising import raises

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32}


def passed(config: dict[str, Any], kind: type = LlamaConfig) -> dict[str, Any]:
    return allowed_config("m", kind, config)


@pytest.mark.parametrize("kind", [LlamaConfig, CLIPConfig, LlavaConfig])
def test_what_transformers_saves_passes_whole(kind: type[PreTrainedConfig]) -> None:
    saved = json.loads(kind().to_json_string(use_diff=False))
    got = kind.from_dict(passed(saved, kind))
    assert got.to_dict() == kind.from_dict(saved).to_dict()


@pytest.mark.parametrize(
    "extra",
    [
        {"my_number": 3, "my_flag": False, "my_list": [1, "a"], "_detects": True, "nothing": None},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"task_specific_params": {"translation": {"prefix": "translate English to German: "}}},
        {"id2label": {"0": "a/b", "1": "update"}, "label2id": {"a/b": 0, "update": 1}},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
        {"pretraining_tp": 1, "attention_bias": False, "torch_dtype": "bfloat16"},
        {"quantization_config": {"quant_method": "fp8", "ignore": ["lm_head", "re:.*gate$"]}},
        {"default_theta": 5.0},
    ],
)
def test_plain_settings_pass(extra: dict[str, Any]) -> None:
    assert passed({**LLAMA, **extra}) == {**LLAMA, **extra}


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        ({"_name_or_path": "evil/model"}, {}),
        ({"name_or_path": "evil/model"}, {}),
        ({"_attn_implementation_internal": "flex_attention"}, {}),
        ({"_private": "x", "_private_table": {"a": 1}}, {}),
        ({"weights": "https://example.org/x", "more": "evil/model"}, {}),
        ({"files": ["../../x", "a"]}, {"files": ["a"]}),
        ({"files": {"a": {"b": "/etc/passwd", "c": 1}}}, {"files": {"a": {"c": 1}}}),
        ({"base_model_tp_plan": {"layers.*": "colwise"}}, {}),
        ({"keys_to_ignore_at_inference": ["past_key_values"]}, {}),
    ],
)
def test_addresses_and_private_names_are_left_out(
    extra: dict[str, Any], kept: dict[str, Any]
) -> None:
    assert passed({**LLAMA, **extra}) == {**LLAMA, **kept}
    inner = passed({"text_config": {**LLAMA, **extra}}, LlavaConfig)
    assert inner == {"text_config": {**LLAMA, **kept}}


@pytest.mark.parametrize(
    "extra",
    [
        # by such a table a key of any name becomes the implementation of attention
        {"attribute_map": {"mine": "_attn_implementation_internal"}, "mine": "flex_attention"},
        {"sub_configs_defaults": {"a": {}}},
        {"to_dict": "x"},
        {"__class__": {"a": 1}},
        {"extra_files": ["../../x.safetensors"]},
    ],
)
def test_parts_of_the_class_are_refused(extra: dict[str, Any]) -> None:
    with raises("M704", match="no setting"):
        passed({**LLAMA, **extra})
    with raises("M704", match="no setting"):
        passed({"text_config": {**LLAMA, **extra}}, LlavaConfig)


def test_tables_of_the_class_are_refused_within_any_key() -> None:
    inner = {"attribute_map": {"mine": "_attn_implementation_internal"}}
    with raises("M704", match="no setting"):
        passed({"text_config_dict": inner}, CLIPConfig)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype", "router_dtype", "bnb_4bit_compute_dtype"])
@pytest.mark.parametrize("value", ["os.system", "load", "hub", {"text_config": "_dynamo"}])
def test_a_dtype_is_one(key: str, value: Any) -> None:
    for config in ({key: value}, {"a": [{"quantization_config": {key: value}}]}):
        with raises("M704", match="no dtype"):
            passed({**LLAMA, **config})
    assert passed({**LLAMA, key: "float16"})[key] == "float16"


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "/tmp/evil.py:Cls"},
        {"config_groups": {"a": {"weights": {"observer": "evil.py:Cls"}}}},
        {"backend": "evil/kernel"},
        {"modules": ["evil:run"]},
    ],
)
def test_a_quantisation_names_no_code(settings: dict[str, Any]) -> None:
    config = {"quantization_config": {"quant_method": "compressed-tensors", **settings}}
    for each in (config, {"text_config": config}):
        with raises("M707", match="quantization_config"):
            passed({**LLAMA, **each})


def test_how_a_quantisation_was_made_is_left_out() -> None:
    made = {
        "tokenizer": "org/name",
        "dataset": ["a text", "org/data"],
        "meta": {"uri": "https://x"},
    }
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, **made}}
    kept = {"quant_method": "gptq", "bits": 4, "dataset": ["a text"], "meta": {}}
    assert passed(config)["quantization_config"] == kept


GENERATION = {
    "eos_token_id": 1,
    "do_sample": True,
    "_from_model_config": True,
    "lang_to_id": {"a": 1},
}


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        ({}, {}),
        ({"stop_strings": ["a/b", "</s>"]}, {"stop_strings": ["a/b", "</s>"]}),
        ({"compile_config": {"backend": "evil"}, "use_mtp": True}, {}),
        ({"a": {"_cls_name": "SamplerConfig"}}, {"a": {"_cls_name": "SamplerConfig"}}),
        ({"_commit_hash": "x", "mine": "/etc/passwd"}, {}),
    ],
)
def test_generation_configs(extra: dict[str, Any], kept: dict[str, Any]) -> None:
    got = allowed_generation("m", GenerationConfig, {**GENERATION, **extra})
    assert got == {**GENERATION, **kept}
    GenerationConfig.from_dict(got)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"custom_generate": "evil/code"}, "M707"),
        ({"validate": "x"}, "M704"),
        ({"sampler_config": {"_cls_name": "cached_file", "filename": "x"}}, "M707"),
        ({"a": {"trust_remote_code": True}}, "M707"),
    ],
)
def test_hostile_generation_configs(extra: dict[str, Any], code: str) -> None:
    with raises(code):
        allowed_generation("m", GenerationConfig, {**GENERATION, **extra})
