"""Adapters of a model that a trainer had wrapped: their settings name the wrapper, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.architectures import composed_state, difference, installed, shake
from modpkg.core.installed import InstalledModule
from modpkg.interop.hf import import_hf
from modpkg.interop.peft import export_peft, import_peft
from tests.raising import raises
from tests.runtime.helpers import llama

pytestmark = pytest.mark.filterwarnings("ignore")
Q = "model.layers.0.self_attn.q_proj"


class Compiled(torch.nn.Module):
    """A module under the name that torch.compile gives it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._orig_mod = inner
        self.config = getattr(inner, "config", None)


class Parallel(torch.nn.Module):
    """A model under the name that DistributedDataParallel gives it."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.module = inner
        self.config = inner.config


def compiled_layers(model: Any) -> Any:
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = Compiled(layer)
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, InstalledModule]:
    folder = tmp_path_factory.mktemp("wrapped")
    llama(tie_word_embeddings=False).save_pretrained(folder / "base")
    import_hf(folder / "base", folder / "project", "base", "1.0", license="MIT")
    return folder, installed(folder / "project", folder / "registry", "base")


def adapter(base: tuple[Path, InstalledModule], folder: Path) -> InstalledModule:
    """Return the adapter that PEFT saved in a folder."""
    name = folder.name.replace("_", "-")
    import_peft(folder / "saved", folder / "project", name, "1.0", base="base", license="MIT")
    module: InstalledModule = installed(folder / "project", base[0] / "registry", "adapter")
    return module


def trained(
    base: tuple[Path, InstalledModule],
    folder: Path,
    wrap: Callable[[Any], Any],
    **settings: Any,
) -> tuple[InstalledModule, dict[str, torch.Tensor]]:
    """Return an adapter of a wrapped model, and PEFT's merged parameters."""
    source = base[0]
    model = wrap(type(llama()).from_pretrained(source / "base").eval())
    settings = {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], **settings}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
    shake(wrapped)
    wrapped.save_pretrained(folder / "saved")
    merged = wrapped.merge_and_unload().state_dict()
    module = adapter(base, folder)
    wanted = {
        ".".join(part for part in name.split(".") if part not in ("_orig_mod", "module")): value
        for name, value in merged.items()
    }
    return module, wanted


@pytest.mark.parametrize(
    ("wrap", "settings"),
    [
        (Compiled, {"alpha_pattern": {f"_orig_mod.{Q}": 9, "^_orig_mod.model.layers.1": 5}}),
        (Compiled, {"target_modules": [f"_orig_mod.{Q}"], "rank_pattern": {f"_orig_mod.{Q}": 4}}),
        (Compiled, {"trainable_token_indices": {"_orig_mod.model.embed_tokens": [1, 3]}}),
        (
            Compiled,
            {
                "target_parameters": ["_orig_mod.model.layers.0.mlp.up_proj.weight"],
                "alpha_pattern": {"_orig_mod.model.layers.0.mlp.up_proj.weight": 9},
            },
        ),
        (
            Parallel,
            {
                "target_modules": r"module\.model\.layers\.\d\.mlp\.\w+_proj",
                "modules_to_save": ["module.lm_head"],
            },
        ),
        (compiled_layers, {"rank_pattern": {r"layers.1._orig_mod.self_attn.q_proj": 4}}),
        (compiled_layers, {"layers_to_transform": [1], "layers_pattern": "layers"}),
    ],
    ids=["alpha", "target", "tokens", "parameters", "parallel", "layers", "one layer"],
)
def test_settings_match_the_paths_that_were_trained(
    base: tuple[Path, InstalledModule],
    wrap: Callable[[Any], Any],
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    module, wanted = trained(base, tmp_path, wrap, **settings)
    assert difference(composed_state(base[1], module, tmp_path), wanted) is None
    export_peft(module, tmp_path / "export")
    fresh = type(llama()).from_pretrained(base[0] / "base")
    again = peft.PeftModel.from_pretrained(fresh, str(tmp_path / "export")).merge_and_unload()
    assert difference(dict(again.state_dict()), wanted) is None


def test_a_pattern_that_means_two_things_is_refused(
    base: tuple[Path, InstalledModule], tmp_path: Path
) -> None:
    """PEFT did not match it here, and would have if the model had been wrapped later."""
    with raises("M606", match="wrapper"):
        trained(base, tmp_path, Compiled, alpha_pattern={f"^{Q}": 9})


def test_an_export_keeps_the_patterns_of_every_method(
    base: tuple[Path, InstalledModule], tmp_path: Path
) -> None:
    model = Compiled(type(llama()).from_pretrained(base[0] / "base").eval())
    config = peft.LoHaConfig(r=2, alpha=3, target_modules=["q_proj"], rank_pattern={Q: 4})
    wrapped = peft.get_peft_model(model, config).eval()
    shake(wrapped)
    wrapped.save_pretrained(tmp_path / "saved")
    module = adapter(base, tmp_path)
    export_peft(module, tmp_path / "export")
    fresh = type(llama()).from_pretrained(base[0] / "base")
    again = peft.PeftModel.from_pretrained(fresh, str(tmp_path / "export")).merge_and_unload()
    wanted = {
        n.removeprefix("_orig_mod."): v for n, v in wrapped.merge_and_unload().state_dict().items()
    }
    assert difference(dict(again.state_dict()), wanted) is None


@pytest.mark.parametrize("name", ["default", "style"])
def test_a_raw_state_dict_is_the_adapter_of_that_name(
    name: str, base: tuple[Path, InstalledModule], tmp_path: Path
) -> None:
    """``get_peft_model(…).state_dict()`` in place of what PEFT saves, with the base's tensors."""
    model = type(llama()).from_pretrained(base[0] / "base").eval()
    config = peft.LoraConfig(
        r=2,
        target_modules=["q_proj"],
        use_dora=True,
        modules_to_save=["lm_head"],
        trainable_token_indices=[1, 3],
    )
    wrapped = peft.get_peft_model(model, config, adapter_name=name).eval()
    shake(wrapped)
    wrapped.save_pretrained(tmp_path / "peft")
    (tmp_path / "peft" / (name if name != "default" else "")).rename(tmp_path / "saved")
    raw = {key: value.clone().contiguous() for key, value in wrapped.state_dict().items()}
    save_file(raw, tmp_path / "saved" / "adapter_model.safetensors")
    wanted = dict(wrapped.merge_and_unload().state_dict())
    module = adapter(base, tmp_path)
    assert difference(composed_state(base[1], module, tmp_path), wanted) is None
    export_peft(module, tmp_path / "export")
    fresh = type(llama()).from_pretrained(base[0] / "base")
    again = peft.PeftModel.from_pretrained(fresh, str(tmp_path / "export")).merge_and_unload()
    assert difference(dict(again.state_dict()), wanted) is None
