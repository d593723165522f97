"""Live adapters: equal to fused ones whatever is switched, and to PEFT's for each row."""

from __future__ import annotations

import copy
import math
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import modpkg
from modpkg.adapters import METHODS
from modpkg.compose.executor import compose
from modpkg.compose.mapping import map_tensors
from modpkg.compose.plan import plan
from modpkg.core.installed import InstalledModule
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Compose, Step
from modpkg.runtime import adapted_module, low_rank
from modpkg.runtime import live as live_module
from modpkg.runtime.live import BASE, LiveModel
from modpkg.runtime.live_parts import parts_of
from modpkg.runtime.load import build_model
from tests import tiny
from tests.command import modpkg as command
from tests.compose import mixtures
from tests.compose.helpers import of_folder
from tests.compose.oracle import close, shake
from tests.raising import raises
from tests.runtime.helpers import SMALL, bert, gpt2, llama

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


IDS = torch.tensor([[3, 4, 5, 6, 7], [9, 8, 3, 2, 4], [5, 5, 6, 7, 2]])


def saved(folder: Path, model: Any, configs: Mapping[str, Any]) -> dict[str, InstalledModule]:
    """Save a model and a trained adapter of each configuration; return them as modules."""
    if not (folder / "base").exists():
        model.save_pretrained(folder / "base")
    modules = {"base": of_folder(folder / "base", "base", "base")}
    for number, (name, config) in enumerate(configs.items()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = type(model).from_pretrained(folder / "base")
            torch.manual_seed(number)
            wrapped = peft.get_peft_model(again, config)
            shake(wrapped)
            if number:
                with torch.no_grad():
                    for parameter in wrapped.parameters():
                        if parameter.requires_grad:
                            parameter.mul_(1 + number / 4)
            wrapped.save_pretrained(folder / name)
        modules[name] = of_folder(folder / name, name, "adapter")
    return modules


def recipe(modules: Mapping[str, InstalledModule], **scales: float) -> Compose:
    """Return the recipe of the base with adapters."""
    steps = []
    for name, scale in scales.items():
        config = peft.PeftConfig.from_pretrained(modules[name].files["adapter_config.json"].parent)
        operator = METHODS[config.peft_type.value].operator
        steps.append(Step(op=operator, module=ModuleName(name), scale=scale))
    return Compose(base=ModuleName("base"), steps=tuple(steps))


def live_of(
    folder: Path, modules: Mapping[str, InstalledModule], **recipes: Mapping[str, float]
) -> LiveModel:
    made = {name: recipe(modules, **scales) for name, scales in recipes.items()}
    return LiveModel("model", parts_of(folder / "base", made, modules))


def fused(folder: Path, modules: Mapping[str, InstalledModule], **scales: float) -> Any:
    composition = plan("model", "1.0", recipe(modules, **scales), modules)
    composed = compose(composition, folder / "store", threads=1)
    return build_model("model", folder / "base", map_tensors(composed.tensors.items()))


def outputs(model: Any, ids: torch.Tensor = IDS, **more: Any) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = ids
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), **more)[0]
    assert isinstance(found, torch.Tensor)
    return found


def test_base_tensors_of_equal_content_are_apart(tmp_path: Path) -> None:
    """The store has them once; here both layers have the weights of one."""
    model = llama()
    model.model.layers[1].load_state_dict(model.model.layers[0].state_dict())
    modules = saved(tmp_path, model, {"one": lora("q_proj", layers_to_transform=[1])})
    parts = parts_of(tmp_path / "base", {"a": recipe(modules, one=1.0)}, modules)
    once = {ref.digest: ref for ref in parts.table.values()}
    table = {name: once[ref.digest] for name, ref in parts.table.items()}
    assert len(once) < len(table)
    live = LiveModel("model", structs.replace(parts, table=table))
    places = [value.data_ptr() for value in live.model.parameters()]
    assert len(set(places)) == len(places)
    close(outputs(live), outputs(fused(tmp_path, modules, one=1.0)))


