"""What transformers would report of weights, from names and shapes, for each kind of base."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modpkg.core.tensors import types_of
from modpkg.interop.full_precision import refs_of
from modpkg.runtime.architecture import class_of_config
from modpkg.runtime.load import load_model
from modpkg.runtime.loading_report import LoadingReport, loading_report
from tests.raising import raises
from tests.runtime.helpers import install

IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}
ATTENTION: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
SMALL: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, **IDS}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
TEXT: dict[str, Any] = {**SMALL, **ATTENTION, "model_type": "llama"}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def nemotron_h() -> Any:
    return transformers.NemotronHConfig(
        vocab_size=64,
        hidden_size=32,
        layers_block_type=["mamba", "attention"],
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=1,
        chunk_size=8,
        head_dim=8,
        **ATTENTION,
        **IDS,
    )


def zamba2() -> Any:
    return transformers.Zamba2Config(
        **SMALL,
        **ATTENTION,
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=4,
        mamba_headdim=16,
        layers_block_type=["mamba", "hybrid"],
        adapter_rank=4,
        num_mem_blocks=1,
        chunk_size=8,
    )


def bamba() -> Any:
    return transformers.BambaConfig(**SMALL, **ATTENTION, **MAMBA, attn_layer_indices=[1])


def falcon_h1() -> Any:
    sizes = {**MAMBA, "mamba_d_ssm": 64, "head_dim": 8}
    return transformers.FalconH1Config(**SMALL, **ATTENTION, **sizes)


def granitemoehybrid() -> Any:
    sizes = {"shared_intermediate_size": 48, "num_local_experts": 2, "num_experts_per_tok": 1}
    layers = ["mamba", "attention"]
    return transformers.GraniteMoeHybridConfig(
        **SMALL, **ATTENTION, **MAMBA, **sizes, layer_types=layers
    )


HYBRIDS = (nemotron_h, zamba2, bamba, falcon_h1, granitemoehybrid)


def judged(folder: Path) -> LoadingReport:
    return loading_report("m", folder, types_of(refs_of(folder, ["model.safetensors"])))


@pytest.mark.parametrize("config", HYBRIDS)
def test_mamba_hybrids_load_as_in_transformers(config: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config()).eval()
    home, packs = install(tmp_path, model, with_tokenizer=False)
    loaded: Any = load_model(home, packs)
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def vision_language() -> Any:
    vision = {**VISION, "model_type": "siglip_vision_model"}
    return transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(text_config=TEXT, vision_config=vision, image_token_index=5)
    )


def speech() -> Any:
    return transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(
            vocab_size=64,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=8,
            max_source_positions=16,
            max_target_positions=16,
            **IDS,
        )
    )


def contrastive() -> Any:
    text = {**SMALL, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    return transformers.CLIPModel(config)


def images() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))


def sounds() -> Any:
    return transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(
            vocab_size=16,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            conv_dim=(8, 8),
            conv_stride=(2, 2),
            conv_kernel=(3, 3),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_feat_extract_layers=2,
        )
    )


def shared_keys() -> Any:
    return transformers.Gemma3nForCausalLM(
        transformers.Gemma3nTextConfig(
            **{**SMALL, **ATTENTION, "num_hidden_layers": 4, "intermediate_size": 48},
            head_dim=8,
            vocab_size_per_layer_input=64,
            hidden_size_per_layer_input=8,
            laurel_rank=4,
            altup_num_inputs=2,
            num_kv_shared_layers=2,
            activation_sparsity_pattern=[0.0] * 4,
            layer_types=["sliding_attention", "full_attention"] * 2,
        )
    )


KINDS = (vision_language, speech, contrastive, images, sounds, shared_keys)


@pytest.mark.parametrize("make", KINDS)
def test_every_kind_of_base_is_compared_with_its_architecture(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path)
    whole = judged(tmp_path)
    assert (whole.missing, whole.unexpected, whole.mismatched) == ((), (), ())
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(n for n in sorted(tensors) if "layers.0" in n or "layer.0" in n)
    tensors["surplus.weight"] = tensors.pop(lost)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    part = judged(tmp_path)
    assert part.unexpected == ("surplus.weight",)
    assert len(part.missing) == 1
    assert part.missing[0].endswith(lost.rpartition(".")[2])


def test_keys_of_layers_that_share_anothers_are_ignored_as_in_transformers(tmp_path: Path) -> None:
    model = shared_keys()
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for kind in ("k_proj", "v_proj", "k_norm"):
        own = next(tensors[n] for n in tensors if n.endswith(f"layers.0.self_attn.{kind}.weight"))
        tensors[f"model.layers.3.self_attn.{kind}.weight"] = own.clone()
    save_file(tensors, path, metadata={"format": "pt"})
    report = judged(tmp_path)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    loaded = type(model).from_pretrained(tmp_path, output_loading_info=True)[1]
    assert not loaded["unexpected_keys"]


@pytest.mark.skipif(find_spec("timm") is not None, reason="nothing is missing")
def test_a_package_that_an_architecture_needs_is_named() -> None:
    with raises("M723", match="m needs a Python package .*timm"):
        class_of_config("m", {"architectures": ["TimmWrapperModel"], "model_type": "timm_wrapper"})
