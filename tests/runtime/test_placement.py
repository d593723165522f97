"""Models on a device: the same as on the CPU, read in pieces; shared by models; with an attention.

The CPU stands for the device: every tensor is read and copied, as for another one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modpkg.compose.mapping import map_tensors
from modpkg.core.installed import read_model
from modpkg.runtime import parallel_copy
from modpkg.runtime.load import build_model, load_model
from modpkg.runtime.placement import Placement, StoredTensors
from modpkg.runtime.shared_parameters import SharedParameters
from tests.raising import raises
from tests.runtime.helpers import SMALL, bert, gpt2, install, llama

CPU = torch.device("cpu")
IDS = torch.tensor([[3, 4, 5, 6, 7]])
Table = dict[str, torch.Tensor]


def placed(
    home: Path,
    packs: Path,
    dtype: torch.dtype | None = None,
    shared: SharedParameters | None = None,
) -> Any:
    """Load a model as onto another device."""
    record = read_model(home)
    tensors = map_tensors(record.tensors.items(), packs, apart=True)
    stored = StoredTensors(tensors, record.tensors, packs)
    with Placement("small", CPU, stored, shared=shared, copied=True) as placement:
        return build_model("small", home, tensors, dtype, placement=placement)


def mixtral() -> Any:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, num_local_experts=4
    )
    return transformers.MixtralForCausalLM(config).eval()


def encodec() -> Any:
    """Return a model with recurrent modules, which keep a list of their parameters."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_filters": 4, "codebook_size": 16, "codebook_dim": 8}
    config = transformers.EncodecConfig(**sizes, upsampling_ratios=[2, 2], num_lstm_layers=1)
    return transformers.EncodecModel(config).eval()


def two_dtypes(table: Table) -> Table:
    return {key: value.half() if "norm" in key else value for key, value in table.items()}