def squeezed() -> Any:
    """A language model of convolutions."""
    torch.manual_seed(0)
    groups = {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "output")}
    groups["intermediate_groups"] = 1
    config = transformers.SqueezeBertConfig(
        **SMALL, intermediate_size=48, embedding_size=32, max_position_embeddings=64, **groups
    )
    return transformers.SqueezeBertForSequenceClassification(config).eval()


def lora(*targets: str, **options: Any) -> Any:
    return peft.LoraConfig(
        target_modules=list(targets), r=3, lora_alpha=5, init_lora_weights=False, **options
    )


def t5() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=97, **sizes, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config).eval()


QV = ("q_proj", "v_proj")
CASES: dict[str, tuple[Callable[[], Any], Any]] = {
    "lora": (llama, lora(*QV, "down_proj")),
    "rslora": (llama, lora(*QV, use_rslora=True)),
    "dora": (llama, lora(*QV, use_dora=True)),
    "embedding": (llama, lora("embed_tokens", "lm_head")),
    "dora, embedding saved": (llama, lora("embed_tokens", "lm_head", use_dora=True)),
    "hira, embedding saved": (llama, peft.HiraConfig(target_modules=["embed_tokens", "q_proj"],
                                                     r=3, init_weights=False)),
    "Conv1D": (gpt2, lora("c_attn", "c_proj", "c_fc")),
    "positions": (gpt2, lora("wpe")),
    "bias": (bert, lora("query", bias="all")),
    "lora bias": (bert, lora("query", "dense", lora_bias=True)),
    "tokens": (llama, lora("q_proj", trainable_token_indices=[3, 5])),
    "whole modules": (llama, lora("q_proj", modules_to_save=["norm"])),
    "encoder and decoder": (t5, lora("q", "v", "wi", "wo")),
    "convolutions": (squeezed, lora("query", "value")),
    "adalora": (
        llama,
        peft.AdaLoraConfig(
            target_modules=[*QV], init_r=3, target_r=2, total_step=9, init_lora_weights=False
        ),
    ),
    "ia3": (llama, peft.IA3Config(target_modules=["k_proj", "down_proj"],
                                  feedforward_modules=["down_proj"])),
    "ia3 Conv1D": (gpt2, peft.IA3Config(target_modules=["c_attn", "c_proj"],
                                        feedforward_modules=["c_proj"])),
    "loha": (llama, peft.LoHaConfig(target_modules=[*QV], r=3, init_weights=False)),
    "lokr": (llama, peft.LoKrConfig(target_modules=[*QV], r=3, init_weights=False)),
    "oft": (llama, peft.OFTConfig(target_modules=[*QV], oft_block_size=4, r=0,
                                  init_weights=False)),
    "vera": (llama, peft.VeraConfig(target_modules=["q_proj"], r=3, init_weights=False)),
    "norms": (llama, peft.LNTuningConfig(target_modules=["input_layernorm", "norm"])),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_live_equals_fused_and_each_row_uses_its_adapter(case: str, tmp_path: Path) -> None:
    build, config = CASES[case]
    modules = saved(tmp_path, build(), {"one": config, "two": config})
    live = live_of(tmp_path, modules, a={"one": 1.0}, b={"two": 0.5})
    wanted = {name: outputs(fused(tmp_path, modules, **scales)) for name, scales in
              {"a": {"one": 1.0}, "b": {"two": 0.5}, BASE: {}}.items()}  # fmt: skip
    assert live.adapters == ("a", "b", "one", "two")
    assert (wanted["a"] - wanted["b"]).abs().max() > 1e-4
    for name in ("a", "b", BASE, "a"):
        live.set_adapter(name)
        close(outputs(live), wanted[name])
    with live.disable_adapter():
        assert torch.equal(outputs(live), wanted[BASE])
    if case == "positions":
        with raises("M709", match="wpe"):
            outputs(live, adapter_names=["a", "b", BASE])
        close(outputs(live), wanted["a"])
        return
    mixed = outputs(live, adapter_names=["b", BASE, "a"])
    for row, name in enumerate(["b", BASE, "a"]):
        close(mixed[row], wanted[name][row])
    close(outputs(live), wanted["a"])


def test_tensors_that_are_renamed_on_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, num_local_experts=4
    )
    modules = saved(tmp_path, transformers.MixtralForCausalLM(config).eval(), {"one": lora(*QV)})
    live = live_of(tmp_path, modules, a={"one": 1.0})
    close(outputs(live), outputs(fused(tmp_path, modules, one=1.0)))


