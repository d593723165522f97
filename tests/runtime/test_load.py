"""Loading: the same model as transformers loads, strictly, without a copy and without a network."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modpkg.compose import mapping
from modpkg.core.errors import ModpkgError
from modpkg.runtime.load import load_model
from tests.raising import raises
from tests.runtime.helpers import SMALL, bert, gpt2, install, llama

Table = dict[str, torch.Tensor]
IDS = torch.tensor([[3, 4, 5, 6, 7]])


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection fails the test."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output = model(IDS)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def mixtral() -> Any:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, num_local_experts=4
    )
    return transformers.MixtralForCausalLM(config).eval()


BUILDS: dict[str, Callable[[], Any]] = {
    "tied llama": lambda: llama(tie_word_embeddings=True),
    "untied llama": llama,
    "bfloat16 llama": lambda: llama().bfloat16(),
    "gpt2": gpt2,
    "bert": bert,
    "mixtral, whose names on disk are not the model's": mixtral,
}


@pytest.mark.parametrize("build", BUILDS)
def test_the_same_model_as_transformers_loads(build: str, tmp_path: Path) -> None:
    model = BUILDS[build]()
    loaded = load_model(*install(tmp_path, model))
    assert type(loaded) is type(model)
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))
    expected = {name: (p.dtype, p.shape) for name, p in model.named_parameters()}
    assert {name: (p.dtype, p.shape) for name, p in loaded.named_parameters()} == expected


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    loaded: Any = load_model(*install(tmp_path, llama(tie_word_embeddings=True)))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_training_does_not_change_the_store(tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama())
    pack = packs / "weights.safetensors"
    before = hashlib.sha256(pack.read_bytes()).digest()
    pack.chmod(0o444)
    loaded: Any = load_model(home, packs)
    optimizer = torch.optim.SGD(loaded.parameters(), lr=1.0)
    loaded(IDS, labels=IDS).loss.backward()
    weight = loaded.model.embed_tokens.weight
    old = weight.detach().clone()
    optimizer.step()
    assert not torch.equal(old, weight)
    assert hashlib.sha256(pack.read_bytes()).digest() == before


def trained(model: Any) -> Table:
    """Return a model's tensors after some steps of training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("build", ["tied llama", "gpt2", list(BUILDS)[-1]])
@pytest.mark.parametrize("most", [mapping._SMALL, 0], ids=["copied", "mapped again"])
def test_parameters_of_equal_content_are_trained_apart(
    build: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has them once: all norms of a new model, and the biases."""
    monkeypatch.setattr(mapping, "_SMALL", most)
    home, packs = install(tmp_path, BUILDS[build]())
    loaded: Any = load_model(home, packs)
    assert len({p.data_ptr() for p in loaded.parameters()}) == len(list(loaded.parameters()))
    loaded.save_pretrained(tmp_path / "again")
    wanted = type(loaded).from_pretrained(tmp_path / "saved").eval()
    expected = trained(wanted)
    for name, value in trained(loaded).items():
        assert torch.equal(value, expected[name]), name


def test_a_head_on_a_base_whose_names_lack_the_prefix(tmp_path: Path) -> None:
    """As a composition leaves it: BertModel's names, and a classifier beside them."""

    def with_head(tensors: Table) -> Table:
        return {
            **tensors,
            "classifier.weight": torch.randn(3, 32),
            "classifier.bias": torch.ones(3),
        }

    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "a", "1": "b", "2": "c"},
    }
    loaded: Any = load_model(*install(tmp_path, bert(), edit=with_head, config=config))
    assert isinstance(loaded, transformers.BertForSequenceClassification)
    assert loaded.config.id2label[2] == "c"
    assert logits(loaded).shape == (1, 3)


def drop(name: str) -> Callable[[Table], Table]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def put(name: str, *shape: int) -> Callable[[Table], Table]:
    return lambda tensors: {**tensors, name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (drop("model.norm.weight"), "model.norm.weight"),
        (drop("lm_head.weight"), "lm_head.weight"),
        (put("model.surplus", 2), "model.surplus"),
        (put("model.layers.7.mlp.up_proj.weight", 48, 32), "model.layers.7.mlp.up_proj.weight"),
        (put("model.norm.weight", 31), "model.norm.weight"),
        (put("norm.weight", 32), "norm.weight"),
    ],
    ids=["missing", "missing head", "surplus", "a layer too many", "shape", "twice"],
)
def test_tensors_that_do_not_fit_are_named(edit: Any, named: str, tmp_path: Path) -> None:
    with raises("M704", match=named):
        load_model(*install(tmp_path, llama(), edit=edit))


