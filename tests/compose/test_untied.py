"""Recipes with ``tie_word_embeddings = false``: PEFT's forward on the tied base judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.architectures import composed_model, installed, shake
from modpkg.compose.plan import plan
from modpkg.core.filenames import MEMORY
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.core.records import MemoryRecord, UntiedRecord, decode_record
from modpkg.interop.hf import import_hf
from modpkg.interop.peft import import_peft
from modpkg.manifest.schema import Compose, Step
from tests.compose.helpers import module, of_folder
from tests.compose.oracle import close
from tests.compose.test_peft_architectures import BART, GPT, HEADS, SMALL, T5, S
from tests.raising import raises

pytestmark = pytest.mark.filterwarnings("ignore")

TIED = {"tie_word_embeddings": True}
WHISPER = {**BART, "max_source_positions": 8, "max_target_positions": 16, "num_mel_bins": 4}
OPT = {**S, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32}
VISION = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
QWEN2_VL = {"text_config": {**HEADS, **TIED, "rope_parameters": ROPE}, "vision_config": VISION}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "LlamaForCausalLM", {**HEADS, **TIED}),
    "gpt2": ("GPT2", "GPT2LMHeadModel", GPT),
    "bert": ("Bert", "BertForMaskedLM", SMALL),
    "roberta": ("Roberta", "RobertaForMaskedLM", {**SMALL, "pad_token_id": 1}),
    "t5": ("T5", "T5ForConditionalGeneration", T5),
    "mt5": ("MT5", "MT5ForConditionalGeneration", T5),
    "umt5": ("UMT5", "UMT5ForConditionalGeneration", T5),
    "switch": (
        "SwitchTransformers",
        "SwitchTransformersForConditionalGeneration",
        {**T5, "num_experts": 2, "expert_capacity": 8},
    ),
    "bart": ("Bart", "BartForConditionalGeneration", BART),
    "opt": ("OPT", "OPTForCausalLM", OPT),
    "gemma": ("Gemma", "GemmaForCausalLM", HEADS),
    "qwen2-vl": ("Qwen2VL", "Qwen2VLForConditionalGeneration", {**QWEN2_VL, **TIED}),
    "whisper": ("Whisper", "WhisperForConditionalGeneration", WHISPER),
}


def base_of(name: str, folder: Path) -> Any:
    """Save a small model with tied tensors, and return it."""
    torch.manual_seed(7)
    kind, cls, options = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**options)
    model = getattr(transformers, cls)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder / "base")
    return type(model).from_pretrained(folder / "base").eval()


def logits(name: str, model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 3, 7, 11, 2, 60, 9]])
    inputs: dict[str, Any] = {"input_ids": ids}
    if name == "whisper":
        generator = torch.Generator().manual_seed(1)
        features = torch.randn(1, 4, 16, generator=generator)
        inputs = {"input_features": features, "decoder_input_ids": ids}
    elif model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids.flip(1)
    with torch.no_grad():
        result: torch.Tensor = model(**inputs).logits
    return result


class Case:
    """A tied base, and an adapter of it that PEFT trained and saved."""

    def __init__(
        self,
        name: str,
        config: peft.PeftConfig,
        folder: Path,
        change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
    ) -> None:
        """Save; ``change`` edits the adapter's tensors before anything reads them."""
        self.name, self.folder = name, folder
        wrapped = peft.get_peft_model(base_of(name, folder), config).eval()
        shake(wrapped)
        plain = config.peft_type != "LORA" or config.use_dora
        wrapped.save_pretrained(
            folder / "adapter", save_embedding_layers=False if plain else "auto"
        )
        file = folder / "adapter" / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        base = type(wrapped.base_model.model).from_pretrained(folder / "base").eval()
        self.before = logits(name, base)
        self.peft = peft.PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
        self.wanted = logits(name, self.peft)
        import_hf(folder / "base", folder / "b", "base", "1.0", license="MIT")
        self.base: InstalledModule = installed(folder / "b", folder / "reg", "base")

    def adapter(self) -> InstalledModule:
        project = self.folder / "a"
        import_peft(self.folder / "adapter", project, "adapter", "1.0", base="base", license="MIT")
        module: InstalledModule = installed(project, self.folder / "reg", "adapter")
        return module

    def composed(self, adapter: InstalledModule, *, untied: bool = True) -> Any:
        return composed_model(self.base, adapter, self.folder, untied=untied)

    def check(self) -> Any:
        adapter = self.adapter()
        with raises("M606", match="write tie_word_embeddings = false in the recipe of model"):
            self.composed(adapter, untied=False)
        model = self.composed(adapter)
        close(logits(self.name, model), self.wanted)
        assert (self.wanted - self.before).abs().max() > 1e-3, "the adapter does nothing"
        assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
        return model