# Laws ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LiveModel:
    """A base with two LoRAs, and a fine-tuned norm beside one of them."""
    folder = tmp_path_factory.mktemp("pair")
    configs = {"one": lora(*QV), "two": lora("q_proj", "up_proj", modules_to_save=["norm"])}
    modules = saved(folder, llama(), configs)
    return live_of(folder, modules, a={"one": 1.0}, b={"one": 0.5, "two": 1.0})


weights = st.floats(-2, 2).map(lambda value: round(value, 2))


@settings(max_examples=10)
@given(weights, weights)
def test_laws(pair: LiveModel, one: float, two: float) -> None:
    pair.set_adapter(BASE)
    base = outputs(pair)
    state = {name: value.clone() for name, value in pair.model.state_dict().items()}
    pair.set_adapter({"one": one, "two": two})
    mixed = outputs(pair)
    pair.set_adapter({"two": two, "one": one})
    assert torch.equal(outputs(pair), mixed)
    pair.set_adapter({"one": 0.0, "two": 0.0})
    assert torch.equal(outputs(pair), base)
    name = f"minus {one} {two}"
    if name not in pair.adapters:
        pair.add_weighted_adapter(["one", "two"], [-one, -two], name)
    pair.set_adapter({"one": one, "two": two, name: 1.0})
    assert torch.equal(outputs(pair), base)
    pair.set_adapter(BASE)
    after = pair.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in state.items())


@settings(max_examples=10)
@given(st.lists(st.sampled_from([BASE, "a", "b", "one", "two"]), min_size=1, max_size=4))
def test_a_mixed_batch_is_each_row_alone(pair: LiveModel, names: list[str]) -> None:
    pair.set_adapter("b")
    ids = torch.arange(len(names) * 4).view(len(names), 4) % 90
    mixed = outputs(pair, ids, adapter_names=names)
    for row, name in enumerate(names):
        pair.set_adapter(name)
        close(mixed[row : row + 1], outputs(pair, ids[row : row + 1]))


def longformer() -> Any:
    torch.manual_seed(0)
    config = transformers.LongformerConfig(
        **SMALL, intermediate_size=48, attention_window=4, max_position_embeddings=64
    )
    return transformers.LongformerForSequenceClassification(config).eval()


def xlnet() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
    config = transformers.XLNetConfig(vocab_size=97, **sizes)
    return transformers.XLNetForSequenceClassification(config).eval()


def led() -> Any:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "attention_window": 4}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    lengths = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
    config = transformers.LEDConfig(vocab_size=97, **sizes, **layers, **heads, **lengths)
    return transformers.LEDForConditionalGeneration(config).eval()


REGROUPED: dict[str, tuple[Callable[[], Any], tuple[str, ...], tuple[str, ...]]] = {
    "longformer": (longformer, ("query", "value"), ("intermediate.dense",)),
    "xlnet": (xlnet, ("layer_1",), ("summary",)),
    "led": (led, ("longformer_self_attn.query",), ("decoder.layers.0.fc1",)),
}