CASES: dict[str, tuple[Callable[[], Any], Any, torch.dtype | None]] = {
    "tied": (lambda: llama(tie_word_embeddings=True), None, None),
    "untied, narrower": (llama, None, torch.bfloat16),
    "two dtypes": (llama, two_dtypes, None),
    "two dtypes, wider": (lambda: llama().half(), two_dtypes, torch.float64),
    "buffers and biases": (gpt2, None, torch.float16),
    "experts that transformers joins": (mixtral, None, torch.bfloat16),
    "recurrent": (encodec, None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_on_a_device_is_what_is_on_the_cpu(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, edit, dtype = CASES[case]
    home, packs = install(tmp_path, build(), edit=edit, with_tokenizer=False)
    wanted = load_model(home, packs, dtype=dtype)
    monkeypatch.setattr(parallel_copy, "CHUNK", 2048)
    found = placed(home, packs, dtype)
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        own = found.state_dict()[name]
        assert own.dtype == tensor.dtype, name
        assert torch.equal(own, tensor), name
        assert own.data_ptr() != tensor.data_ptr()
    learning = {name: value.requires_grad for name, value in wanted.named_parameters()}
    assert {name: value.requires_grad for name, value in found.named_parameters()} == learning
    given = torch.linspace(-1, 1, 64).reshape(1, 1, 64) if case == "recurrent" else IDS
    with torch.inference_mode():
        assert all(map(torch.equal, found(given).to_tuple()[:1], wanted(given).to_tuple()[:1]))


def test_loading_in_inference_mode_and_onto_the_meta_device(tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama(), with_tokenizer=False)
    with torch.inference_mode():
        model = placed(home, packs)
    assert not model.lm_head.weight.is_inference()
    empty = load_model(home, packs, device="meta", dtype="float16")
    assert {(each.device.type, each.dtype) for each in empty.parameters()} == {
        ("meta", torch.float16)
    }


def test_a_pack_that_ends_too_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, packs = install(tmp_path, llama(), with_tokenizer=False)
    read_at = parallel_copy.system.read_at
    monkeypatch.setattr(
        parallel_copy.system,
        "read_at",
        lambda file, view, place: 0 if place > 9000 else read_at(file, view[:7000], place),
    )
    with raises("M201", match="truncated"):
        placed(home, packs)


def test_too_little_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, packs = install(tmp_path, llama(), with_tokenizer=False)

    def full(placement: Placement, _: Any) -> None:
        placement._free = 1000
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr(Placement, "_reserve", full)
    with raises("M866", match="small needs .* has 1.0 kB free.*device_map"):
        placed(home, packs)


def test_recurrent_modules_use_the_parameters_that_are_loaded(tmp_path: Path) -> None:
    """torch's recurrent modules keep a list of their parameters beside them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    encoder = transformers.ParakeetEncoderConfig(**sizes, intermediate_size=16, num_mel_bins=16)
    config = transformers.ParakeetRNNTConfig(
        encoder_config=encoder.to_dict(), vocab_size=16, decoder_hidden_size=8
    )
    home, packs = install(tmp_path, transformers.ParakeetForRNNT(config), with_tokenizer=False)
    wanted = transformers.ParakeetForRNNT.from_pretrained(tmp_path / "saved").decoder
    with torch.no_grad():
        for found in (load_model(home, packs), placed(home, packs)):
            assert torch.equal(found.decoder(IDS), wanted(IDS))


# Sharing ------------------------------------------------------------------------------------------


def tuned(table: Table) -> Table:
    return {**table, "lm_head.weight": table["lm_head.weight"] + 1}


def two_models(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Install a model, and one of which a tensor differs."""
    return [
        install(tmp_path / str(number), llama(), edit=edit, with_tokenizer=False)
        for number, edit in enumerate((None, tuned))
    ]


def addresses(model: Any) -> dict[str, int]:
    return {name: value.data_ptr() for name, value in model.named_parameters()}


def test_models_share_the_parameters_that_are_the_same(tmp_path: Path) -> None:
    base, other = two_models(tmp_path)
    shared = SharedParameters()
    one, two = placed(*base, shared=shared), placed(*other, shared=shared)
    same = {name for name, place in addresses(one).items() if addresses(two)[name] == place}
    assert addresses(one).keys() - same == {"lm_head.weight"}
    assert len(set(addresses(one).values())) == len(addresses(one))  # all norms are equal
    assert not any(value.requires_grad for value in (*one.parameters(), *two.parameters()))
    narrow = placed(*base, torch.bfloat16, shared=shared)
    assert not set(addresses(narrow).values()) & set(addresses(one).values())
    # A model that is converted or moved leaves the others as they are.
    kept = two.state_dict()["model.norm.weight"].clone()
    one.half()
    assert two.dtype == torch.float32
    assert torch.equal(two.model.norm.weight, kept)
    # What is changed in place is changed in the models that have it, and in none that comes later.
    with torch.no_grad():
        two.model.norm.weight.add_(1)
    assert torch.equal(placed(*base, shared=shared).model.norm.weight, kept)
    assert placed(*base, shared=shared).model.embed_tokens.weight.data_ptr() == (
        two.model.embed_tokens.weight.data_ptr()
    )
    del one, two, narrow
    gc.collect()
    assert not shared._holders


def test_loads_are_isolated_unless_sharing_is_asked_for(tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama(), with_tokenizer=False)
    one: Any = load_model(home, packs)
    two: Any = load_model(home, packs)
    frozen: Any = load_model(home, packs, share=True)
    kept = two.lm_head.weight.detach().clone()
    with torch.no_grad():
        one.lm_head.weight.zero_()
    assert torch.equal(two.lm_head.weight, kept)
    assert torch.equal(frozen.lm_head.weight, kept)
    assert two.lm_head.weight.requires_grad
    assert not frozen.lm_head.weight.requires_grad
    wide: Any = load_model(home, packs, share=True, dtype="float64")
    again: Any = load_model(home, packs, share=True, dtype="float64", device="cpu")
    assert addresses(wide) == addresses(again)


def test_mapped_parameters_are_shared_too(tmp_path: Path) -> None:
    home, other = two_models(tmp_path)
    one: Any = load_model(*home, share=True)
    two: Any = load_model(*other, share=True)
    same = {name for name, place in addresses(one).items() if addresses(two)[name] == place}
    assert addresses(one).keys() - same == {"lm_head.weight"}
    assert len(set(addresses(one).values())) == len(addresses(one))
    with torch.no_grad():
        one.model.norm.weight.add_(1)
    assert torch.equal(two.model.norm.weight, one.model.norm.weight)
    assert (two.model.layers[0].input_layernorm.weight == 1).all()
    later: Any = load_model(*home, share=True)
    assert (later.model.norm.weight == 1).all()
    one.save_pretrained(tmp_path / "again")


def test_equal_tensors_are_each_converted_to_their_own_dtype(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        transformers.LlamaForCausalLM, "_keep_in_fp32_modules_strict", ["model.norm"]
    )
    home, packs = install(tmp_path, llama(), with_tokenizer=False)
    for found in (placed(home, packs, torch.bfloat16), load_model(home, packs, dtype="bfloat16")):
        dtypes = {name: value.dtype for name, value in found.named_parameters()}
        assert dtypes.pop("model.norm.weight") == torch.float32
        assert set(dtypes.values()) == {torch.bfloat16}


# Attention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("build", [llama, mixtral, bert])
def test_the_attention_is_that_of_from_pretrained(
    attention: str, build: Callable[[], Any], tmp_path: Path
) -> None:
    home, packs = install(tmp_path, build(), with_tokenizer=False)
    found: Any = load_model(home, packs, attn_implementation=attention)
    wanted = type(found).from_pretrained(tmp_path / "saved", attn_implementation=attention)
    assert found.config._attn_implementation == attention
    with torch.no_grad():
        assert torch.equal(found(IDS)[0], wanted(IDS)[0])


REFUSED = {
    "flash_attention_2": "installed",
    "nothing": "not supported",
    "someone/kernel": "fetched",
    5: "not a name",
    "": "not supported",
}


@pytest.mark.parametrize("attention", REFUSED)
def test_an_attention_that_cannot_be_used_is_refused(attention: Any, tmp_path: Path) -> None:
    home = install(tmp_path, llama(), with_tokenizer=False)
    with raises("M865", match=REFUSED[attention]):
        load_model(*home, attn_implementation=attention)


def test_a_model_without_an_attention_is_refused_one(tmp_path: Path) -> None:
    home = install(tmp_path, encodec(), with_tokenizer=False)
    with raises("M865", match="not support"):
        load_model(*home, attn_implementation="sdpa")


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn", "float4", torch.int64, 16])
def test_a_dtype_in_which_no_model_runs_is_refused(dtype: Any, tmp_path: Path) -> None:
    home = install(tmp_path, llama(), with_tokenizer=False)
    with raises("M709", match="'auto', 'float32'"):
        load_model(*home, dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:77", "nowhere", "", -5, 1.5])
def test_a_device_that_is_not_there_is_refused(device: Any, tmp_path: Path) -> None:
    home = install(tmp_path, llama(), with_tokenizer=False)
    with raises("M709", match="device"):
        load_model(*home, device=device)
