"""Dense models of several architectures, experts made of them, and mixtures of those."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.records import Kind
from modpkg.manifest.schema import Compose, DTypeName, Setting, Step
from tests.compose.helpers import module, of_folder, values
from tests.runtime.helpers import tokenizer

Parameters = dict[str, Setting]
SMALL = {"vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
IDS = torch.tensor([[3, 7, 9, 4, 5, 11, 2, 8], [1, 1, 2, 3, 5, 8, 13, 21]])
UNIFORM: Parameters = {"gates": "uniform"}
FFN = ("gate_proj", "up_proj", "down_proj")


def dense(folder: Path, kind: str = "llama", *, seed: int = 0, **config: Any) -> InstalledModule:
    """Save a random model of an architecture as ``folder/base``, and return it as a base."""
    torch.manual_seed(seed)
    made = transformers.AutoConfig.for_model(kind, **{**SMALL, **config})
    model = transformers.AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too
            parameter += 0.1 * torch.randn(parameter.shape)
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    return of_folder(folder / "base", "base", "base")


def block(base: InstalledModule, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the feed-forward blocks of a base; with a seed, others of their shapes."""
    found = {
        name: tensor.clone()
        for name, tensor in values(base.tensors).items()
        if name.endswith(tuple(f"mlp.{part}.weight" for part in FFN))
    }
    if seed:
        generator = torch.Generator().manual_seed(seed)
        found = {k: 0.3 * torch.randn(t.shape, generator=generator) for k, t in found.items()}
    return found


def vectors(base: InstalledModule, seed: int, rows: int = 1) -> dict[str, torch.Tensor]:
    """Return random rows of a router, for every layer."""
    generator = torch.Generator().manual_seed(seed)
    layers = sum(name.endswith("mlp.up_proj.weight") for name in base.tensors)
    return {
        f"model.layers.{layer}.block_sparse_moe.gate.weight": torch.randn(
            (rows, 16), generator=generator
        )
        for layer in range(layers)
    }


def expert(
    folder: Path, base: InstalledModule, name: str, seed: int, *, gate: int | None = None
) -> InstalledModule:
    """Return an expert of random blocks, with vectors of the seed ``gate``."""
    extra = vectors(base, gate) if gate is not None else {}
    return module(folder, name, "expert", {**block(base, seed), **extra})


def router(folder: Path, base: InstalledModule, *names: str, seed: int = 9) -> InstalledModule:
    """Return a router of random rows for these experts."""
    rows = vectors(base, seed, len(names))
    return module(folder, "router", "expert", rows, router={"experts": list(names)})


def step(op: str, name: str, parameters: Parameters | None = None) -> Step:
    return Step(op=op, module=ModuleName(name), parameters=parameters or {})


def mixed(
    base: InstalledModule,
    experts: list[InstalledModule],
    gates: Parameters | InstalledModule = UNIFORM,
    *,
    prompts: Mapping[str, Parameters] | None = None,
    more: list[Step] | None = None,
    modules: list[InstalledModule] | None = None,
    parameters: Parameters | None = None,
    dtype: DTypeName | None = None,
) -> Composition:
    """Return the plan of a mixture; ``gates`` are the router step's parameters, or a router."""
    steps = [step("expert", e.name, (prompts or {}).get(e.name)) for e in experts]
    if isinstance(gates, InstalledModule):
        steps.append(step("router", gates.name, parameters))
    else:
        steps.append(step("router", base.name, {**gates, **(parameters or {})}))
    recipe = Compose(base=ModuleName(base.name), steps=(*steps, *(more or [])), dtype=dtype)
    there = [base, *experts, *(modules or [])]
    if isinstance(gates, InstalledModule):
        there.append(gates)
    return plan("mixture", "1.0", recipe, {m.name: m for m in there})


def saved(composition: Composition, folder: Path) -> Path:
    """Compose, and write the result as a directory that transformers opens."""
    composed = compose(composition, folder / "store", threads=1)
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    save_file(values(composed.tensors), out / "model.safetensors", {"format": "pt"})
    (out / "config.json").write_text(json.dumps(composed.config))
    return out


def opened(folder: Path) -> Any:
    """Open a directory with transformers; nothing may be missing or left over."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, local_files_only=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return opened(folder)(IDS).logits  # type: ignore[no-any-return]


def renamed(module: InstalledModule, name: str, kind: Kind | None = None) -> InstalledModule:
    import msgspec

    return msgspec.structs.replace(copy.copy(module), name=name, kind=kind or module.kind)


def files(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