def test_a_tied_weight_may_be_on_disk_twice(tmp_path: Path) -> None:
    def twice(tensors: Table) -> Table:
        return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}

    model = llama(tie_word_embeddings=True)
    loaded = load_model(*install(tmp_path, model, edit=twice))
    assert torch.equal(logits(loaded), logits(model))


def test_tied_weights_that_differ_are_refused(tmp_path: Path) -> None:
    """Both are on disk, and the configuration says that they are one: neither is dropped."""
    home = install(tmp_path, llama(tie_word_embeddings=True), edit=put("lm_head.weight", 97, 32))
    with raises("M704", match=r"lm_head\.weight"):
        load_model(*home)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_from_a_registry_is_refused(file: str, tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama())
    text = json.loads((home / file).read_text())
    (home / file).write_text(json.dumps({**text, "auto_map": {"AutoModel": "evil.Evil"}}))
    with raises("M707", match="auto_map"):
        load_model(home, packs)


KERNELS = [
    {"_attn_implementation": "someone/kernel"},
    {"rope_scaling": {"x": {"auto_map": {"AutoConfig": "evil.Evil"}}}},
]


@pytest.mark.parametrize("changes", KERNELS)
def test_kernels_and_code_of_parts_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with raises("M707"):
        load_model(*install(tmp_path, llama(), config=changes))


def test_a_config_does_not_choose_a_compiler(tmp_path: Path) -> None:
    chosen = {"_attn_implementation": "flex_attention"}
    home, packs = install(tmp_path, llama(), config=chosen)
    (home / "generation_config.json").write_text('{"cache_implementation": "static"}')
    model: Any = load_model(home, packs)
    assert model.config._attn_implementation in ("eager", "sdpa")
    assert model.generation_config.disable_compile


def test_no_socket_is_opened(tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama())
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event.startswith("socket."):
            opened.append(event)

    sys.addaudithook(hook)  # it cannot be removed, but it can stop watching
    try:
        load_model(home, packs)
    finally:
        watching = False
    assert opened == []


NONE = ["NoSuchModel", "pipeline", "__version__", "AutoModel", "LlamaConfig", "PreTrainedModel"]


@pytest.mark.parametrize("name", NONE)
def test_an_unknown_architecture(name: str, tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama(), config={"architectures": [name]})
    with raises("M702", "M704", match=name):
        load_model(home, packs)


def test_damaged_packs_are_reported(tmp_path: Path) -> None:
    home, packs = install(tmp_path, llama())
    with open(packs / "weights.safetensors", "r+b") as file:
        file.truncate(2000)
    with raises("M201", match="truncated"):
        load_model(home, packs)
    (packs / "weights.safetensors").unlink()
    with raises("M201", match="cannot be mapped"):
        load_model(home, packs)
    (home / "model.json").write_text("{}")
    with raises("M506"):
        load_model(home, packs)


@pytest.mark.parametrize("value", [{"hidden_size": "x"}, {"hidden_size": -1}, {"hidden_act": "?"}])
def test_a_broken_config_raises_a_typed_error(value: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModpkgError):
        load_model(*install(tmp_path, llama(), config=value))


def test_importing_the_room_imports_no_torch() -> None:
    code = "import sys, modpkg, modpkg.runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("named", ["bfloat16", "float32", None])
