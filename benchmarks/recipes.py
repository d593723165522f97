"""Recipes of mergekit as model cards have them: modpkg and mergekit beside a reference.

    python -m benchmarks.recipes [--mergekit PYTHON] [--only WORD] [--keep FOLDER]

Each recipe of recipes.yml is imported, built, published and installed, merged by mergekit 0.1.5,
and computed by `benchmarks.recipe_reference`, which has nothing in common with either. Counted are
the values that are not the reference's rounded to the result's dtype, and how far the worst of them
is, in units of the last place: what rounds once is never further than 0.5. Without an environment
with mergekit (`make mergekit` makes one) its columns are those that results/recipes.md has.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from benchmarks.recipe_reference import EMBEDDING, OUTPUT, Expected, Model, expected, stored
from modpkg.community.modules.project import build_project
from modpkg.community.semver.releases import publish_project
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import DIST
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.interop.hf import export_hf
from modpkg.interop.mergekit import import_mergekit
from modpkg.interop.mergekit_recipe import PARTS

HERE = Path(__file__).parent
PAGE = HERE / "results" / "recipes.md"
MERGEKIT = HERE.parent / ".venv-mergekit" / "bin" / "python"
SLACK = 1e-4
"""Of a unit in the last place: what the reference itself may be off."""
WORDS = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "on", "a", "mat", "and", "then", "slept"]
VOCABULARIES = {
    "words-a": ["<unk>", "<s>", "</s>", "red", "green", "blue", "one", "<|pad|>"],
    "words-b": ["<unk>", "<s>", "</s>", "green", "red", "two", "blue", "<|end|>"],
    "words-c": ["<unk>", "</s>", "<s>", "three", "two", "red", "<|end|>", "<|pad|>", "four"],
}
_PLACES = {"bfloat16": (8, -126), "float16": (11, -14), "float32": (24, -126)}
"""Of each dtype: binary places of a value, and the least exponent of those that have all."""


class Recipe(NamedTuple):
    """A recipe: its title, whether it has to be refused, and its text."""

    title: str
    refused: bool
    text: str


class Found(NamedTuple):
    """What a program made of a recipe: a folder, or why it refused."""

    folder: Path | None
    reason: str = ""


class Figures(NamedTuple):
    """How a result differs from the reference."""

    values: int
    off: int
    worst: float
    dtypes: tuple[str, ...] = ()
    """Those of its tensors, where they are not the result's."""


def recipes() -> list[Recipe]:
    """Return the recipes of recipes.yml."""
    found = []
    for part in re.split(r"(?m)^--- # ", (HERE / "recipes.yml").read_text())[1:]:
        title, text = part.split("\n", 1)
        found.append(Recipe(title.removesuffix(" (refused)"), title.endswith(" (refused)"), text))
    return found


# Models -------------------------------------------------------------------------------------------


def write_models(folder: Path) -> dict[str, Model]:
    """Write small Llamas as transformers would, and return them."""
    made = {}
    for seed, (name, dtype, tied, layers) in enumerate(
        (
            ("base", "bfloat16", False, 4),
            ("writer", "bfloat16", False, 4),
            ("coder", "bfloat16", False, 4),
            ("math", "bfloat16", False, 4),
            ("deep", "bfloat16", False, 6),
            ("single", "float32", False, 4),
            ("single-writer", "float32", False, 4),
            ("single-coder", "float32", False, 4),
            ("tied", "float16", True, 4),
            ("tied-chat", "float16", True, 4),
            ("tied-code", "bfloat16", True, 4),
            ("words-a", "float32", False, 2),
            ("words-b", "float32", False, 2),
            ("words-c", "float32", False, 2),
        )
    ):
        words = VOCABULARIES.get(name, WORDS)
        rows = 16 if words is WORDS else len(words) + (name == "words-a")
        tensors = _weights(0 if name in ("base", "single") else seed, rows, layers, tied)
        own = {key: value.to(getattr(torch, dtype)) for key, value in tensors.items()}
        _write(folder / name, own, words, layers, tied, dtype)
        values = {key: longest(value) for key, value in own.items()}
        made[name] = Model(values, dtype, layers, {word: n for n, word in enumerate(words)})
    return made


