"""Quantised weights in full precision: bit for bit what each format's own library makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modpkg.adapters.quantised import DEQUANTISED
from modpkg.compose.mapping import DTYPE_NAMES
from modpkg.core.jsonfile import read_json
from modpkg.interop.architecture_fit import check_project
from modpkg.interop.dequantise import FORMATS, dequantised
from modpkg.interop.hf import import_hf
from modpkg.manifest.read import read_manifest
from tests.raising import raises
from tests.runtime.helpers import llama

Table = dict[str, torch.Tensor]


def whole(settings: dict[str, Any], table: Table, dtype: str = "bfloat16", **config: Any) -> Table:
    """Return every weight that a table of codes makes."""
    types = {name: (DTYPE_NAMES[t.dtype], tuple(t.shape)) for name, t in table.items()}
    config = {"quantization_config": settings, "dtype": dtype, **config}
    made, kept = dequantised(config, types, table.__getitem__)
    result = {weight.name: weight.compute() for weight in made}
    for weight in made:
        tensor = result[weight.name]
        assert (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) == (weight.dtype, weight.shape)
    return result | {name: table[name] for name in kept}


def digest(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


FP8 = {"quant_method": "fp8", "weight_block_size": [16, 32]}


@pytest.mark.parametrize("scale", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_fp8_in_blocks_as_transformers(scale: torch.dtype) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    torch.manual_seed(0)
    codes = torch.randn(3, 48, 64).to(torch.float8_e4m3fn)
    scales = (torch.rand(3, 3, 2) + 0.1).to(scale)
    table = {"x.gate_up_proj": codes, "x.gate_up_proj_scale_inv": scales}
    wanted = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.bfloat16)
    assert torch.equal(whole(FP8, table)["x.gate_up_proj"], wanted)


def test_fp8_with_a_last_block_that_is_not_full() -> None:
    codes = torch.ones(20, 40).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    made = whole(FP8, {"weight": codes, "weight_scale_inv": scales})["weight"]
    assert made[15, 31] == 1
    assert made[15, 32] == 2
    assert made[16, 31] == 3
    assert made[19, 39] == 4


def test_fp8_with_one_scale() -> None:
    codes, scale = torch.tensor([[1.5]]).to(torch.float8_e4m3fn), torch.tensor(2.0)
    settings = {"quant_method": "fp8", "weight_block_size": None}
    assert whole(settings, {"weight": codes, "weight_scale_inv": scale})["weight"].item() == 3.0


NF4 = (
    "788999877654445678abbbba8643222357acddddb9632111247bdefeec9521002357acdddcb8632112347aceeedc95"
    "31111247bdefeec9521001147befffed95"
)
FP4 = (
    "116666619eefffee9674444719fcdddce964522546ecdaaadf045233256edabbdce174522546ecdaaadf175222246e"
    "daaaadf142233256edabbbac142333256f"
)


@pytest.mark.parametrize(
    ("kind", "codes", "wanted"),
    [("nf4", NF4, "822aa1b1877090c4"), ("fp4", FP4, "a58d7888507e2d2e")],
)
def test_bitsandbytes_in_four_bits(kind: str, codes: str, wanted: str) -> None:
    """Codes and result of bitsandbytes 0.50.2, with nested scales."""
    from modpkg.interop.dequantise import bitsandbytes

    steps = torch.zeros(256)
    steps[0], steps[255] = -0.992968738079071, 1.0
    state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}
    state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.48046875}
    signs = torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]) / 12
    table = {
        "weight": torch.tensor(list(bytes.fromhex(codes)), dtype=torch.uint8).reshape(-1, 1),
        "weight.absmax": torch.tensor([0, 255], dtype=torch.uint8),
        "weight.quant_map": torch.tensor(bitsandbytes._NF4)
        if kind == "nf4"
        else torch.cat((signs, -signs)),
        "weight.nested_absmax": torch.tensor([0.44140625]),
        "weight.nested_quant_map": steps,
        f"weight.quant_state.bitsandbytes__{kind}": torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        ),
    }
    made = whole({"quant_method": "bitsandbytes", "load_in_4bit": True}, table)
    assert made.keys() == {"weight"}
    assert digest(made["weight"]) == wanted


def test_bitsandbytes_in_eight_bits() -> None:
    codes = torch.tensor([[-127, 0, 64], [127, 1, 2]], dtype=torch.int8)
    scales = torch.tensor([0.3, 1.7])
    table = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    table = {f"l.{name}": tensor for name, tensor in table.items()}
    made = whole({"load_in_8bit": True}, table, "float16")["l.weight"]
    assert torch.equal(made, (codes * scales[:, None] * 7.874015718698502e-3).half())


def packed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack integers along the first axis into 32-bit words, the lowest bits first."""
    words = torch.zeros(len(codes) * bits // 32, codes.shape[1], dtype=torch.int64)
    for row, values in enumerate(codes.long()):
        words[row * bits // 32] |= values << (row * bits % 32)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("ordered", [True, False])
def test_gptq(bits: int, form: str, ordered: bool) -> None:
    torch.manual_seed(bits)
    codes = torch.randint(0, 1 << bits, (32, 16))
    zeros = torch.randint(0, (1 << bits) - 1, (2, 16))
    scales = torch.rand(2, 16).half()
    group = torch.arange(32) // 16
    if ordered:
        group = group[torch.randperm(32)]
    table = {
        "l.qweight": packed(codes, bits),
        "l.qzeros": packed(zeros.t(), bits).t().contiguous(),
        "l.scales": scales,
    }
    if ordered:
        table["l.g_idx"] = group.to(torch.int32)
    settings = {"quant_method": "gptq", "bits": bits, "checkpoint_format": form, "group_size": 16}
    made = whole(settings, table, "float16")["l.weight"]
    more = 1 if form == "gptq" else 0
    for out, inner in ((0, 0), (7, 31), (15, 16)):
        own = scales[group[inner], out]
        zero = zeros[group[inner], out] + more
        assert made[out, inner] == own * (codes[inner, out] - zero).half()


def test_gptq_with_a_zero_beyond_its_bits_is_refused() -> None:
    table = {
        "l.qweight": torch.zeros(4, 8, dtype=torch.int32),
        "l.qzeros": torch.full((1, 1), -1, dtype=torch.int32),
        "l.scales": torch.ones(1, 8).half(),
    }
    with pytest.raises(ValueError, match="one more than its bits hold"):
        whole({"quant_method": "gptq", "bits": 4}, table)


def test_awq() -> None:
    torch.manual_seed(0)
    codes, zeros = torch.randint(0, 16, (8, 16)), torch.randint(0, 16, (2, 16))
    scales = torch.rand(2, 16).half()

    def words(values: torch.Tensor) -> torch.Tensor:
        order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
        placed = values.reshape(len(values), -1, 8)[..., order].flatten(1)
        return packed(placed.t(), 4).t().contiguous()

    table = {"l.qweight": words(codes), "l.qzeros": words(zeros), "l.scales": scales}
    settings = {"quant_method": "awq", "bits": 4, "group_size": 4, "version": "gemm"}
    made = whole(settings, table, "float16")["l.weight"]
    spread = [part.repeat_interleave(4, 0) for part in (zeros, scales)]
    assert torch.equal(made, ((codes - spread[0]).half() * spread[1]).t())


def test_mxfp4_as_transformers() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    torch.manual_seed(0)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (2, 6, 3), dtype=torch.uint8)
    made = whole({"quant_method": "mxfp4"}, {"x_blocks": blocks, "x_scales": scales})["x"]
    assert torch.equal(made, convert_moe_packed_tensors(blocks.clone(), scales.clone()))


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}


