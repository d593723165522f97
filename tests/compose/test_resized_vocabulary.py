"""Adapters of a base whose vocabulary was resized: PEFT's own model is the judge."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.names import ModuleName
from modpkg.core.text_config import edit_text, vocabulary
from modpkg.manifest.schema import Compose, Filtered, Step
from modpkg.runtime.live import LiveModel
from modpkg.runtime.live_parts import parts_of
from tests.compose.helpers import of_folder, planned, values
from tests.compose.oracle import applied, close, shake
from tests.raising import raises

OLD, NEW = 40, 43
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def small(kind: str, vocab: int = OLD, *, tied: bool = True) -> Any:
    torch.manual_seed(5)
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
        config: Any = transformers.GPT2Config(vocab_size=vocab, **sizes)
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        intermediate_size=24,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        **SIZES,
    )
    return transformers.LlamaForCausalLM(config).eval()


def trained(
    folder: Path, kind: str, new: int, *, tied: bool = True, save: Any = True, **options: Any
) -> Any:
    """Write a base, and an adapter for it with ``new`` tokens; return PEFT's model."""
    small(kind, tied=tied).save_pretrained(folder / "base")
    model = small(kind, tied=tied)
    target = "c_attn" if kind == "gpt2" else "q_proj"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.resize_token_embeddings(new)
        options = {"target_modules": [target], "task_type": "CAUSAL_LM", **options}
        config = peft.LoraConfig(r=2, init_lora_weights=False, **options)
        wrapped = peft.get_peft_model(model, config).eval()
        shake(wrapped)
        wrapped.save_pretrained(folder / "adapter", save_embedding_layers=save)
    return wrapped


def agree(
    folder: Path, wrapped: Any, new: int, composition: Composition, *, tied: bool = True
) -> None:
    """Assert that a composition, loaded by transformers, does what PEFT's model does."""
    result = compose(composition, folder / "store", threads=1)
    out = folder / "out"
    out.mkdir()
    save_file(values(result.tensors), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(result.config))
    auto = transformers.AutoModelForCausalLM
    plain, info = auto.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert plain.config.vocab_size == new
    ends = plain.get_input_embeddings().weight, plain.get_output_embeddings().weight
    assert (ends[0] is ends[1]) == tied
    ids = torch.tensor([[1, 7, new - 1, 3, new - 2, 0]])
    with torch.no_grad():
        close(plain.eval()(ids).logits, wrapped(ids).logits)