def write_gpts(folder: Path, models: dict[str, Model]) -> None:
    """Write two GPT-2 of three layers, whose tensors have other names, and biases."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (16, 16), "wpe.weight": (64, 16)}
    for layer in range(3):
        for name, shape in (
            ("ln_1", (16,)), ("attn.c_attn", (16, 48)), ("attn.c_proj", (16, 16)),
            ("ln_2", (16,)), ("mlp.c_fc", (16, 64)), ("mlp.c_proj", (64, 16)),
        ):  # fmt: skip
            shapes |= {f"h.{layer}.{name}.weight": shape, f"h.{layer}.{name}.bias": shape[-1:]}
    shapes |= {"ln_f.weight": (16,), "ln_f.bias": (16,)}
    for seed, model in enumerate(("gpt", "gpt-tuned")):
        own = {}
        for number, (name, shape) in enumerate(shapes.items()):
            common = torch.randn(shape, generator=torch.Generator().manual_seed(number))
            change = torch.randn(shape, generator=torch.Generator().manual_seed(700 + number))
            own[f"transformer.{name}"] = 0.3 * common + 0.03 * seed * change
        (folder / model).mkdir()
        save_file(own, folder / model / "model.safetensors", {"format": "pt"})
        config = {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 16, "n_layer": 3,
            "n_head": 4, "n_positions": 64, "vocab_size": 16, "torch_dtype": "float32",
        }  # fmt: skip
        (folder / model / "config.json").write_text(json.dumps(config))
        values = {name: longest(value) for name, value in own.items()}
        models[model] = Model(values, "float32", 3, {})


def write_lora(folder: Path, models: dict[str, Model]) -> None:
    """Write a LoRA, and add the models that have it as ``MODEL+lora``."""
    folder.mkdir()
    tensors = {}
    for number, path in enumerate(
        f"model.layers.{layer}.{module}"
        for layer in range(4)
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
    ):
        rows, columns = models["single"].tensors[f"{path}.weight"].shape
        generator = torch.Generator().manual_seed(500 + number)
        for name, shape in (("lora_A", (2, columns)), ("lora_B", (rows, 2))):
            key = f"base_model.model.{path}.{name}.weight"
            tensors[key] = 0.1 * torch.randn(shape, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3, "bias": "none",
        "target_modules": ["q_proj", "v_proj", "down_proj"], "lora_dropout": 0.0,
        "base_model_name_or_path": "single", "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for name in ("base", "single"):
        changed = dict(models[name].tensors)
        for key, tensor in tensors.items():
            if "lora_A" in key:
                below = longest(tensors[key.replace("lora_A", "lora_B")])
                path = key.removeprefix("base_model.model.").replace("lora_A.", "")
                changed[path] = changed[path] + 1.5 * (below @ longest(tensor))
                changed[path] = stored(changed[path], models[name].dtype)
        models[f"{name}+lora"] = models[name]._replace(tensors=changed)


def longest(tensor: torch.Tensor) -> NDArray[np.longdouble]:
    return tensor.double().numpy().astype(np.longdouble)


def _weights(seed: int, rows: int, layers: int, tied: bool) -> dict[str, torch.Tensor]:
    """Return the weights of a base, or of one that is a little away from it."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (rows, 16)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (16,),
            f"{prefix}post_attention_layernorm.weight": (16,),
            f"{prefix}self_attn.q_proj.weight": (16, 16),
            f"{prefix}self_attn.k_proj.weight": (8, 16),
            f"{prefix}self_attn.v_proj.weight": (8, 16),
            f"{prefix}self_attn.o_proj.weight": (16, 16),
            f"{prefix}mlp.gate_proj.weight": (24, 16),
            f"{prefix}mlp.up_proj.weight": (24, 16),
            f"{prefix}mlp.down_proj.weight": (16, 24),
        }
    shapes |= {"model.norm.weight": (16,)} | ({} if tied else {OUTPUT: (rows, 16)})
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        common = torch.randn(shape, generator=torch.Generator().manual_seed(number))
        own = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + number))
        found[name] = 0.3 * common + (0.03 * own if seed else 0.0)
    return found


def _write(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    words: Sequence[str],
    layers: int,
    tied: bool,
    dtype: str,
) -> None:
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
        "intermediate_size": 24, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": len(tensors[EMBEDDING]),
        "max_position_embeddings": 64, "tie_word_embeddings": tied, "torch_dtype": dtype,
    }  # fmt: skip
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [(n, word) for n, word in enumerate(words) if word.startswith("<")]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {"id": n, "content": word, **flags, "special": True} for n, word in special
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {
            "type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)},
            "unk_token": "<unk>",
        },
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>",
    }  # fmt: skip
    for name, data in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", settings),
    ):
        (folder / name).write_text(json.dumps(data))


# Programs -----------------------------------------------------------------------------------------


