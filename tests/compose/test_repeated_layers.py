"""Adapters that repeat layers of their base (PEFT's layer_replication): PEFT's forward judges."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from modpkg.adapters import bind_adapter
from modpkg.compose.composition import Composition
from modpkg.compose.executor import compose
from modpkg.compose.mapping import map_tensors
from modpkg.compose.plan import plan
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Layers, Step
from modpkg.runtime.live import LiveModel
from modpkg.runtime.live_parts import parts_of
from modpkg.runtime.load import build_model
from tests.compose.helpers import of_folder
from tests.compose.oracle import close, shake
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")

IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 3, 2, 4]])
RUNS = [[0, 2], [1, 3]]
SMALL = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
MODELS = {
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2),
        ["q_proj", "down_proj"],
    ),
    "bert": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(**SMALL, intermediate_size=48),
        ["query", "value"],
    ),
    "mistral": (
        transformers.MistralForCausalLM,
        transformers.MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2),
        ["k_proj", "up_proj"],
    ),
}


def trained(folder: Path, kind: str, **more: Any) -> Any:
    """Save a base and an adapter on its layers repeated; return PEFT's model."""
    cls, config, targets = MODELS[kind]
    torch.manual_seed(5)
    cls(config).save_pretrained(folder / "base")
    model = cls.from_pretrained(folder / "base").eval()
    lora = peft.LoraConfig(r=4, target_modules=targets, layer_replication=RUNS, **more)
    wrapped = peft.get_peft_model(model, lora).eval()
    shake(wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder / "adapter")
    return wrapped


def recipe(*runs: tuple[int, int], module: str = "base") -> Compose:
    return Compose(
        base=ModuleName("base"),
        layers=tuple(Layers(module=ModuleName(module), range=run) for run in runs),
        steps=(Step(op="lora", module=ModuleName("adapter")),),
    )


def planned(folder: Path, made: Compose) -> Composition:
    kinds = {"base": "base", "adapter": "adapter"}
    modules = {name: of_folder(folder / name, name, kind) for name, kind in kinds.items()}  # type: ignore[arg-type]
    return plan("model", "1", made, modules)


@pytest.mark.parametrize("kind", MODELS)
def test_each_copy_has_its_own_changes(tmp_path: Path, kind: str) -> None:
    wrapped = trained(tmp_path, kind)
    composition = planned(tmp_path, recipe((0, 2), (1, 3)))
    composed = compose(composition, tmp_path / "store")
    cls, config, _ = MODELS[kind]
    assert composition.config["num_hidden_layers"] == 4
    again = cls(type(config).from_dict(composition.config)).eval()
    weights = map_tensors(composed.tensors.items())
    left = again.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys
    assert set(left.missing_keys) <= {"lm_head.weight"}
    if "lm_head.weight" in left.missing_keys:
        again.tie_weights()
    with torch.no_grad():
        close(again(input_ids=IDS)[0], wrapped(input_ids=IDS)[0])


def test_a_recipe_has_to_repeat_them(tmp_path: Path) -> None:
    trained(tmp_path, "llama")
    for made in (recipe(), recipe((0, 2)), recipe((0, 2), (0, 2))):
        with raises("M606", match=r"layers = \[\{ module = \"base\", range = \[0, 2"):
            planned(tmp_path, made)


def test_base_names_are_those_of_the_base(tmp_path: Path) -> None:
    wrapped = trained(tmp_path, "llama")
    base, adapter = (of_folder(tmp_path / n, n, "base") for n in ("base", "adapter"))
    names = {name: (ref.dtype, ref.shape) for name, ref in adapter.tensors.items()}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "layer_replication": RUNS}
    bound = bind_adapter("adapter", names, config, base.tensors)
    layers = {name.split(".")[2] for name in bound.base_names.values() if "layers" in name}
    assert layers == {"0", "1", "2"}
    assert set(bound.base_names.values()) == base.tensors.keys()
    assert len(bound.changes) == sum("lora_A" in name for name, _ in wrapped.named_modules()) // 2
    for runs in ([[0, 4]], [[2, 1]], [[0, True]], "all", [[0, 2, 3]], [[0, 3]] * 5000, [[-1, 2]]):
        with raises("M606", match="layer"):
            bind_adapter("a", names, {**config, "layer_replication": runs}, base.tensors)


def test_live_copies_are_separate(tmp_path: Path) -> None:
    """Both lie at the same bytes of the base."""
    trained(tmp_path, "llama")
    made = recipe((0, 2), (1, 3))
    composition = planned(tmp_path, made)
    composed = compose(composition, tmp_path / "store")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(composition.config))
    fused = build_model("model", folder, map_tensors(composed.tensors.items()))
    modules = {
        "base": of_folder(tmp_path / "base", "base", "base"),
        "adapter": of_folder(tmp_path / "adapter", "adapter", "adapter"),
    }
    live = LiveModel("model", parts_of(folder, {"model": made}, modules))
    with torch.no_grad():
        wanted = fused(input_ids=IDS)[0]
        close(live(input_ids=IDS)[0], wanted)
        close(live(input_ids=IDS, adapter_names=["adapter"] * 2)[0], wanted)
        plain = live(input_ids=IDS, adapter_names=["__base__"] * 2)[0]
    assert (plain - wanted).abs().max() > 1e-3