@pytest.mark.parametrize("stored", ["bfloat16", "float16", "mixed", "mixed, narrow first"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_dtypes_run_as_in_transformers(
    named: str | None, stored: str, tmp_path: Path
) -> None:
    def edit(table: Table) -> Table:
        wide = "norm" if stored.endswith("first") else "embed"
        return {
            name: tensor.float()
            if wide in name and stored.startswith("mixed")
            else tensor.half()
            if stored == "float16"
            else tensor.bfloat16()
            for name, tensor in table.items()
        }

    key = "torch_dtype" if stored == "float16" else "dtype"  # as older versions write it
    changes = {"dtype": None, key: named}
    home, packs = install(tmp_path, llama(), edit=edit, config=changes)
    saved = tmp_path / "saved"
    save_file(edit(load_file(saved / "model.safetensors")), saved / "model.safetensors")
    config = json.loads((saved / "config.json").read_text()) | changes
    (saved / "config.json").write_text(json.dumps(config))
    wanted = transformers.AutoModelForCausalLM.from_pretrained(saved)
    loaded = load_model(home, packs)
    assert {p.dtype for p in loaded.parameters()} == {p.dtype for p in wanted.parameters()}
    assert named is None or loaded.dtype == getattr(torch, named)
    assert torch.equal(logits(loaded), logits(wanted))


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_counters_and_narrow_weights_run_as_in_transformers(
    dtype: str | None, tmp_path: Path
) -> None:
    def edit(table: Table) -> Table:
        return {
            name: value.to(torch.int32 if "tracked" in name else torch.float8_e4m3fn)
            if "normalization" not in name or "tracked" in name
            else value.double()
            for name, value in table.items()
        }

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    config = transformers.ResNetConfig(**sizes, layer_type="basic")
    home = install(tmp_path, transformers.ResNetForImageClassification(config), edit=edit)
    weights = tmp_path / "saved" / "model.safetensors"
    save_file(edit(load_file(weights)), weights)
    wanted = transformers.ResNetForImageClassification.from_pretrained(
        weights.parent, dtype=dtype or "auto"
    ).state_dict()
    for name, value in load_model(*home, dtype=dtype).state_dict().items():
        assert value.dtype == wanted[name].dtype
        assert torch.equal(value, wanted[name])


def test_what_the_architecture_keeps_in_float32_is_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "q_lora_rank": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 8}
    parts = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    inner = {"intermediate_size": 32, "moe_intermediate_size": 16, "first_k_dense_replace": 0}
    config = transformers.DeepseekV3Config(**sizes, **small, **heads, **parts, **inner)
    model = transformers.DeepseekV3ForCausalLM(config).bfloat16().eval()
    home, packs = install(tmp_path, model, config={"dtype": "bfloat16"})
    wanted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="bfloat16")
    dtypes = {name: tensor.dtype for name, tensor in wanted.state_dict().items()}
    assert torch.float32 in dtypes.values()
    loaded = load_model(home, packs)
    assert {name: tensor.dtype for name, tensor in loaded.state_dict().items()} == dtypes
    assert torch.equal(logits(loaded), logits(wanted))


@pytest.mark.parametrize("wanted", [None, torch.bfloat16])
def test_a_classifier_of_a_language_model_has_one_dtype(
    tmp_path: Path, wanted: torch.dtype | None
) -> None:
    """Its trunk is built from the config, whose dtype may be another than the weights'."""
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification(llama(pad_token_id=0).config)
    home, packs = install(tmp_path, model.to(torch.float16), config={"dtype": "float32"})
    loaded = load_model(home, packs, dtype=wanted)
    assert {value.dtype for value in loaded.parameters()} == {wanted or torch.float32}
    assert loaded(torch.tensor([[3, 4]])).logits.isfinite().all()


def test_mamba_with_an_infinite_limit_and_its_hybrids_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_heads=4,
        head_dim=16,
        state_size=8,
        n_groups=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = transformers.Mamba2ForCausalLM(config).eval()
    home, packs = install(tmp_path, model)
    text = (home / "config.json").read_text()
    assert '"__float__"' in text
    loaded: Any = load_model(home, packs)
    assert loaded.config.time_step_limit[1] == float("inf")
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "eetq"}, "eetq"),
        ({"quant_method": 5}, "5"),
        ({}, "does not name"),
    ],
)
def test_a_quantiser_that_is_not_there_is_told(
    settings: dict[str, Any], form: str, tmp_path: Path
) -> None:
    home, packs = install(tmp_path, llama(), config={"quantization_config": settings})
    with raises("M722", match=form) as caught:
        load_model(home, packs)
    assert "take quantization_config out" in str(caught.value)  # its tensors are not quantised
