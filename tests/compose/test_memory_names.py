"""Adapters with names in memory: built, composed and exported; PEFT's merged model judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.architectures import (
    composed_state,
    difference,
    disk_names,
    header_of,
    installed,
    shake,
    small_model,
)
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.filenames import MEMORY
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.records import MemoryRecord, decode_record
from modpkg.interop.hf import import_hf
from modpkg.interop.peft import export_peft, import_peft
from modpkg.interop.peft_names import names_of_layers
from modpkg.manifest.schema import Compose, Step
from modpkg.runtime.memory_layout import MemoryLayout, layout_of
from tests.compose.helpers import values
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 3}


class Case:
    """A base, an adapter of it that PEFT saved, and PEFT's merged model."""

    def __init__(
        self,
        name: str,
        config: peft.PeftConfig,
        folder: Path,
        change: Callable[[Path], None] | None = None,
    ) -> None:
        """Save; ``change`` edits the base's folder before anything reads it."""
        model = small_model(name)
        self.folder, self.cls = folder, type(model)
        model.save_pretrained(folder / "base")
        if change is not None:
            change(folder / "base")
        wrapped = peft.get_peft_model(self.fresh(), config).eval()
        shake(wrapped)
        wrapped.save_pretrained(folder / "memory")
        self.wanted = dict(wrapped.merge_and_unload().state_dict())
        assert difference(self.wanted, dict(self.fresh().state_dict())) is not None
        import_hf(folder / "base", folder / "base-project", "base", "1.0", license="MIT")
        self.base: InstalledModule = installed(folder / "base-project", folder / "reg", "base")

    def fresh(self) -> Any:
        return self.cls.from_pretrained(self.folder / "base", dtype=torch.float32).eval()

    @property
    def layout(self) -> MemoryLayout:
        config = json.loads((self.folder / "base" / "config.json").read_text())
        found = layout_of("base", config, header_of(self.folder / "base"))
        assert found is not None
        return found

    def adapter(self, spelling: str = "memory") -> InstalledModule:
        project = self.folder / f"{spelling}-project"
        import_peft(self.folder / spelling, project, spelling, "1.0", base="base", license="MIT")
        module: InstalledModule = installed(project, self.folder / "reg", "adapter")
        return module

    def check(self, adapter: InstalledModule) -> None:
        """Check what is composed, and what PEFT makes of the export."""
        out = self.folder / f"{adapter.record.name}-out"
        out.mkdir()
        assert difference(composed_state(self.base, adapter, out), self.wanted) is None
        export_peft(adapter, out / "export", rename=self.layout.rename)
        assert not (out / "export" / MEMORY).exists()
        again = peft.PeftModel.from_pretrained(self.fresh(), str(out / "export"))
        assert difference(dict(again.merge_and_unload().state_dict()), self.wanted) is None


def record_of(adapter: InstalledModule) -> MemoryRecord:
    return decode_record(adapter.files[MEMORY].read_bytes(), MemoryRecord, MEMORY)


@pytest.mark.parametrize("name", ["gemma3", "vit", "gte"])
def test_linear_layers_in_memory_and_on_disk(name: str, tmp_path: Path) -> None:
    case = Case(name, peft.LoraConfig(**LORA, target_modules="all-linear"), tmp_path)
    adapter = case.adapter()
    assert record_of(adapter).tensors
    case.check(adapter)
    if disk_names(case.layout, tmp_path / "memory", tmp_path / "disk") and name != "gte":
        older = case.adapter("disk")
        assert MEMORY not in older.files, "its names are those on disk"
        case.check(older)


def test_patterns_and_saved_modules_follow_the_names(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        **LORA,
        target_modules=r".*vision_tower.*\.(q_proj|fc1)",
        rank_pattern={"q_proj": 4},
        alpha_pattern={r"vision_tower\.encoder\.layers\.0\.mlp\.fc1": 7},
        modules_to_save=["multi_modal_projector"],
    )
    case = Case("llava", config, tmp_path)
    case.check(case.adapter())
    assert disk_names(case.layout, tmp_path / "memory", tmp_path / "disk")
    case.check(case.adapter("disk"))


