"""Run mergekit on models with different tokenizers, for ../test_mergekit_vocabularies.py.

    /tmp/mergekit/bin/python tests/compose/mergekit/make_vocabularies.py [OUT]

See make_expected.py. mergekit numbers the tokens of a union in an order that changes from run to
run, so what is kept of it has its tokens beside it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from make_expected import located
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
WORDS = {
    "a": ["<unk>", "<s>", "</s>", "red", "green", "blue", "one"],
    "b": ["<unk>", "<s>", "</s>", "green", "red", "two", "blue"],
    "c": ["<unk>", "</s>", "<s>", "three", "two", "red"],
}
"""The tokens of each model, in order; the last ones of a model's file have no row."""
ADDED = {"a": ["<|pad|>"], "b": ["<|end|>"], "c": ["<|end|>", "<|pad|>"]}
ROWS = {"a": 10, "b": 8, "c": 8}
"""The rows of its embedding: a has two that are no token's."""
WIDTH = 8


def config(rows: int) -> dict[str, Any]:
    """Return the config of a Llama with one layer."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": rows, "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }  # fmt: skip


def tokenizer(name: str) -> dict[str, Any]:
    """Return a model's ``tokenizer.json``: whole words."""
    words = WORDS[name]
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    added = [
        {"id": len(words) + n, "content": token, **flags, "normalized": False, "special": True}
        for n, token in enumerate(ADDED[name])
    ]
    vocab = {word: number for number, word in enumerate(words)}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }  # fmt: skip


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Return random weights."""
    generator = torch.Generator().manual_seed(ord(name))
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (ROWS[name], WIDTH), "model.norm.weight": (WIDTH,),
        "lm_head.weight": (ROWS[name], WIDTH), f"{layer}input_layernorm.weight": (WIDTH,),
        f"{layer}post_attention_layernorm.weight": (WIDTH,),
        f"{layer}self_attn.q_proj.weight": (8, WIDTH),
        f"{layer}self_attn.k_proj.weight": (4, WIDTH),
        f"{layer}self_attn.v_proj.weight": (4, WIDTH),
        f"{layer}self_attn.o_proj.weight": (WIDTH, 8), f"{layer}mlp.gate_proj.weight": (12, WIDTH),
        f"{layer}mlp.up_proj.weight": (12, WIDTH), f"{layer}mlp.down_proj.weight": (WIDTH, 12),
    }  # fmt: skip
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def write_models(folder: Path) -> None:
    """Write the models as transformers would."""
    for name in WORDS:
        (folder / name).mkdir(parents=True)
        save_file(tensors(name), folder / name / "model.safetensors", {"format": "pt"})
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
        for path, data in (
            ("config.json", config(ROWS[name])),
            ("tokenizer.json", tokenizer(name)),
            ("tokenizer_config.json", settings),
        ):
            (folder / name / path).write_text(json.dumps(data))


def main() -> None:
    """Write vocabularies.safetensors: inputs, and by recipe and dtype what mergekit makes."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    found = {f"{name}/{key}": t for name in WORDS for key, t in tensors(name).items()}
    words: dict[str, dict[str, int]] = {}
    for recipe in sorted((HERE / "vocabularies").glob("*.yml")):
        for dtype in ("float64", "float32"):
            with tempfile.TemporaryDirectory() as scratch:
                models, made = Path(scratch) / "models", Path(scratch) / "made"
                write_models(models)
                data = yaml.safe_load(recipe.read_text())
                changed = {**located(data, models), "dtype": dtype}
                for row in ((changed.get("tokenizer") or {}).get("tokens") or {}).values():
                    if isinstance(row.get("source"), str):
                        row["source"] = str(models / row["source"])
                if changed.get("tokenizer_source") in WORDS:
                    changed["tokenizer_source"] = str(models / changed["tokenizer_source"])
                merging = MergeConfiguration.model_validate(changed)
                run_merge(merging, str(made), MergeOptions(quiet=True))
                for pack in made.glob("*.safetensors"):
                    for key, value in load_file(pack).items():
                        if "embed" in key or "lm_head" in key:
                            found[f"{recipe.stem}/{dtype}/{key}"] = value
                document = json.loads((made / "tokenizer.json").read_text())
                words[f"{recipe.stem}/{dtype}"] = {
                    **document["model"]["vocab"],
                    **{token["content"]: token["id"] for token in document["added_tokens"]},
                }
        print(recipe.stem)
    save_file(found, out / "vocabularies.safetensors", {"tokens": json.dumps(words)})


if __name__ == "__main__":
    main()
