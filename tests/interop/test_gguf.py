"""GGUF files: what is imported equals the model that was written, and anything else is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from modpkg.interop.gguf import import_gguf
from modpkg.interop.gguf_settings import RULES
from tests.interop.gguf_files import (
    HIDDEN,
    metadata_of,
    model_of,
    tensors_of,
    write_gguf,
    write_model,
)
from tests.raising import raises

REFUSED_BY_NEW_READER = {"Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}
"""Types that transformers' reader of lfm2 and qwen35 does not know."""

IDS = torch.arange(2, 42).reshape(2, 20)

pytestmark = pytest.mark.filterwarnings("ignore")


def imported(path: Path, out: Path, dtype: str = "float32") -> Any:
    """Import a file and return the model that transformers loads from the project."""
    import_gguf(path, out, "g", "1.0.0", dtype=dtype, license="MIT")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("architecture", sorted(RULES))
def test_an_imported_model_computes_what_the_written_one_does(
    architecture: str, tmp_path: Path
) -> None:
    model = model_of(architecture)
    path = write_model(tmp_path / "model.gguf", model, architecture)
    got = imported(path, tmp_path / "out")
    with torch.inference_mode():
        torch.testing.assert_close(got(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)


def test_every_architecture_that_transformers_reads_is_tried_or_refused(tmp_path: Path) -> None:
    from transformers.integrations.gguf import GGUF_ARCHS, GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    spelling = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "minimax_m2": "minimax-m2"}
    readable = {spelling.get(name, name) for name in GGUF_SUPPORTED_ARCHITECTURES}
    readable |= {*GGUF_ARCHS, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer"}
    refused = readable - {*RULES, "general", "tokenizer"}
    assert refused == {"t5", "umt5", "deci", "gpt_oss", "gemma4", "mistral"}
    tensors, metadata = parts_of("llama")
    for architecture in (*sorted(refused), "clip", "no such"):
        path = write_gguf(
            tmp_path / "m.gguf", tensors, metadata, architecture=architecture, general={}
        )
        with raises("M801", match="architecture"):
            import_gguf(path, tmp_path / "out", "g", "1.0.0")


def parts_of(architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the metadata of a tiny model."""
    model = model_of(architecture)
    return tensors_of(model, architecture), metadata_of(model.config, architecture)


def refused(path: Path, out: Path, match: str) -> None:
    """Expect that importing a file is refused, and leaves nothing behind."""
    with raises("M801", match=match):
        import_gguf(path, out, "g", "1.0.0", license="MIT")
    assert not out.exists()
    assert not list(out.parent.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "blk.1.attn_q.weight"),
        ("llama", "token_embd.weight"),
        ("qwen2", "blk.0.attn_k.bias"),
        ("qwen2moe", "blk.0.ffn_up_exps.weight"),
        ("qwen2moe", "blk.1.ffn_gate_exps.weight"),
        ("qwen3moe", "blk.0.ffn_gate_inp.weight"),
        ("minimax-m2", "blk.0.exp_probs_b.bias"),
        ("gpt2", "position_embd.weight"),
        ("lfm2", "blk.0.shortconv.conv.weight"),
        ("qwen35", "blk.0.ssm_a"),
        ("mamba", "blk.1.ssm_d"),
    ],
)
def test_a_missing_tensor_is_named(architecture: str, name: str, tmp_path: Path) -> None:
    tensors, metadata = parts_of(architecture)
    del tensors[name]
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, architecture=architecture)
    refused(path, tmp_path / "out", re.escape(name.partition(".weight")[0]))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3moe", "lfm2", "qwen35"])
@pytest.mark.parametrize("name", ["blk.0.attn_q.scale", "blk.9.attn_norm.weight", "extra.weight"])
def test_a_tensor_that_is_left_over_is_named(architecture: str, name: str, tmp_path: Path) -> None:
    tensors, metadata = parts_of(architecture)
    tensors[name] = torch.ones(HIDDEN)
    path = write_gguf(tmp_path / "m.gguf", tensors, metadata, architecture=architecture)
    refused(path, tmp_path / "out", re.escape(name))


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", model_of("llama"), "llama")
    for out in ("one", "two"):
        import_gguf(path, tmp_path / out, "g", "1.0.0", license="MIT")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()


def test_other_files_of_the_folder_have_no_part_in_it(tmp_path: Path) -> None:
    """transformers would apply an adapter that lies beside the file."""
    model = model_of("llama")
    path = write_model(tmp_path / "m.gguf", model, "llama")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    (tmp_path / "generation_config.json").write_text('{"temperature": 9.0, "do_sample": true}')
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    got = imported(path, tmp_path / "out")
    assert got.generation_config.temperature != 9.0
    assert torch.equal(got.model.norm.weight, model.model.norm.weight)


@pytest.mark.parametrize(
    ("general", "match"),
    [
        ({"general.type": "adapter"}, "LoRA"),
        ({"adapter.type": "lora"}, "LoRA"),
        ({"general.type": "mmproj"}, "mmproj"),
        ({"general.type": "imatrix"}, "imatrix"),
    ],
)
def test_other_kinds_of_files_are_refused_for_what_they_are(
    general: dict[str, str], match: str, tmp_path: Path
) -> None:
    tensors, metadata = parts_of("llama")
    refused(
        write_gguf(tmp_path / "m.gguf", tensors, metadata, general=general), tmp_path / "out", match
    )


def test_a_lora_without_a_type_and_a_bare_vocabulary_are_refused(tmp_path: Path) -> None:
    lora = {"blk.0.attn_q.weight.lora_a": torch.ones(2, HIDDEN)}
    refused(write_gguf(tmp_path / "m.gguf", lora, {}), tmp_path / "out", "LoRA")
    refused(write_gguf(tmp_path / "v.gguf", {}, {}), tmp_path / "out", "no tensors")


def split(tmp_path: Path, **changes: Any) -> list[Path]:
    """Write a model as three files, as gguf-split does; return their paths."""
    tensors, metadata = parts_of("llama")
    names = list(tensors)
    paths = []
    for number in range(3):
        path = tmp_path / f"m-{number + 1:05}-of-00003.gguf"
        general = {
            "split.no": number,
            "split.count": 3,
            "split.tensors.count": len(names),
        } | changes
        write_gguf(
            path,
            {name: tensors[name] for name in names[number::3]},
            metadata if number == 0 else {},
            general=general | changes,
            pre="llama-bpe" if number == 0 else None,
        )
        paths.append(path)
    return paths


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_split_model_is_read_whole_from_any_part(part: int, tmp_path: Path) -> None:
    model = model_of("llama")
    got = imported(split(tmp_path)[part], tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(got(IDS).logits, model(IDS).logits)


def test_a_split_model_with_a_wrong_part_is_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)
    content = paths[1].read_bytes()
    paths[1].unlink()
    refused(paths[0], tmp_path / "out", "m-00002-of-00003.gguf is missing")
    refused(paths[2], tmp_path / "out", "m-00002-of-00003.gguf is missing")
    paths[1].write_bytes(paths[2].read_bytes())
    refused(paths[0], tmp_path / "out", "not part 2 of 3")
    paths[1].write_bytes(content)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(paths[0].read_bytes())
    refused(alone, tmp_path / "out", "one of 3 parts")
    refused(split(tmp_path, **{"split.tensors.count": 40})[0], tmp_path / "out", "40 belong")


QUANTISED = sorted(
    kind.name
    for kind in GGMLQuantizationType
    if kind.name not in ("F32", "F16", "Q8_1", "Q8_K") and not re.match(r"I\d|F64|Q1_0", kind.name)
)


def blocks(kind: GGMLQuantizationType, rows: int, columns: int) -> np.ndarray:
    """Return random blocks of a type whose scales are ordinary numbers."""
    block, size = GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(0)
    while True:
        raw = random.integers(0, 64, (rows, columns // block * size), dtype=np.uint8)
        if np.isfinite(dequantize(raw, kind)).all():
            return raw


def quantised(path: Path, architecture: str, kinds: list[str]) -> dict[str, np.ndarray]:
    """Write a model with one tensor of random blocks for each type; return their values."""
    names = ["ffn_gate", "ffn_up", "ffn_down", "attn_output"]
    changes: dict[str, Any] = {"num_hidden_layers": -(-len(kinds) // len(names))}
    if architecture == "lfm2":
        changes["layer_types"] = ["full_attention"] * changes["num_hidden_layers"]
    model = model_of(architecture, hidden_size=256, intermediate_size=256, **changes)
    tensors, metadata = tensors_of(model, architecture), metadata_of(model.config, architecture)
    types, values = {}, {}
    for index, kind in enumerate(kinds):
        name = f"blk.{index // len(names)}.{names[index % len(names)]}.weight"
        types[name] = GGMLQuantizationType[kind]
        tensors[name] = blocks(types[name], *tensors[name].shape)
        values[name] = dequantize(tensors[name], types[name])
    write_gguf(path, tensors, metadata, architecture=architecture, types=types)
    return values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "lfm2"])
def test_every_quantisation_is_dequantised_as_gguf_does_and_rounded_once(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    kinds = [
        kind
        for kind in [*QUANTISED, "F16"]
        if architecture == "llama" or kind not in REFUSED_BY_NEW_READER
    ]
    values = quantised(tmp_path / "m.gguf", architecture, kinds)
    got = imported(tmp_path / "m.gguf", tmp_path / "out", dtype)
    mine = tensors_of(got, "qwen2" if architecture == "llama" else architecture)
    for name, value in values.items():
        expected = torch.from_numpy(value.copy()).to(getattr(torch, dtype))
        assert torch.equal(mine[name], expected), name


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [*(("lfm2", kind) for kind in sorted(REFUSED_BY_NEW_READER)), ("llama", "Q8_K")],
)
def test_a_type_that_cannot_be_dequantised_is_refused_by_name(
    architecture: str, kind: str, tmp_path: Path
) -> None:
    model = model_of(architecture, hidden_size=256)
    tensors, metadata = tensors_of(model, architecture), metadata_of(model.config, architecture)
    name, number = "blk.0.ffn_gate.weight", GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[number]
    rows, columns = tensors[name].shape
    tensors[name] = np.zeros((rows, columns // block * size), np.uint8)
    path = write_gguf(
        tmp_path / "m.gguf", tensors, metadata, architecture=architecture, types={name: number}
    )
    refused(path, tmp_path / "out", f"{name}.*{kind}")
