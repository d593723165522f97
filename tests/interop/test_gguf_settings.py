"""Settings of GGUF files: each is carried over, or the file is refused by the setting's name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modpkg.interop.gguf import import_gguf
from tests.interop.gguf_files import metadata_of, model_of, tensors_of, write_gguf, write_model
from tests.interop.test_gguf import IDS, imported, parts_of, refused

pytestmark = pytest.mark.filterwarnings("ignore")


def test_settings_that_transformers_does_not_read_are_carried_over(tmp_path: Path) -> None:
    """transformers' reader leaves its defaults: theta 10000, a head of 128, untied …"""
    path = write_model(tmp_path / "m.gguf", model_of("starcoder2"), "starcoder2")
    config = imported(path, tmp_path / "out").config
    assert config.rope_parameters["rope_theta"] == 5e4
    assert config.sliding_window == 16
    assert config.pad_token_id is None


def test_a_llama_that_is_named_mistral_stays_a_llama(tmp_path: Path) -> None:
    """transformers takes the name for the architecture, whose default is a window of 4096."""
    general = {"general.name": "mistral"}
    model = model_of("llama")
    path = write_model(tmp_path / "m.gguf", model, "llama", general=general)
    got = imported(path, tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(got(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    ("architecture", "key"),
    [
        ("llama", "attention.layer_norm_rms_epsilon"),
        ("llama", "attention.head_count"),
        ("llama", "context_length"),
        ("gpt2", "attention.layer_norm_epsilon"),
        ("mamba", "attention.layer_norm_rms_epsilon"),
    ],
)
def test_a_setting_that_is_not_there_is_no_default(
    architecture: str, key: str, tmp_path: Path
) -> None:
    """llama.cpp needs them; transformers would take those of another model."""
    tensors, metadata = parts_of(architecture)
    del metadata[key]
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, architecture=architecture)
    refused(path, tmp_path / "out", f"lacks the setting {architecture}.{key}")


def test_no_experts_are_a_dense_model(tmp_path: Path) -> None:
    tensors, metadata = parts_of("llama")
    path = write_gguf(tmp_path / "m.gguf", tensors, {**metadata, "expert_count": 0})
    assert type(imported(path, tmp_path / "out")).__name__ == "LlamaForCausalLM"


def test_a_pointer_of_git_and_a_tokenizer_without_merges_are_told(tmp_path: Path) -> None:
    pointer = tmp_path / "pointer.gguf"
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n")
    refused(pointer, tmp_path / "out", "git lfs pull")
    tensors, metadata = parts_of("llama")
    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]}
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, pre=None, general=tokens)
    refused(path, tmp_path / "out", "no merges")


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("llama", "expert_count", 8),
        ("llama", "attention.sliding_window", 4),
        ("llama", "logit_scale", 0.5),
        ("llama", "embedding_scale", 12.0),
        ("llama", "attention.causal", False),
        ("llama", "attention.key_length", 16),
        ("llama", "attention.head_count_kv", [2, 4]),
        ("llama", "rope.dimension_count", 4),
        ("llama", "rope.scaling.type", "longrope"),
        ("llama", "rope.scaling.attn_factor", 1.5),
        ("llama", "rope.scaling.yarn_log_multiplier", 0.1),
        ("qwen2", "pooling_type", 1),
        ("qwen3moe", "expert_gating_func", 2),
        ("qwen3moe", "expert_weights_scale", 2.5),
        ("minimax-m2", "expert_gating_func", 1),
        ("gemma2", "attention.scale", 0.1),
        ("gpt2", "attention.head_count_kv", 2),
        ("mamba", "ssm.dt_b_c_rms", True),
        ("bloom", "feed_forward_length", 64),
        ("falcon", "attention.head_count_kv", 2),
        ("llama", "block_count", 10**9),
        ("llama", "vocab_size", 10**9),
        ("llama", "feed_forward_length", 10**9),
        ("llama", "attention.head_count", 0),
        ("llama", "embedding_length", 0),
    ],
)
def test_a_setting_that_cannot_be_carried_over_is_named(
    architecture: str, key: str, value: Any, tmp_path: Path
) -> None:
    tensors, metadata = parts_of(architecture)
    path = write_gguf(
        tmp_path / "m.gguf", tensors, metadata | {key: value}, architecture=architecture
    )
    named = value not in (0, 10**9) and key != "attention.key_length"
    refused(path, tmp_path / "out", re.escape(f"{architecture}.{key}") if named else "")


SCALINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rope_type": "linear", "factor": 4.0}, {"scaling.type": "linear", "scaling.factor": 4.0}),
    ({"rope_type": "linear", "factor": 2.0}, {"scale_linear": 2.0}),
    ({"rope_type": "default"}, {"scaling.type": "none", "scaling.factor": 4.0}),
    (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "scaling.type": "yarn",
            "scaling.factor": 4.0,
            "scaling.original_context_length": 16,
            "scaling.finetuned": True,
        },
    ),
    (
        {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 24.0,
            "beta_slow": 2.0,
        },
        {
            "scaling.type": "yarn",
            "scaling.factor": 8.0,
            "scaling.original_context_length": 16,
            "scaling.yarn_beta_fast": 24.0,
            "scaling.yarn_beta_slow": 2.0,
        },
    ),
]


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("scaling", range(len(SCALINGS)))
def test_the_scaling_of_rotary_positions_is_kept(
    scaling: int, architecture: str, tmp_path: Path
) -> None:
    parameters, keys = SCALINGS[scaling]
    model = model_of(architecture, rope_parameters=parameters | {"rope_theta": 1e4})
    tensors, metadata = tensors_of(model, architecture), metadata_of(model.config, architecture)
    metadata |= {f"rope.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, architecture=architecture)
    got = imported(path, tmp_path / "out")
    with torch.inference_mode():
        torch.testing.assert_close(got(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-6)


def llama3_factors(head: int, theta: float, factor: float) -> torch.Tensor:
    """Return by how much transformers slows down each frequency of Llama 3.1."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=head,
        num_attention_heads=1,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1.0 / theta ** (torch.arange(0, head, 2, dtype=torch.float32) / head)
    return plain / scaled


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_factors_of_llama_3_become_its_scaling(factor: float, tmp_path: Path) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = model_of("llama", head_dim=64, rope_parameters=parameters)
    tensors, metadata = tensors_of(model, "llama"), metadata_of(model.config, "llama")
    tensors["rope_freqs.weight"] = llama3_factors(64, 5e5, factor)
    got = imported(write_gguf(tmp_path / "m.gguf", tensors, metadata), tmp_path / "out")
    assert got.config.rope_parameters == parameters
    with torch.inference_mode():
        assert torch.equal(got(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    "factors",
    [
        torch.tensor([1.0, 1.0, 2.0, 8.0]),
        torch.tensor([1.0, 1.0, 8.0]),
        torch.tensor([0.0, 1.0, 1.0, 1.0]),
    ],
)
def test_other_factors_are_refused(factors: torch.Tensor, tmp_path: Path) -> None:
    tensors, metadata = parts_of("llama")
    tensors["rope_freqs.weight"] = factors
    refused(write_gguf(tmp_path / "m.gguf", tensors, metadata), tmp_path / "out", "rope_freqs")
    tensors["rope_factors_long.weight"] = tensors.pop("rope_freqs.weight")
    refused(write_gguf(tmp_path / "n.gguf", tensors, metadata), tmp_path / "out", "rope_factors")


def test_the_factors_of_phi_3_become_its_longrope(tmp_path: Path) -> None:
    long, short = [1.5, 2.7], [1.1, 1.2]
    model = model_of(
        "phi3",
        max_position_embeddings=64,
        original_max_position_embeddings=16,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "long_factor": long,
            "short_factor": short,
            "original_max_position_embeddings": 16,
        },
    )
    tensors, metadata = tensors_of(model, "phi3"), metadata_of(model.config, "phi3")
    metadata["rope.scaling.attn_factor"] = (1 + 0.5) ** 0.5  # as Phi3MiniModel computes it
    tensors["rope_factors_long.weight"] = torch.tensor(long)
    tensors["rope_factors_short.weight"] = torch.tensor(short)
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, architecture="phi3")
    got = imported(path, tmp_path / "out")
    for ids in (IDS, IDS[:, :8]):  # beyond the original context, and within it
        with torch.inference_mode():
            torch.testing.assert_close(got(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


def test_gemma_3_keeps_its_pattern_and_both_bases(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"]
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    model = model_of("gemma3", num_hidden_layers=2, layer_types=kinds, rope_parameters=rope)
    tensors, metadata = tensors_of(model, "gemma3"), metadata_of(model.config, "gemma3")
    metadata |= {
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
        "rope.freq_base_swa": 2e4,
        "attention.sliding_window_pattern": [True, False],
    }
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, architecture="gemma3")
    got = imported(path, tmp_path / "out")
    assert got.config.layer_types == kinds
    assert got.config.rope_parameters == rope
    with torch.inference_mode():
        torch.testing.assert_close(got(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


def pre_tokenizers() -> list[str]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return sorted(GGUF_PRE_TOKENIZER_SPLITS)


TEXT = "the other 12345 they're\n\n  THE\tthe's"


@pytest.mark.parametrize("name", pre_tokenizers())
def test_every_pre_tokenizer_that_transformers_converts_is_taken(name: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", model_of("llama"), "llama", pre=name)
    assert import_gguf(path, tmp_path / "out", "g", "1.0.0", license="MIT") == []
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    got = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert got(TEXT).input_ids == expected(TEXT).input_ids
    document = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert document["pre_tokenizer"]["pretokenizers"][0]["type"] == "Split"


@pytest.mark.parametrize(
    ("name", "digits", "warned"),
    [
        ("gpt-2", "12345", False),
        ("smollm", "1", False),
        ("starcoder", "1", False),
        ("default", "12345", True),
        ("no-such", "12345", True),
    ],
)
def test_other_pre_tokenizers_are_corrected_or_told(
    name: str, digits: str, warned: bool, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m.gguf", model_of("llama"), "llama", pre=name)
    warnings = import_gguf(path, tmp_path / "out", "g", "1.0.0", license="MIT")
    assert bool(warnings) is warned
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("12345")
    assert cut[0][0] == digits


def test_a_licence_that_is_no_expression_is_told(tmp_path: Path) -> None:
    general = {"general.license": "llama3.1"}
    path = write_model(tmp_path / "m.gguf", model_of("llama"), "llama", general=general)
    assert "llama3.1" in import_gguf(path, tmp_path / "out", "g", "1.0.0")[0]


def test_the_chat_template_is_taken_and_others_are_said_to_be_left_out(tmp_path: Path) -> None:
    general = {"tokenizer.chat_template": "{{ messages }}", "tokenizer.chat_template.rag": "x"}
    path = write_model(tmp_path / "m.gguf", model_of("llama"), "llama", general=general)
    warnings = import_gguf(path, tmp_path / "out", "g", "1.0.0", license="MIT")
    assert warnings == ["left out: the chat template 'rag'"]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