def publish_models(models: Path, names: Iterable[str]) -> None:
    """Publish the models into the registry of the modpkg home that the environment names."""
    for name in names:
        if "+" in name:
            continue
        manifest, kind = models / name / "modpkg.toml", "adapter" if name == "lora" else "base"
        manifest.write_text(
            f'[module]\nname = "{name}"\nversion = "1.0"\nkind = "{kind}"\nlicense = "MIT"\n'
            + ('[dependencies]\nsingle = "*"\n' if name == "lora" else "")
        )
        _publish(manifest)


def _publish(manifest: Path) -> None:
    build_project(Workspace(Project(manifest)), manifest.parent / DIST)
    publish_project(Workspace(Project(manifest)))


def by_modpkg(recipe: Path, folder: Path) -> Found:
    """Import, build, publish and install a recipe beside whose file its models are."""
    name = recipe.stem
    stage = "import"
    try:
        import_mergekit(recipe, folder / "project", name, "1.0", license="MIT")
        stage = "build"
        for part in sorted((folder / "project" / PARTS).glob("*/modpkg.toml")):
            _publish(part)
        _publish(folder / "project" / "modpkg.toml")
        stage = "install"
        (folder / "app").mkdir()
        app = folder / "app" / "modpkg.toml"
        app.write_text(f'[app]\nname = "app"\n[dependencies]\n{name} = "*"\n')
        workspace = Workspace(Project(app))
        install(workspace, InstallRequest())
        environment = workspace.environment
        models = environment.folder(1) / "models"
        export_hf(models / name, environment.packs, folder / "out")
    except ModpkgError as error:
        return Found(None, f"{stage}: {error} ({error.code})")
    return Found(folder / "out")


