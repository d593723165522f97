"""Run mergekit's mixtures and keep what comes out, for tests/compose/test_mergekit_experts.py.

    /tmp/mergekit/bin/python tests/compose/mergekit/make_experts.py [OUT]

Each recipe is run twice: as mergekit does, which reads the prompts in bfloat16, and with that one
dtype made float64 (the judge).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
WORDS = ["<pad>", "<eos>", "<unk>", "the", "cat", "sat", "on", "a", "mat", "and", "then", "slept"]
Prompts = dict[str, tuple[list[str], list[str]]]
ONE: Prompts = {"b": (["the cat sat on a mat"], []), "c": (["then a mat slept"], ["the mat"])}
SEVERAL: Prompts = {
    "b": (["the cat sat", "on a mat and then"], ["a cat"]),
    "c": (["then a mat slept", "and the mat"], ["the cat", "on a mat slept"]),
}
RECIPES: dict[str, tuple[str, Prompts]] = {
    "hidden": ("hidden", SEVERAL),
    "hidden_avg": ("hidden_avg", ONE),  # with several it averages over padding too
    "cheap_embed": ("cheap_embed", SEVERAL),
}


def write_models(folder: Path) -> None:
    """Write the dense models as transformers would, with a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    inputs = load_file(HERE / "inputs.safetensors")
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True)
        own = {key[2:]: value for key, value in inputs.items() if key.startswith(f"{name}/")}
        save_file(own, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(CONFIG))
        tokenizer.save_pretrained(folder / name)


def main() -> None:
    """Write experts.safetensors."""
    from mergekit.moe import router
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.options import MergeOptions
    from mergekit.scripts.moe import build

    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    own = router.AutoModelForCausalLM.from_pretrained

    def judged(*arguments: Any, **named: Any) -> Any:
        named["torch_dtype"] = torch.float64
        return own(*arguments, **named)

    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = Path(scratch) / "models"
        write_models(models)
        for recipe, (mode, prompts) in RECIPES.items():
            experts = [
                {
                    "source_model": str(models / name),
                    "positive_prompts": positive,
                    "negative_prompts": negative,
                }
                for name, (positive, negative) in prompts.items()
            ]
            for dtype, load in (("float64", judged), ("float32", own)):
                config = MoEMergeConfig(
                    base_model=str(models / "a"),
                    experts=experts,
                    gate_mode=mode,
                    dtype=dtype,
                    experts_per_token=2,
                    architecture="mixtral",
                )
                folder = Path(scratch) / recipe / dtype
                with mock.patch.object(router.AutoModelForCausalLM, "from_pretrained", load):
                    build(config, str(folder), MergeOptions(quiet=True), device="cpu")
                tensors = load_file(next(folder.glob("*.safetensors")))
                kept = (k for k in tensors if dtype == "float32" or ".gate." in k)
                found |= {f"{recipe}/{dtype}/{key}": tensors[key] for key in kept}
    save_file(found, out / "experts.safetensors")
    print(len(found))


if __name__ == "__main__":
    main()
