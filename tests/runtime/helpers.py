"""Installed models made from models in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from modpkg.core.installed import InstalledModel, TensorRef
from modpkg.core.packs import read_pack_header
from modpkg.core.sealed import seal
from tests import tiny

SPECIAL = ["<pad>", "<eos>", "<unk>"]
WORDS = [*SPECIAL, "the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "slept"]
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(**config: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    options = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **options, **ids, **config})).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1)).eval()


def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(**SMALL, intermediate_size=48, max_position_embeddings=64)
    return BertModel(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a few words."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def install(
    folder: Path,
    model: Any,
    *,
    task: dict[str, object] | None = None,
    with_tokenizer: bool = True,
    edit: Any = None,
    config: dict[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write a model as an environment has it; return its folder and that of the packs.

    Tensors of equal content are in the pack once, as the store has them.

    ``edit`` changes the table of tensors on disk; ``config`` adds keys to config.json.
    """
    packs = folder / "packs"
    packs.mkdir(parents=True, exist_ok=True)
    saved = folder / "saved"
    model.save_pretrained(saved)
    tensors = load_file(saved / "model.safetensors")
    if edit is not None:
        tensors = edit(tensors)
    names, once = {}, {}
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        digest = f"{tensor.dtype} {list(tensor.shape)}".encode() + content
        names[name] = f"sha256:{hashlib.sha256(digest).hexdigest()}"
        once[names[name]] = tensor
    pack = packs / "weights.safetensors"
    save_file(once, pack)
    places = read_pack_header(pack)
    home = folder / "model"
    home.mkdir()
    text = json.loads((saved / "config.json").read_text())
    (home / "config.json").write_text(json.dumps({**text, **(config or {})}))
    if (saved / "generation_config.json").exists():
        (saved / "generation_config.json").rename(home / "generation_config.json")
    if with_tokenizer:
        tokenizer().save_pretrained(home)
    record = InstalledModel(
        name="small",
        version="1.0",
        key="sha256:" + "0" * 64,
        result="sha256:" + "0" * 64,
        task=task,
        tensors={
            name: TensorRef(
                pack.name, place.offset, place.length, place.dtype, list(place.shape), digest
            )
            for name, digest in names.items()
            for place in [places[digest]]
        },
        modules={"small": "1.0"},
        recipe={},
    )
    (home / "model.json").write_bytes(seal(record))
    return home, packs


def publish_two_adapters(registry: Path, projects: Path) -> None:
    """Publish tiny 1.0 with a tokenizer, and lora-1 and lora-2 on it."""
    folder = tiny.write_base(projects / "tiny")
    tokenizer().save_pretrained(folder)
    tiny.publish(folder, registry)
    for number in (1, 2):
        adapter = tiny.write_adapter(projects / f"lora-{number}", seed=number)
        manifest = adapter / "modpkg.toml"
        manifest.write_text(manifest.read_text().replace("tiny-lora", f"lora-{number}"))
        tiny.publish(adapter, registry)