def by_mergekit(
    python: Path, models: Path, paths: Sequence[Path], folder: Path
) -> dict[str, Found]:
    """Run all recipes with mergekit, in one process."""
    folder.mkdir()
    script = HERE / "recipe_oracle.py"
    subprocess.run(
        [python, script, models, folder, *paths],
        check=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    errors = json.loads((folder / "errors.json").read_text())
    return {
        path.stem: Found(None, errors[path.stem])
        if path.stem in errors
        else Found(folder / path.stem)
        for path in paths
    }


# Comparison ---------------------------------------------------------------------------------------


def judged(folder: Path, right: Expected) -> Figures:
    """Return how a result differs from what is right.

    Raises:
        ValueError: It has other tensors, shapes or tokens.
    """
    tensors: dict[str, torch.Tensor] = {}
    for pack in folder.glob("*.safetensors"):
        tensors |= canonical(load_file(pack))
    if tensors.keys() != right.tensors.keys():
        others = sorted(tensors.keys() ^ right.tensors.keys())
        raise ValueError(f"{len(others)} other tensors, like {others[0]}")
    numbers = None
    if right.tokens is not None:
        tokens = tokens_of(folder)
        if tokens.keys() != right.tokens.keys():
            raise ValueError(f"other tokens: {sorted(tokens.keys() ^ right.tokens.keys())}")
        numbers = [tokens[text] for text in right.tokens]
    values = off = 0
    worst, dtypes = 0.0, set()
    for name, options in right.tensors.items():
        dtypes.add(str(tensors[name].dtype).removeprefix("torch."))
        own = longest(tensors[name].to(getattr(torch, right.dtype)))
        if own.shape != options.shape[1:]:
            raise ValueError(f"{name} is of shape {own.shape}, not {options.shape[1:]}")
        if numbers is not None and name in (EMBEDDING, OUTPUT):
            own = own[[*numbers, *range(len(numbers), len(own))]]
        distance = (np.abs(own - options) / last_place(options, right.dtype)).min(axis=0)
        values += distance.size
        off += int((~(distance <= 0.5 + SLACK)).sum())
        worst = max(worst, float(distance.max()))
    return Figures(values, off, worst, tuple(sorted(dtypes - {right.dtype})))


def last_place(values: NDArray[np.longdouble], dtype: str) -> NDArray[np.longdouble]:
    """Return the units in the last place of values when they are of a dtype."""
    places, least = _PLACES[dtype]
    exponents = np.frexp(np.where(values == 0, np.longdouble(2.0) ** least, values))[1] - 1
    return np.ldexp(np.longdouble(1), np.maximum(exponents, least) - (places - 1))


def canonical(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by the reference's names; mixtures have experts one by one there."""
    found = {}
    for name, tensor in tensors.items():
        short = name.replace("block_sparse_moe", "mlp")
        if short.endswith("experts.gate_up_proj"):
            for number, both in enumerate(tensor):
                half = len(both) // 2
                for key, value in (("w1", both[:half]), ("w3", both[half:])):
                    found[short.replace("gate_up_proj", f"{number}.{key}.weight")] = value
        elif short.endswith("experts.down_proj"):
            for number, value in enumerate(tensor):
                found[short.replace("down_proj", f"{number}.w2.weight")] = value
        else:
            found[short] = tensor
    return found


def tokens_of(folder: Path) -> dict[str, int]:
    """Return the numbers of the tokens of a folder with a ``tokenizer.json``."""
    document = json.loads((folder / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in document.get("added_tokens", ())}
    return {**document["model"]["vocab"], **added}


def cell(found: Found, right: Expected | None) -> tuple[str, Figures | None]:
    """Return the cells of a program's result, and its figures if it has a comparable one."""
    if found.folder is None:
        return f"refused | {_plain(found.reason)}", None
    if right is None:
        return "merged | ", None
    try:
        figures = judged(found.folder, right)
    except ValueError as error:
        return f"not comparable | {_plain(str(error))}", None
    also = "".join(f", in {dtype}" for dtype in figures.dtypes)
    return f"{figures.off} | {figures.worst:.3g}{also}", figures


def _plain(reason: str) -> str:
    """Return a reason as the cell of a table."""
    text = " ".join(re.sub(r"/\S*/models/", "", reason).split())
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) < 240 else f"{text[:240]}…"


def kept() -> dict[str, str]:
    """Return mergekit's cells of the page, by title."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| "): " | ".join(row[4:6]).removesuffix(" |") for row in rows}


def set_home(folder: Path) -> None:
    """Use a modpkg home, with a registry of its own, that is nobody's."""
    os.environ["MODPKG_HOME"] = str(folder)
    for name in ("MODPKG_REGISTRY", "MODPKG_PROJECT"):
        os.environ.pop(name, None)


def main() -> None:
    """Print the table, and write it as the page if it is of all recipes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", type=Path, default=MERGEKIT, metavar="PYTHON")
    parser.add_argument("--only", default="", metavar="WORD", help="those with it in their title")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to work")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        set_home(folder / "home")
        models = write_models(folder / "models")
        write_gpts(folder / "models", models)
        write_lora(folder / "models" / "lora", models)
        publish_models(folder / "models", [*models, "lora"])
        chosen = [recipe for recipe in recipes() if options.only in recipe.title]
        paths = []
        for number, recipe in enumerate(chosen):
            paths.append(folder / "models" / f"recipe-{number}.yml")
            paths[-1].write_text(recipe.text)
        live = options.mergekit.exists()
        theirs = {}
        if live:
            theirs = by_mergekit(options.mergekit, folder / "models", paths, folder / "mergekit")
        before = {} if live else kept()
        lines, worse = [], []
        for recipe, path in zip(chosen, paths, strict=True):
            ours = by_modpkg(path, folder / path.stem)
            right = None if recipe.refused else expected(yaml.safe_load(recipe.text), models)
            own, figures = cell(ours, right)
            other, their_figures = before.get(recipe.title, "? | "), None
            if live:
                other, their_figures = cell(theirs[path.stem], right)
            values = figures.values if figures else ""
            lines.append(f"| {recipe.title} | {values} | {own} | {other} |")
            print(lines[-1], flush=True)
            bad = recipe.refused != (ours.folder is None) or (not recipe.refused and not figures)
            further = figures and their_figures and figures.worst > their_figures.worst + SLACK
            if bad or further or (figures and (figures.off or figures.dtypes)):
                worse.append(recipe.title)
    if not options.only:
        PAGE.write_text(_page(lines))
    print(f"{len(lines)} recipes; not as they should be: {', '.join(worse) or 'none'}")


def _page(lines: Sequence[str]) -> str:
    head = "\n".join(
        (
            "# Recipes of mergekit",
            "",
            "`python -m benchmarks.recipes`; mergekit 0.1.5. Recipes in the manner of model cards",
            "(`benchmarks/recipes.yml`) of small Llamas: imported, built, published and installed,",
            "beside mergekit's result and a reference in 80-bit floats that was written",
            "independently of both (`benchmarks/recipe_reference.py`).",
            "",
            "*Off* are the values that are not the reference's rounded once to the result's dtype,",
            "*worst* is the largest distance from it in units of the last place (at most 0.5 if",
            "rounded once).",
            "",
            "| recipe | values | modpkg: off | worst | mergekit: off | worst |",
            "|---|---:|---:|---:|---:|---:|",
        )
    )
    return "\n".join((head, *lines)) + "\n"


if __name__ == "__main__":
    main()