@pytest.mark.parametrize(
    ("kind", "tied", "new", "options"),
    [
        ("llama", True, NEW, {}),
        ("llama", False, NEW, {}),
        ("gpt2", True, NEW, {}),
        ("llama", True, 37, {}),
        ("llama", False, 37, {}),
        ("llama", False, NEW, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("llama", False, NEW, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
        ("llama", True, NEW, {"trainable_token_indices": [1, 7, 40, 41, 42]}),
        ("llama", True, NEW, {"trainable_token_indices": [1, 42]}),
        ("llama", False, NEW, {"trainable_token_indices": [1, 42]}),
        ("llama", True, NEW, {"trainable_token_indices": [40, 41, 42], "save": False}),
        ("gpt2", True, NEW, {"trainable_token_indices": {"wte": [3, 42, 41, 40]}, "save": False}),
    ],
)
def test_a_resized_vocabulary_is_composed_as_peft_means_it(
    tmp_path: Path, kind: str, tied: bool, new: int, options: dict[str, Any]
) -> None:
    wrapped = trained(tmp_path, kind, new, tied=tied, **options)
    agree(tmp_path, wrapped, new, applied(tmp_path), tied=tied)


def test_rows_are_rounded_to_the_bases_dtype(tmp_path: Path) -> None:
    wrapped = trained(tmp_path, "llama", NEW)
    path = tmp_path / "base" / "model.safetensors"
    half = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(half, path, metadata={"format": "pt"})
    result = compose(applied(tmp_path), tmp_path / "store", threads=1)
    got = values(result.tensors)["model.embed_tokens.weight"]
    assert torch.equal(got, wrapped.get_input_embeddings().weight.bfloat16())


@pytest.mark.parametrize(
    ("tied", "new", "options", "message"),
    [
        (False, NEW, {"save": False, "trainable_token_indices": [40, 41, 42]}, "'lm_head.weight'"),
        (True, NEW, {"save": False, "trainable_token_indices": [40, 42]}, "row 41 is not in the"),
        (False, NEW, {"target_modules": ["embed_tokens", "q_proj"]}, "'lm_head.weight' has a"),
    ],
)
def test_rows_that_are_nowhere_are_told(
    tmp_path: Path, tied: bool, new: int, options: dict[str, Any], message: str
) -> None:
    trained(tmp_path, "llama", new, tied=tied, **options)
    with raises("M606", match=message):
        applied(tmp_path)


def test_two_sizes_in_one_file_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, "llama", NEW, tied=False)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    head = "base_model.model.lm_head.weight"
    save_file({**tensors, head: tensors[head][:41].clone()}, path)
    with raises("M606", match="for vocabularies of 41 and 43 tokens"):
        applied(tmp_path)


def test_another_adapter_adds_to_one_with_new_tokens(tmp_path: Path) -> None:
    wrapped = trained(tmp_path, "llama", NEW)
    other = small("llama")
    plain = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["v_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = peft.get_peft_model(other, plain)
        shake(second)
        second.save_pretrained(tmp_path / "second")
        merged = peft.PeftModel.from_pretrained(wrapped.merge_and_unload(), tmp_path / "second")
    modules = [
        of_folder(tmp_path / "base", "base", "base"),
        of_folder(tmp_path / "adapter", "adapter", "adapter"),
        of_folder(tmp_path / "second", "second", "adapter"),
    ]
    steps = [Step(op="lora", module=ModuleName(name)) for name in ("adapter", "second")]
    agree(tmp_path, merged.eval(), NEW, planned(*modules, steps=steps))


@pytest.mark.parametrize(
    ("steps", "method", "message"),
    [
        ([{"scale": 0.5}], "sum", "give this tensor scale 1"),
        ([{}, {"module": "again"}], "sum", "and again changes that tensor too"),
        ([{}, {"module": "tuned", "op": "dense"}], "sum", "and tuned changes that tensor too"),
        ([{}], "ties", "which method 'ties' cannot merge"),
    ],
)
def test_new_rows_cannot_be_merged(
    tmp_path: Path, steps: list[dict[str, Any]], method: str, message: str
) -> None:
    ends = ["embed_tokens", "lm_head"]
    trained(tmp_path, "llama", NEW, tied=False, modules_to_save=ends)
    tuned = small("llama", tied=False)
    shake(tuned)
    tuned.save_pretrained(tmp_path / "tuned")
    modules = [
        of_folder(tmp_path / "base", "base", "base"),
        of_folder(tmp_path / "adapter", "adapter", "adapter"),
        of_folder(tmp_path / "adapter", "again", "adapter"),
        of_folder(tmp_path / "tuned", "tuned", "base"),
    ]
    made = [Step(**{"op": "lora", "module": ModuleName("adapter"), **step}) for step in steps]
    recipe = Compose(base=ModuleName("base"), steps=tuple(made), method=method)
    with raises("M601", match=message):
        plan("model", "1", recipe, {module.name: module for module in modules})
    at_full = [{"filter": end, "value": 1.0} for end in ends]
    scale = tuple(Filtered(**each) for each in [*at_full, {"value": 0.5}])
    one = Step(op="lora", module=ModuleName("adapter"), scale=scale)
    planned(*modules[:2], steps=[one])


def test_what_peft_saved_of_the_base_is_not_scaled(tmp_path: Path) -> None:
    """`save_embedding_layers` saves the resized base's own layers, which no scale changes."""
    wrapped = trained(tmp_path, "llama", NEW, tied=False)
    for layer in wrapped.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.set_scale("default", 0.5)
    agree(tmp_path, wrapped, NEW, applied(tmp_path, scale=0.5), tied=False)
    modules = [
        of_folder(tmp_path / "base", "base", "base"),
        of_folder(tmp_path / "adapter", "adapter", "adapter"),
        of_folder(tmp_path / "adapter", "again", "adapter"),
    ]
    with raises("M601", match="is also added by another step"):
        planned(*modules)


@pytest.mark.parametrize("saved", [True, False])
def test_a_live_model_keeps_the_resized_layers(tmp_path: Path, saved: bool) -> None:
    options = {} if saved else {"modules_to_save": ["embed_tokens", "lm_head"]}
    wrapped = trained(tmp_path, "llama", NEW, tied=False, **options)
    agree(tmp_path, wrapped, NEW, applied(tmp_path), tied=False)
    modules = {
        "base": of_folder(tmp_path / "base", "base", "base"),
        "ad": of_folder(tmp_path / "adapter", "ad", "adapter"),
    }
    step = Step(op="lora", module=ModuleName("ad"))
    recipes = {"m": Compose(base=ModuleName("base"), steps=(step,))}
    if not saved:
        with raises("M708", match="for a vocabulary of another size"):
            parts_of(tmp_path / "out", recipes, modules)
        return
    live = LiveModel("m", parts_of(tmp_path / "out", recipes, modules))
    ids = torch.tensor([[1, NEW - 1, 5]])
    with torch.no_grad():
        close(live(ids).logits, wrapped(ids).logits)
        with live.disable_adapter(), wrapped.disable_adapter():
            close(live(ids).logits, wrapped(ids).logits)


def test_the_nested_text_config_gets_the_size() -> None:
    config = {"vocab_size": 3, "text_config": {"vocab_size": 40, "hidden_size": 4}}
    assert vocabulary(config) == ("vocab_size", 40)
    edits = edit_text(config, {"vocab_size": 43})
    assert edits == {"text_config": {"vocab_size": 43, "hidden_size": 4}}