def test_token_rows(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        **LORA,
        target_modules=r".*language_model.*\.q_proj",
        trainable_token_indices={"embed_tokens": [3, 5]},
    )
    case = Case("llava", config, tmp_path)
    case.check(case.adapter())
    assert disk_names(case.layout, tmp_path / "memory", tmp_path / "disk")
    case.check(case.adapter("disk"))


@pytest.mark.parametrize("name", ["mixtral", "granitemoe"])
def test_parameters_of_experts(name: str, tmp_path: Path) -> None:
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    if name == "granitemoe":
        model = small_model(name)
        ends = {".".join(n.split(".")[-2:]) for n, p in model.named_parameters() if p.ndim == 3}
        parameters = sorted(ends)
    config = peft.LoraConfig(**LORA, target_modules=["q_proj"], target_parameters=parameters)
    case = Case(name, config, tmp_path)
    case.check(case.adapter())


OLD = {
    "mixtral": ("block_sparse_moe.experts", {"w1": "gate", "w3": "up", "w2": "down"}),
    "olmoe": (
        "mlp.experts",
        {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"},
    ),
}


def old_experts(name: str, folder: Path, leave_out: str = "-") -> dict[str, torch.Tensor]:
    """Save a base with all experts in one tensor, and an adapter that names each of them, as those
    of transformers 4 do; return the weights that they make together."""
    model = small_model(name)
    model.save_pretrained(folder / "base", save_original_format=False)
    wanted = {key: value.clone() for key, value in model.state_dict().items()}
    stem, parts = OLD[name]
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for key, value in model.state_dict().items():
        if not key.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            continue
        layer = key.split(".mlp.")[0]
        for part, kind in parts.items():
            if kind not in key.rpartition(".")[2]:
                continue
            count, rows, columns = value.shape
            rows = rows if kind == "down" else rows // 2
            first = rows if kind == "up" else 0
            for expert in range(count):
                path = f"{layer}.{stem}.{expert}.{part}"
                if path.endswith(leave_out):
                    continue
                a = torch.randn(2, columns, generator=generator)
                b = torch.randn(rows, 2, generator=generator)
                tensors[f"base_model.model.{path}.lora_A.weight"] = a
                tensors[f"base_model.model.{path}.lora_B.weight"] = b
                wanted[key][expert, first : first + rows] += 1.5 * b @ a
    assert len(tensors) > 20
    (folder / "old").mkdir()
    save_file(tensors, folder / "old" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": list(parts)}
    (folder / "old" / "adapter_config.json").write_text(json.dumps(config))
    import_hf(folder / "base", folder / "base-project", "base", "1.0", license="MIT")
    return wanted


@pytest.mark.parametrize("name", OLD)
def test_single_experts_of_a_base_that_has_all_in_one_tensor(name: str, tmp_path: Path) -> None:
    wanted = old_experts(name, tmp_path)
    base = installed(tmp_path / "base-project", tmp_path / "reg", "base")
    assert any(key.endswith("experts.gate_up_proj") for key in base.tensors)
    import_peft(tmp_path / "old", tmp_path / "project", "old", "1.0", base="base", license="MIT")
    adapter = installed(tmp_path / "project", tmp_path / "reg", "adapter")
    (tmp_path / "out").mkdir()
    assert difference(composed_state(base, adapter, tmp_path / "out"), wanted) is None


@pytest.mark.parametrize("left_out", ["layers.1.mlp.experts.2.up_proj", "1.up_proj"])
def test_a_single_expert_that_is_left_out(left_out: str, tmp_path: Path) -> None:
    old_experts("olmoe", tmp_path, left_out)
    installed(tmp_path / "base-project", tmp_path / "reg", "base")
    import_peft(tmp_path / "old", tmp_path / "project", "old", "1.0", base="base", license="MIT")
    with raises("M606", match="has no tensors for"):
        installed(tmp_path / "project", tmp_path / "reg", "adapter")


def test_experts_that_are_stored_transposed(tmp_path: Path) -> None:
    def turn(folder: Path) -> None:
        (file,) = folder.glob("*.safetensors")
        turned = {
            key: value.transpose(1, 2).contiguous() if ".experts." in key else value
            for key, value in load_file(file).items()
        }
        save_file(turned, file, metadata={"format": "pt"})

    config = peft.LoraConfig(
        **LORA, target_modules=[], target_parameters=["experts.gate_up_proj", "experts.down_proj"]
    )
    case = Case("qwen3_vl_moe", config, tmp_path, turn)
    case.check(case.adapter())


def test_what_cannot_follow_a_part_is_refused(tmp_path: Path) -> None:
    """DoRA's norms run over the rows that transformers splits off, OFT turns them."""
    config = peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"])
    case = Case("gte", config, tmp_path)
    with raises("M606", match="makes it from parts"):
        case.adapter()


def test_what_is_rearranged_is_refused(tmp_path: Path) -> None:
    config = peft.LoraConfig(**LORA, target_modules=r".*vision.*layers\.0.*q_proj")
    case = Case("step3p7", config, tmp_path)
    with raises("M606", match="rearranges"):
        case.adapter()


def test_a_base_that_differs_is_told_when_composing(tmp_path: Path) -> None:
    """The record is from outside: it may name what the base does not have."""
    from modpkg.adapters.memory import in_memory

    case = Case("vit", peft.LoraConfig(**LORA, target_modules=["q_proj"]), tmp_path)
    record = record_of(case.adapter())
    base: Mapping[str, Any] = case.base.tensors
    assert in_memory(record, base, "adapter", "base").keys() > record.tensors.keys()
    fewer = {name: ref for name, ref in base.items() if "query" not in name}
    with raises("M208", match="build adapter again"):
        in_memory(record, fewer, "adapter", "base")


def test_a_head_in_memory_replaces_the_tensor_on_disk(tmp_path: Path) -> None:
    from modpkg.compose.executor import compose
    from modpkg.compose.mapping import map_tensors
    from modpkg.compose.plan import plan
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Compose, Step
    from modpkg.runtime.load import build_model
    from tests.modules import write_module

    model = small_model("gemma3")
    assert not model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "base")
    import_hf(tmp_path / "base", tmp_path / "base-project", "base", "1.0", license="MIT")
    base = installed(tmp_path / "base-project", tmp_path / "reg", "base")
    value = torch.randn(model.lm_head.weight.shape)
    project = write_module(tmp_path / "head", "head", "1.0", "head", {"base": "*"})
    save_file({"lm_head.weight": value}, project / "head.safetensors")
    config = {"architectures": ["Gemma3ForConditionalGeneration"]}
    (project / "config.json").write_text(json.dumps(config))
    head = installed(project, tmp_path / "reg", "head")

    def state(*replace: str) -> Any:
        step = Step(op="head", module=ModuleName("head"), scale=1.0, replace=replace)
        recipe = Compose(base=ModuleName("base"), steps=(step,))
        composition = plan("model", "1.0", recipe, {"base": base, "head": head})
        made = compose(composition, tmp_path / "store", threads=1)
        (tmp_path / "config.json").write_text(json.dumps(made.config))
        return build_model("m", tmp_path, map_tensors(made.tensors.items())).state_dict()

    with raises("M601", match="language_model.lm_head.weight"):
        state()  # two tensors for one parameter
    assert torch.equal(state("language_model.lm_head.weight")["lm_head.weight"], value)


def test_a_lora_of_a_shared_output_layer_is_refused_for_that(tmp_path: Path) -> None:
    model = small_model("gpt2")
    assert model.config.tie_word_embeddings
    case = Case("gpt2", peft.LoraConfig(**LORA, target_modules=["lm_head"]), tmp_path)
    with raises("M606", match=r"base 1.0 ties \(lm_head.weight, transformer.wte.weight\)"):
        composed_state(case.base, case.adapter(), tmp_path)


def test_a_fine_tune_may_store_a_tied_tensor_once(tmp_path: Path) -> None:
    from modpkg.core.names import ModuleName
    from modpkg.manifest.schema import Step
    from tests.compose.helpers import module, planned

    tied = {"tie_word_embeddings": True, "model_type": "llama"}
    embedding, tuned = torch.randn(9, 4), torch.randn(9, 4)
    twice = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    frequencies = {"model.rotary_emb.inv_freq": torch.ones(2)}
    base = module(tmp_path, "base", "base", {**twice, **frequencies}, config=tied)
    once = {"model.embed_tokens.weight": tuned}
    fine_tune = module(tmp_path, "tuned", "base", once, config=tied)
    step = Step(op="dense", module=ModuleName("tuned"), scale=1.0)
    made = planned(base, fine_tune, steps=[step])
    assert made.computed.keys() == twice.keys()
    assert made.kept.keys() == frequencies.keys()
    step = Step(op="dense", module=ModuleName("base"), scale=1.0)
    assert planned(fine_tune, base, steps=[step]).computed.keys() == once.keys()


def test_a_shared_embedding_of_encoder_and_decoder(tmp_path: Path) -> None:
    """PEFT's copy is of `shared` alone, which neither of them reads."""
    config = peft.LoraConfig(**LORA, target_modules=["q"], modules_to_save=["shared"])
    with raises("M606", match="share that tensor|shares that tensor"):
        Case("pop2piano", config, tmp_path).adapter()


@pytest.mark.parametrize("kind", ["bare", "causal"])
def test_an_adapter_that_was_trained_on_the_language_model_alone(kind: str, tmp_path: Path) -> None:
    """Its names lack what the whole model's have in front, on disk and in memory."""
    model = small_model("llava")
    model.save_pretrained(tmp_path / "base")
    import_hf(tmp_path / "base", tmp_path / "project", "base", "1.0", license="MIT")
    base = installed(tmp_path / "project", tmp_path / "reg", "base")
    inner = model.model.language_model
    trunk = type(inner)(inner.config)
    trunk.load_state_dict(inner.state_dict())
    if kind == "causal":
        trained = transformers.LlamaForCausalLM(inner.config)
        trained.model = trunk
    else:
        trained = trunk
    # the tower for pictures has no down_proj: with q_proj alone, either could be meant
    settings = peft.LoraConfig(**LORA, target_modules=["q_proj", "down_proj"])
    wrapped = peft.get_peft_model(trained, settings)
    shake(wrapped)
    wrapped.save_pretrained(tmp_path / "lora")
    wrapped.merge_and_unload()
    wanted = dict(model.state_dict()) | {
        f"model.language_model.{name}": value for name, value in trunk.state_dict().items()
    }
    source, project = tmp_path / "lora", tmp_path / "lora-project"
    import_peft(source, project, "lora", "1.0", base="base", license="MIT")
    adapter = installed(project, tmp_path / "reg", "adapter")
    (tmp_path / "out").mkdir()
    assert difference(composed_state(base, adapter, tmp_path / "out"), wanted) is None
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    layout = layout_of("base", config, header_of(tmp_path / "base"))
    assert layout is not None
    rename = names_of_layers(adapter, base.record, config, layout)
    export_peft(adapter, tmp_path / "export", rename=rename)
    fresh = type(model).from_pretrained(tmp_path / "base", dtype=torch.float32)
    again = peft.PeftModel.from_pretrained(fresh, str(tmp_path / "export")).merge_and_unload()
    assert difference(dict(again.state_dict()), wanted) is None


@pytest.mark.parametrize("method", ["ties", "dare-linear"])
def test_a_merge_is_the_same_whichever_names_the_adapters_have(method: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(**LORA, target_modules=r".*\.(q_proj|fc1)")
    case = Case("llava", config, tmp_path)
    (tmp_path / "memory").rename(tmp_path / "other")
    wrapped = peft.PeftModel.from_pretrained(case.fresh(), str(tmp_path / "other"))
    for name, value in wrapped.named_parameters():
        if "lora_A" in name:
            value.data = value.data.flip(0) * 2 - 0.1
    wrapped.save_pretrained(tmp_path / "memory")
    assert disk_names(case.layout, tmp_path / "other", tmp_path / "other-disk")
    second = case.adapter("memory")
    made = []
    for spelling in ("other", "other-disk"):
        modules = {"base": case.base, "first": case.adapter(spelling), "second": second}
        steps = tuple(Step(op="lora", module=ModuleName(name)) for name in ("first", "second"))
        recipe = Compose(
            base=ModuleName("base"), steps=steps, method=method, parameters={"density": 0.5}
        )
        composed = compose(plan("model", "1.0", recipe, modules), tmp_path / "store", threads=1)
        made.append(values(composed.tensors))
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