@pytest.mark.parametrize(
    ("strategy", "grid"),
    [
        ({"strategy": "tensor"}, (1,)),
        ({"strategy": "channel"}, (6, 1)),
        ({"strategy": "block", "block_structure": [4, 8]}, (2, 2)),
    ],
)
@pytest.mark.parametrize("codes", [torch.float8_e4m3fn, torch.int8])
def test_compressed_tensors(
    strategy: dict[str, Any], grid: tuple[int, ...], codes: torch.dtype
) -> None:
    torch.manual_seed(0)
    weight = torch.randint(-100, 100, (6, 16)).float().to(codes)
    scale = torch.rand(grid).bfloat16()
    table = {"l.weight": weight, "l.weight_scale": scale, "l.input_scale": torch.ones(1)}
    form = "int-quantized" if codes == torch.int8 else "float-quantized"
    made = whole(compressed(form, num_bits=8, **strategy), table)
    assert made.keys() == {"l.weight"}
    rows, columns = torch.arange(6), torch.arange(16)
    if strategy["strategy"] == "block":
        spread = scale[rows[:, None] // 4, columns // 8]
    else:
        spread = scale.reshape(-1, 1).expand(6, 16)
    assert torch.equal(made["l.weight"], weight.bfloat16() * spread)


REFUSED: dict[str, tuple[dict[str, Any], Table, str]] = {
    "an unknown format": ({"quant_method": "quark"}, {}, "no exact definition"),
    "no format": ({}, {}, "names no quant_method"),
    "a format that is no name": ({"quant_method": {}}, {}, "no exact definition"),
    "nothing quantised": (FP8, {"weight": torch.zeros(2)}, "none of its tensors"),
    "codes without scales": (FP8, {"weight": torch.zeros(2).to(torch.float8_e4m3fn)}, "has no"),
    "scales of another grid": (
        FP8,
        {
            "weight": torch.zeros(32, 64).to(torch.float8_e4m3fn),
            "weight_scale_inv": torch.ones(1, 2),
        },
        "not of blocks",
    ),
    "blocks that are no sizes": (
        {"quant_method": "fp8", "weight_block_size": [0, "a"]},
        {},
        "weight_block_size",
    ),
    "GPTQ in three bits": ({"quant_method": "gptq", "bits": 3}, {}, "3 bits"),
    "GPTQ of another layout": (
        {"quant_method": "gptq", "checkpoint_format": "marlin"},
        {},
        "marlin",
    ),
    "AWQ of another layout": ({"quant_method": "awq", "version": "gemv"}, {}, "gemv"),
    "sparse weights": (compressed("sparse-24-bitmask", num_bits=8), {}, "sparse"),
    "several schemes": (
        {
            **compressed("pack-quantized"),
            "config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {}},
        },
        {},
        "more than one way",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_defined_is_refused(case: str) -> None:
    settings, table, reason = REFUSED[case]
    with pytest.raises(ValueError, match=reason):
        whole(settings, table)


def quantise(table: Table) -> Table:
    """Replace the linear layers of a model by FP8 with one scale per block."""
    result = {}
    for name, tensor in table.items():
        if name.endswith("_proj.weight"):
            result[name + "_scale_inv"] = torch.full(
                (-(-tensor.shape[0] // 16), -(-tensor.shape[1] // 32)), 0.5
            )
            tensor = (tensor * 2).to(torch.float8_e4m3fn)
        result[name] = tensor
    return result


def saved(folder: Path, edit: Callable[[Table], Table] = quantise) -> Path:
    llama().bfloat16().save_pretrained(folder)
    save_file(edit(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    config = read_json(folder / "config.json") | {"quantization_config": FP8}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_quantised_base_is_told_and_dequantised(tmp_path: Path) -> None:
    source = saved(tmp_path / "source")
    warnings = import_hf(source, tmp_path / "out", "m", "1.0", license="MIT")
    assert "quantised (FP8 in blocks)" in "\n".join(warnings)
    assert check_project(read_manifest(tmp_path / "out" / "modpkg.toml")) is None

    warnings = import_hf(source, tmp_path / "full", "m", "1.0", license="MIT", dequantize=True)
    assert "quantised" not in "\n".join(warnings)
    assert "quantization_config" not in read_json(tmp_path / "full" / "config.json")
    assert check_project(read_manifest(tmp_path / "full" / "modpkg.toml")) is None
    before, after = (load_file(at / "model.safetensors") for at in (source, tmp_path / "full"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(after[name], (before[name].float() * 0.5).bfloat16())
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}

    plain = tmp_path / "plain"
    llama().save_pretrained(plain)
    with raises("M801", match="not quantised"):
        import_hf(plain, tmp_path / "two", "m", "1.0", license="MIT", dequantize=True)


def test_a_quantised_base_that_lacks_a_tensor_is_told(tmp_path: Path) -> None:
    def without(table: Table) -> Table:
        table.pop("model.layers.1.mlp.up_proj.weight")
        return quantise(table)

    with raises("M216", match=r"layers\.1\.mlp\.up_proj"):
        import_hf(saved(tmp_path / "source", without), tmp_path / "out", "m", "1.0", license="MIT")


def test_the_formats_that_messages_offer_are_those_that_are_known() -> None:
    assert set(DEQUANTISED) == set(FORMATS)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "bitnet", "quantization_mode": "online"},
        {"quant_method": "torchao", "quant_type": "int4_weight_only"},
    ],
)
def test_full_precision_that_is_quantised_when_it_is_loaded_is_told(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    source = saved(tmp_path / "source", lambda table: table)
    config = read_json(source / "config.json") | {"quantization_config": settings}
    (source / "config.json").write_text(json.dumps(config))
    (warning,) = import_hf(source, tmp_path / "out", "m", "1.0", license="MIT")
    assert f"by its config.json the weights are quantised ({settings['quant_method']})" in warning
    assert "take quantization_config out" in warning
    with raises("M801", match="in full precision; take quantization_config out"):
        import_hf(source, tmp_path / "two", "m", "1.0", license="MIT", dequantize=True)


def test_codes_without_a_format_are_told_once(tmp_path: Path) -> None:
    source = saved(tmp_path / "source")
    config = read_json(source / "config.json")
    del config["quantization_config"]
    (source / "config.json").write_text(json.dumps(config))
    (warning,) = import_hf(source, tmp_path / "out", "m", "1.0", license="MIT")
    assert "quantised (FP8 in blocks)" in warning
    assert "no quantization_config" in warning