@pytest.mark.parametrize("name", REGROUPED)
def test_a_network_that_regroups_its_batch_is_refused(name: str, tmp_path: Path) -> None:
    """As many rows as tokens: the shapes do not tell the two apart."""
    build, regrouped, plain = REGROUPED[name]
    ids = torch.arange(16).view(4, 4) + 5
    names = ["a", BASE, "a", "b"]
    for targets in (regrouped, plain):
        modules = saved(
            tmp_path / targets[0], build(), {"one": lora(*targets), "two": lora(*targets)}
        )
        live = live_of(tmp_path / targets[0], modules, a={"one": 1.0}, b={"two": 1.0})
        alike = outputs(live, ids, adapter_names=["b"] * 4)
        live.set_adapter("b")
        close(alike, outputs(live, ids))
        if targets is regrouped:
            with raises("M709", match="may not have the batch as first dimension"):
                outputs(live, ids, adapter_names=names)
            continue
        mixed = outputs(live, ids, adapter_names=names)
        for row, adapter in enumerate(names):
            live.set_adapter(adapter)
            close(mixed[row], outputs(live, ids)[row])


def generated(model: Any, ids: torch.Tensor, names: Sequence[str] | None, **options: Any) -> Any:
    more = {} if names is None else {"adapter_names": names}
    mask = torch.ones_like(ids)
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None,
        pad_token_id=0, **options, **more,
    ).tolist()  # fmt: skip


@pytest.mark.parametrize("build", [llama, t5])
@pytest.mark.parametrize("beams", [1, 3])
def test_generating_row_by_row(build: Any, beams: int, tmp_path: Path) -> None:
    targets = QV if build is llama else ("q", "v", "wo")
    config = peft.LoraConfig(target_modules=[*targets], r=4, lora_alpha=40,
                             init_lora_weights=False)  # fmt: skip
    modules = saved(tmp_path, build(), {"one": config, "two": config})
    live = live_of(tmp_path, modules, a={"one": 1.0}, b={"two": 1.0})
    names = ["b", BASE, "a"]
    options = {"num_beams": beams}
    mixed = generated(live, IDS, names, **options)
    alone = []
    for row, name in enumerate(names):
        live.set_adapter(name)
        alone += generated(live, IDS[row : row + 1], None, **options)
    assert mixed == alone
    assert len({tuple(row[-6:]) for row in mixed}) > 1


def test_rows_equal_pefts(pair: LiveModel, tmp_path: Path) -> None:
    modules = saved(tmp_path, llama(), {"one": lora(*QV), "two": lora(*QV)})
    live = live_of(tmp_path, modules, a={"one": 1.0}, b={"two": 1.0})
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "one", adapter_name="one").eval()
    theirs.load_adapter(tmp_path / "two", adapter_name="two")
    names = ["two", BASE, "one"]
    close(outputs(live, adapter_names=names), outputs(theirs, adapter_names=names))
    for name in ("two", "one"):
        theirs.set_adapter(name)
        live.set_adapter(name)
        assert torch.equal(outputs(live), outputs(theirs))
    theirs.add_weighted_adapter(["one", "two"], [0.75, 0.5], "both", combination_type="cat")
    theirs.set_adapter("both")
    live.add_weighted_adapter(["one", "two"], [0.75, 0.5], "both")
    live.set_adapter("both")
    close(outputs(live), outputs(theirs))


def test_the_base_is_mapped_and_nothing_is_copied(tmp_path: Path) -> None:
    modules = saved(tmp_path, llama(), {"one": lora(*QV)})
    live, other = (live_of(tmp_path, modules, a={"one": 1.0}) for _ in range(2))
    before = {name: p.data_ptr() for name, p in live.model.named_parameters()}
    outputs(live)
    live.set_adapter(BASE)
    assert before == {name: p.data_ptr() for name, p in live.model.named_parameters()}
    maps = Path("/proc/self/maps").read_text()
    file = os.path.realpath(tmp_path / "base" / "model.safetensors")
    assert maps.count(f"{file}\n") >= 2
    assert other.adapters == live.adapters