def lora(**options: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, **options)


CASES: dict[str, tuple[str, peft.PeftConfig]] = {
    "llama head": ("llama", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "llama embedding": ("llama", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "llama both": (
        "llama",
        lora(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    ),
    "llama lora": ("llama", lora(target_modules=["embed_tokens", "q_proj"])),
    "llama lora of both": ("llama", lora(target_modules=["embed_tokens", "lm_head"])),
    "llama dora": ("llama", lora(target_modules=["lm_head"], use_dora=True)),
    "gpt2 lora": ("gpt2", lora(target_modules=["lm_head", "c_attn"])),
    "gpt2 embedding": ("gpt2", lora(target_modules=["c_attn"], modules_to_save=["wte"])),
    "bert head": ("bert", lora(target_modules=["query"], modules_to_save=["cls"])),
    "bert embedding": ("bert", lora(target_modules=["query"], modules_to_save=["word_embeddings"])),
    "bert lora": ("bert", lora(target_modules=["decoder"])),
    "roberta head": ("roberta", lora(target_modules=["query"], modules_to_save=["lm_head"])),
    "roberta embedding": ("roberta", lora(target_modules=["word_embeddings"])),
    "bart head": ("bart", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "bart decoder": (
        "bart",
        lora(target_modules=["q_proj"], modules_to_save=["decoder.embed_tokens"]),
    ),
    "bart both": ("bart", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "bart lora": ("bart", lora(target_modules=["embed_tokens"])),
    "opt head": ("opt", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "opt embedding": ("opt", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "gemma head": ("gemma", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "gemma embedding": ("gemma", lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "qwen2-vl head": ("qwen2-vl", lora(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "qwen2-vl embedding": (
        "qwen2-vl",
        lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    ),
    "whisper head": ("whisper", lora(target_modules=["q_proj"], modules_to_save=["proj_out"])),
    "whisper embedding": (
        "whisper",
        lora(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_half_of_a_tied_pair(name: str, tmp_path: Path) -> None:
    Case(*CASES[name], tmp_path).check()


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_a_saved_layer_of_the_base_is_that_of_both(layer: str, tmp_path: Path) -> None:
    """PEFT loads the value of the one layer into the tensor that both have."""

    def move(tensors: dict[str, torch.Tensor]) -> None:
        names = [name for name in tensors if name.endswith(f"{layer}.base_layer.weight")]
        assert len(names) == 1
        tensors[names[0]] += 0.1

    Case("llama", lora(target_modules=[layer, "q_proj"]), tmp_path, move).check()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("t5", "of T5ForConditionalGeneration as one tensor, whatever tie_word_embeddings says"),
        ("umt5", "as one tensor, whatever tie_word_embeddings says"),
        ("switch", "computes something else where tie_word_embeddings is false"),
    ],
)
def test_what_transformers_cannot_untie(name: str, reason: str, tmp_path: Path) -> None:
    config = lora(target_modules=["q"], modules_to_save=["lm_head"])
    with raises("M606", match=f"a recipe cannot untie them, since .*{reason}"):
        Case(name, config, tmp_path).adapter()


def test_the_config_says_it_where_the_base_does(tmp_path: Path) -> None:
    case = Case(*CASES["qwen2-vl head"], tmp_path)
    adapter = case.adapter()
    record = decode_record(adapter.files[MEMORY].read_bytes(), MemoryRecord, MEMORY)
    assert record.untied == UntiedRecord(
        tensors={"lm_head.weight": "model.embed_tokens.weight"}, config=[[], ["text_config"]]
    )
    config = plan_of(case, adapter).config
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False


@pytest.mark.parametrize("value", [None, 1.0])
def test_a_tied_pair_inside_of_a_saved_module_stays_one(
    value: float | None, tmp_path: Path
) -> None:
    """PEFT cannot load a file that lacks one of the two, and loads the last where they differ."""
    case = Case(*CASES["bert head"], tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    bias = tensors.pop("base_model.model.cls.predictions.decoder.bias")
    if value is not None:
        tensors["base_model.model.cls.predictions.decoder.bias"] = bias + value
    save_file(tensors, file, metadata={"format": "pt"})
    with raises("M606", match="is of a module that base|cls.predictions"):
        case.adapter()


def plan_of(case: Case, *adapters: InstalledModule, ties: bool | None = False) -> Any:
    steps = [Step(op="lora", module=ModuleName(each.record.name)) for each in adapters]
    recipe = Compose(base=ModuleName("base"), steps=tuple(steps), tie_word_embeddings=ties)
    return plan("m", "1", recipe, {"base": case.base, **{a.record.name: a for a in adapters}})


def second(case: Case, config: peft.PeftConfig, folder: Path) -> InstalledModule:
    """Return another adapter of the same base."""
    base = type(case.peft.base_model.model).from_pretrained(case.folder / "base")
    wrapped = peft.get_peft_model(base, config)
    shake(wrapped)
    wrapped.save_pretrained(folder / "second")
    import_peft(folder / "second", folder / "s", "second", "1.0", base="base", license="MIT")
    module: InstalledModule = installed(folder / "s", case.folder / "reg", "second")
    return module


def test_trained_tokens_beside_it_are_those_of_both(tmp_path: Path) -> None:
    case = Case(*CASES["llama head"], tmp_path)
    tokens = lora(target_modules=["v_proj"], trainable_token_indices=[3, 7])
    other = second(case, tokens, tmp_path)
    assert MEMORY not in other.files
    made = plan_of(case, case.adapter(), other)
    assert {term.op for term in made.computed["model.embed_tokens.weight"].terms} == {"rows"}
    assert {term.op for term in made.computed["lm_head.weight"].terms} == {"dense", "rows"}
    assert plan_of(case, other, ties=None).config["tie_word_embeddings"]
    with raises("M601", match="no adapter in its steps changes only one of several tied tensors"):
        plan_of(case, other)


def test_fine_tunes_beside_it(tmp_path: Path) -> None:
    """One that is tied moves both; one that is not has values for each."""
    case = Case(*CASES["llama head"], tmp_path)
    adapter = case.adapter()
    model = base_of("llama", tmp_path / "other")
    shake(model)
    model.save_pretrained(tmp_path / "tied")
    tied = of_folder(tmp_path / "tied", "tuned", "base")
    recipe = Compose(
        base=ModuleName("base"),
        steps=(
            Step(op="lora", module=ModuleName("adapter")),
            Step(op="dense", module=ModuleName("tuned")),
        ),
        tie_word_embeddings=False,
    )
    made = plan("m", "1", recipe, {"base": case.base, "adapter": adapter, "tuned": tied})
    values = tied.tensors["model.embed_tokens.weight"]
    for name, count in (("lm_head.weight", 2), ("model.embed_tokens.weight", 1)):
        terms = made.computed[name].terms
        assert len(terms) == count
        assert values in [term.inputs.get("values") for term in terms]


def test_other_steps_may_not_change_what_is_tied(tmp_path: Path) -> None:
    case = Case(*CASES["llama head"], tmp_path)
    value = torch.randn(61, 32)
    other = module(tmp_path, "other", "patch", {"model.embed_tokens.weight": value})
    recipe = Compose(
        base=ModuleName("base"),
        steps=(
            Step(op="lora", module=ModuleName("adapter")),
            Step(op="replace", module=ModuleName("other")),
        ),
        tie_word_embeddings=False,
    )
    with raises("M601", match="which is tied in base and untied here"):
        plan("m", "1", recipe, {"base": case.base, "adapter": case.adapter(), "other": other})
