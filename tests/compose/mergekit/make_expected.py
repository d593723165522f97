"""Run mergekit on the recipes and keep what comes out, for tests/compose/test_mergekit.py.

    python -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit==0.1.5
    /tmp/mergekit/bin/python tests/compose/mergekit/make_expected.py [OUT [RECIPES]]

mergekit pins other versions than modpkg has, so it has a separate environment. Each recipe is
run with dtype float64 (the judge), float32 and bfloat16. OUT is this folder, or
another one to compare with; RECIPES is a folder of other recipes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
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
    "torch_dtype": "float32",
}
NAMES = ("a", "b", "c")


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Return a Llama with random weights; the same base for all, plus what is its own."""
    shapes = {"model.embed_tokens.weight": (16, 8)}
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (8,),
            f"{prefix}post_attention_layernorm.weight": (8,),
            f"{prefix}self_attn.q_proj.weight": (8, 8),
            f"{prefix}self_attn.k_proj.weight": (4, 8),
            f"{prefix}self_attn.v_proj.weight": (4, 8),
            f"{prefix}self_attn.o_proj.weight": (8, 8),
            f"{prefix}mlp.gate_proj.weight": (12, 8),
            f"{prefix}mlp.up_proj.weight": (12, 8),
            f"{prefix}mlp.down_proj.weight": (8, 12),
        }
    shapes |= {"model.norm.weight": (8,), "lm_head.weight": (16, 8)}
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        common = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        own = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + number))
        found[name] = common + 0.3 * own
    return found


def write_models(folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    """Write the models as transformers would."""
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        own = {key[2:]: value for key, value in inputs.items() if key.startswith(f"{name}/")}
        save_file(own, folder / name / "model.safetensors", {"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(CONFIG))


def main() -> None:
    """Write inputs.safetensors and one file for each recipe."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    recipes = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "recipes"
    path = HERE / "inputs.safetensors"
    if not path.exists():
        inputs = {f"{n}/{k}": t for i, n in enumerate(NAMES, 1) for k, t in tensors(i).items()}
        save_file(inputs, path)
    inputs = load_file(path)
    for recipe in sorted(recipes.glob("*.yml")):
        text = recipe.read_text()
        with tempfile.TemporaryDirectory() as scratch:
            full, narrow = Path(scratch) / "full", Path(scratch) / "narrow"
            write_models(full, inputs)
            # The judge of bfloat16 begins with inputs that are bfloat16 too.
            write_models(narrow, {key: value.bfloat16() for key, value in inputs.items()})
            found = {}
            for name, folder, dtype in (
                ("float64", full, "float64"),
                ("float32", full, "float32"),
                ("judge", narrow, "float64"),
                ("bfloat16", narrow, "bfloat16"),
            ):
                merged = merge(text, folder, dtype, Path(scratch) / name)
                found |= {f"{name}/{key}": tensor for key, tensor in merged.items()}
        save_file(found, out / f"{recipe.stem}.safetensors")
        print(recipe.stem, len(found))


def merge(text: str, models: Path, dtype: str, out: Path) -> dict[str, torch.Tensor]:
    """Return what mergekit makes of a recipe, as ``mergekit-yaml`` runs it."""
    config = MergeConfiguration.model_validate({**located(yaml.safe_load(text), models)})
    config.dtype = dtype
    run_merge(config, str(out), MergeOptions(copy_tokenizer=False, quiet=True))
    return {
        key: value for pack in out.glob("*.safetensors") for key, value in load_file(pack).items()
    }


def located(value: Any, models: Path) -> Any:
    """Return a recipe with its models as absolute paths: mergekit caches by path."""
    if isinstance(value, list):
        return [located(item, models) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: str(models / item)
        if key in ("model", "base_model", "path") and isinstance(item, str)
        else located(item, models)
        for key, item in value.items()
    }


if __name__ == "__main__":
    main()