def test_converting_the_model_converts_its_adapters(pair: LiveModel, tmp_path: Path) -> None:
    modules = saved(tmp_path, llama(), {"one": lora("q_proj", modules_to_save=["norm"])})
    live = live_of(tmp_path, modules, a={"one": 1.0})
    wanted = outputs(live)
    assert torch.allclose(outputs(live.double()).float(), wanted, atol=1e-5)
    assert torch.allclose(outputs(live.float()), wanted, atol=1e-5)
    live.set_adapter(BASE)
    assert (outputs(live) - wanted).abs().max() > 1e-3
    assert outputs(live.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("case", ["lora", "Conv1D", "adalora", "bias", "encoder and decoder"])
def test_as_on_an_accelerator(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, config = CASES[case]
    if case == "bias":
        config = lora("query", "key", "value")
    modules = saved(tmp_path, build(), {"one": config, "two": config})
    live = live_of(tmp_path, modules, a={"one": 1.0}, b={"one": 0.7, "two": 0.5})
    wanted = []
    for name in ("a", "b", BASE):
        live.set_adapter(name)
        wanted.append(outputs(live))
    for module in (adapted_module, live_module):
        monkeypatch.setattr(module, "is_fused", lambda device: True)
    live.cpu()
    names = [[each.name.split(".")[-1] for each in found.modules] for found in live.siblings]
    expected = {"Conv1D": [], "bias": ["query", "key", "value"], "encoder and decoder": ["q", "v"]}
    assert names == [expected.get(case, ["q_proj", "v_proj"])] * len(names)
    assert bool(names) == (case != "Conv1D")
    monkeypatch.setattr(live_module, "STACKED", 1)  # what a choice held is made again
    for _ in range(2):
        for name, output in zip(("a", "b", BASE), wanted, strict=True):
            live.set_adapter(name)
            close(outputs(live), output)
    mixed = outputs(live, adapter_names=["b", BASE, "a"])
    for row, output in enumerate((wanted[1], wanted[2], wanted[0])):
        close(mixed[row], output[row])


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0].rstrip("_") in ("mm", "addmm", "bmm", "baddbmm")
        return func(*args, **(kwargs or {}))


def test_adapters_of_siblings_take_three_products_on_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama()
    modules = saved(tmp_path, model, {"one": lora("q_proj", "v_proj", "gate_proj", "up_proj")})
    live = live_of(tmp_path, modules, a={"one": 1.0}, b={"one": 0.5})
    for module in (adapted_module, live_module):
        monkeypatch.setattr(module, "is_fused", lambda device: True)
    live.cpu()
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():  # what modules run is made in inference mode
        rows = live.generate(IDS[:2], adapter_names=["a", BASE], **options)
    assert not rows.is_inference()
    for row, name in enumerate(("a", BASE)):
        live.set_adapter(name)
        alone = live.generate(IDS[row : row + 1], **options)
        assert torch.equal(alone[0], rows[row])
    kept = live.generate(IDS, return_dict_in_generate=True, output_scores=True, **options)
    assert not kept.scores[0].is_inference()
    live.set_adapter("a")
    counts = []
    for names in (None, ["a", BASE, "b"]):
        embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()
        live(inputs_embeds=embedded, adapter_names=names).logits.sum().backward()
        assert embedded.grad is not None
        assert embedded.grad.isfinite().all()
        with torch.no_grad(), Products() as products:
            live(input_ids=IDS, adapter_names=names)
        counts.append(products.count)
    with torch.no_grad(), Products() as products:
        model(input_ids=IDS)
    layers = model.config.num_hidden_layers
    assert counts == [products.count + 2 * layers] * 2


def test_switching_touches_no_module(pair: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "b", BASE):
        pair.set_adapter(name)
        outputs(pair)
    calls: list[str] = []
    for method in ("effect", "run_of"):

        def call(self: Any, *_: Any, method: str = method) -> Any:
            calls.append(method)
            raise AssertionError

        monkeypatch.setattr(adapted_module.AdaptedModule, method, call)
    for name in ("one", BASE, "one"):
        pair.set_adapter(name)
        outputs(pair)
    assert not calls


def test_layers_beyond_the_bound_of_stacks_are_computed_adapter_by_adapter(
    pair: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", BASE, "one"]
    wanted = outputs(pair, adapter_names=names)
    pair.set_adapter("a")
    monkeypatch.setattr(low_rank, "STACKED", 0)
    close(outputs(pair, adapter_names=names), wanted)
    pair.set_adapter("a")


# Refusals -----------------------------------------------------------------------------------


def test_adapters_that_cannot_be_set(pair: LiveModel) -> None:
    for choose, message in (
        (lambda: pair.set_adapter("three"), "there are __base__, a, b, one, two"),
        (lambda: pair.add_weighted_adapter(["one"], [1.0], "two"), "already exists"),
        (lambda: pair.add_weighted_adapter(["one"], [1.0, 2.0], "x"), "1 and its weights 2"),
        (lambda: outputs(pair, adapter_names=["a"]), "rows of the batch: 3, names of adapters: 1"),
        (lambda: pair(adapter_names=["a"]), "no batch"),
        (lambda: outputs(pair, adapter_names=["a", "b", "c"]), "'c'"),
        (lambda: pair(input_ids=IDS[:1], pixel_values=IDS, adapter_names=["a"]), "pixel_values"),
    ):
        with raises("M709", match=message):
            choose()
    assert not hasattr(pair, "no_such_thing")


SETS = (None, 3, b"a", ["a", None], [["a"]], ["a", "a"], torch.tensor(1.0), "", {None: 1.0})
NOT_WEIGHTS = ("1", None, 10**400, 10**9000, math.nan, -math.inf, 1j, [1.0], torch.ones(2))
MIXTURES = (
    *(("a", [1.0], "q"), ({"a": 1.0}, [1.0], "q"), (["a"], "1", "q"), (["a"], 1.0, "q")),
    *((["a"], {1.0: 2}, "q"), ([], [], "q"), (["a"], [1.0], ""), (["a"], [1.0], None)),
    *(([None], [1.0], "q"), (None, [1.0], "q"), (["a"], [1.0], ["q"])),
    *((["a", "a"], [1e308, 1e308], "q"), (["b"], [1.7e308], {})),
)
ROWS = ("aba", {"a": 0.5}, {"a", "b"}, 3, [["a"], "b", "a"], [{"a": 0.5}, "a", "b"], [None] * 3)


@pytest.mark.parametrize("of", ["set", "weights", "mixture", "rows"])
def test_what_is_no_choice_of_adapters(of: str, pair: LiveModel) -> None:
    pair.set_adapter({"a": 0.5})
    before = outputs(pair)

    def refused(choose: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        with raises("M709"):
            choose(*args, **kwargs)

    refused(copy.deepcopy, pair)
    refused(pickle.dumps, pair)
    if of == "set":
        for given in SETS:
            refused(pair.set_adapter, given)
    elif of == "weights":
        for given in NOT_WEIGHTS:
            refused(pair.set_adapter, {"a": given})
            refused(pair.add_weighted_adapter, ["a"], [given], "q")
    elif of == "mixture":
        for mixture in MIXTURES:
            refused(pair.add_weighted_adapter, *mixture)
    else:
        for rows in ROWS:
            refused(outputs, pair, adapter_names=rows)
        names = ["a", BASE, "a"]
        assert torch.equal(
            outputs(pair, adapter_names=iter(names)), outputs(pair, adapter_names=names)
        )
    assert (pair.active, "q" in pair.adapters) == ({"a": 0.5}, False)
    assert torch.equal(outputs(pair), before)


def test_models_that_cannot_be_live(tmp_path: Path) -> None:
    ia3 = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    modules = saved(tmp_path, llama(), {"one": lora("k_proj"), "ia3": ia3})
    live = live_of(tmp_path, modules, a={"one": 1.0}, b={"ia3": 1.0})
    with raises("M708", match=r"'ia3' multiplies 'model\.layers\.0"):
        live.set_adapter(["a", "b"])
    one = recipe(modules, one=1.0)
    for other, message in (
        (Compose(base=one.base, steps=one.steps, method="ties"), "'ties'"),
        (Compose(base=one.base, steps=one.steps, dtype="bfloat16"), "converts"),
    ):
        with raises("M708", match=message):
            parts_of(tmp_path / "base", {"x": other}, modules)
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    for name, edit, message in (
        ("more", {"surplus": torch.ones(2)}, "'surplus'"),
        ("moved", {"model.norm.weight": torch.zeros(32)}, r"'model\.norm\.weight'"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        save_file({**tensors, **edit}, folder / "model.safetensors")
        (folder / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
        modules[name] = of_folder(folder, name, "base")
        with raises("M708", match=message):
            parts_of(folder, {"a": one, "x": Compose(base=ModuleName(name))}, modules)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    other = of_folder(tmp_path / "base", "other", "base")
    modules["other"] = type(other)(
        **{key: getattr(other, key) for key in other.__struct_fields__ if key != "files"},
        files={"config.json": folder / "config.json"},
    )
    with raises("M708", match="'architectures' in its config.json differs"):
        parts_of(folder, {"a": one, "x": Compose(base=ModuleName("other"))}, modules)


def test_copies_and_buffers_that_make_no_difference_are_one_base(tmp_path: Path) -> None:
    model = llama(tie_word_embeddings=True)
    modules = saved(tmp_path, model, {"one": lora("k_proj")})
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    twin = tmp_path / "twin"
    twin.mkdir()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, twin / "model.safetensors")
    (twin / "config.json").write_bytes((tmp_path / "base" / "config.json").read_bytes())
    modules["twin"] = of_folder(twin, "twin", "base")
    one, other = recipe(modules, one=1.0), Compose(base=ModuleName("twin"))
    parts = parts_of(tmp_path / "base", {"a": one, "x": other}, modules)
    assert "lm_head.weight" not in parts.table


def test_experts_that_transformers_joins(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SMALL, intermediate_size=48, num_key_value_heads=2, num_local_experts=4
    )
    adapter = lora("q_proj", target_parameters=["experts.down_proj"])
    modules = saved(tmp_path, transformers.MixtralForCausalLM(config).eval(), {"one": adapter})
    with raises("M708", match=r"experts\.0\.w2.*joined"):
        live_of(tmp_path, modules, a={"one": 1.0})


def test_a_mixture_of_experts(tmp_path: Path) -> None:
    base = mixtures.dense(tmp_path, "llama")
    experts = [
        mixtures.expert(tmp_path, base, name, seed, gate=seed)
        for seed, name in enumerate(("one", "two"))
    ]
    steps = [mixtures.step("expert", module.name) for module in experts]
    steps.append(mixtures.step("router", base.name, {"gates": "vectors"}))
    modules = {module.name: module for module in (base, *experts)}
    mixture = Compose(base=ModuleName(base.name), steps=tuple(steps))
    with raises("M708", match="mixture of experts"):
        parts_of(tmp_path, {"x": mixture}, modules)


# Installed ----------------------------------------------------------------------------------


def test_installed_models_of_one_base(home: Path, tmp_path: Path) -> None:
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    text = '[app]\nname = "x"\n[dependencies]\ntalker = ">=2"\ntiny = "*"\ntiny-lora = "*"\n'
    text += '[models.loud]\nbase = "tiny"\nsteps = [{op = "lora", module = "tiny-lora", scale = 3}]'
    Path("modpkg.toml").write_text(text)
    command("install")
    names = ["talker", "loud", "tiny"]
    live = modpkg.load(names, live=True)
    assert live.adapters == ("talker", "loud", "tiny", "tiny-lora")
    ids = torch.tensor([[3, 4, 5]])
    for name in names:
        live.set_adapter(name)
        close(outputs(live, ids), outputs(modpkg.load(name), ids))
    assert modpkg.load("loud", live=True).active == {"loud": 1.0}
    with pytest.raises(TypeError, match="live=True"):
        modpkg.load(names)  # type: ignore[call-overload]
