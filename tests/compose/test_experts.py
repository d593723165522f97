"""Mixtures of experts: what they compute, which tensors they share, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modpkg.compose.executor import compose
from modpkg.compose.memory import peak_bytes
from modpkg.core.names import ModuleName
from modpkg.manifest.schema import Step
from tests.compose.helpers import adapter, module, raw, values
from tests.compose.mixtures import (
    UNIFORM,
    block,
    dense,
    expert,
    logits,
    mixed,
    opened,
    renamed,
    router,
    saved,
    step,
    vectors,
)
from tests.raising import raises

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 500000.0}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama-head-dim": ("llama", {"head_dim": 6, "rms_norm_eps": 1e-3}),
    "llama-gelu": ("llama", {"hidden_act": "gelu"}),
    "mistral": ("mistral", {}),
    "mistral-sliding": ("mistral", {"sliding_window": 3}),
    "mistral-full": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3-bias": ("qwen3", {"head_dim": 8, "attention_bias": True}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_experts_compute_the_dense_model_whatever_the_router(
    tmp_path: Path, name: str
) -> None:
    kind, config = ARCHITECTURES[name]
    base = dense(tmp_path, kind, **config)
    copies = [renamed(module(tmp_path, e, "expert", block(base)), e) for e in ("one", "two")]
    experts = [base, *copies]
    gates = router(tmp_path, base, "base", "one", "two")
    folder = saved(mixed(base, experts, gates), tmp_path)
    expected = logits(tmp_path / "base")
    torch.testing.assert_close(logits(folder), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_defaults_of_the_dense_architecture_are_written_out(tmp_path: Path, kind: str) -> None:
    """The two architectures have different defaults: norms, rotary embeddings, heads, windows."""
    base = dense(tmp_path, kind, **({"head_dim": 128} if kind == "qwen3" else {}))
    path = tmp_path / "base" / "config.json"
    config = json.loads(path.read_text())
    for key in ("rms_norm_eps", "rope_parameters", "rope_theta", "sliding_window", "head_dim"):
        config.pop(key, None)
    path.write_text(json.dumps(config))
    composition = mixed(base, [base])
    torch.testing.assert_close(
        logits(saved(composition, tmp_path)), logits(tmp_path / "base"), rtol=1e-5, atol=2e-6
    )


@pytest.mark.filterwarnings("ignore")
def test_defaults_are_those_of_transformers() -> None:
    import transformers

    from modpkg.compose.mixture import DENSE

    for kind, known in DENSE.items():
        own = transformers.AutoConfig.for_model(kind)
        other = transformers.AutoConfig.for_model(known.into.kind)
        ignored = {"model_type", "layer_types", "rope_parameters", "transformers_version"}
        ignored |= {"sliding_window"} if "use_sliding_window" in known.only else set()
        for key, value in own.to_dict().items():
            if key in ignored or key in known.only or not hasattr(other, key):
                continue
            if getattr(other, key) != value and key != "head_dim":
                fixed = {**known.defaults, **known.fixed}
                assert key in fixed, (kind, key)
                assert fixed[key] in (value, None), (kind, key)
        assert own.rope_parameters["rope_theta"] == 10000.0


@pytest.mark.filterwarnings("ignore")
def test_experts_with_equal_rows_have_equal_weight(tmp_path: Path) -> None:
    """Equal rows: both experts are asked, and each counts half."""
    base = dense(tmp_path)
    one, two = expert(tmp_path, base, "one", 1), expert(tmp_path, base, "two", 2)
    uniform = saved(mixed(base, [one]), tmp_path / "alone")
    rows = {name: tensor[:1].repeat(2, 1) for name, tensor in vectors(base, 3, 2).items()}
    gates = module(tmp_path, "router", "expert", rows, router={"experts": ["two", "one"]})
    both = mixed(base, [one, two], gates, parameters={"experts_per_token": 2.0})
    halves = opened(saved(both, tmp_path / "both"))
    layer = halves.model.layers[0].mlp
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1))
    own = opened(uniform).model.layers[0].mlp
    other = opened(saved(mixed(base, [two]), tmp_path / "other")).model.layers[0].mlp
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), (own(x) + other(x)) / 2, rtol=1e-5, atol=1e-6)


def test_one_expert_is_the_dense_model_with_its_blocks(tmp_path: Path) -> None:
    base = dense(tmp_path)
    one = expert(tmp_path, base, "one", 1)
    composition = mixed(base, [one])
    assert composition.config["num_experts_per_tok"] == 1
    composed = compose(composition, tmp_path / "store")
    found = values(composed.tensors)
    for name, tensor in block(base, 1).items():
        prefix, part = name.removesuffix(".weight").split("mlp.")
        disk = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}[part]
        assert torch.equal(found[f"{prefix}block_sparse_moe.experts.0.{disk}.weight"], tensor)
        assert name not in found


# What is shared --------------------------------------------------------------------------------


def test_adding_an_expert_adds_its_tensors_and_the_routers(tmp_path: Path) -> None:
    base = dense(tmp_path)
    one, two, three = (expert(tmp_path, base, n, s) for n, s in zip("abc", (1, 2, 3), strict=True))
    store = tmp_path / "store"
    before = mixed(base, [one, two])
    after = mixed(base, [one, two, three])
    rows = 3 * 16 * 4  # layers · hidden · float32
    assert sum(g.shape[0] for g in after.routers.values()) * 16 * 4 == 3 * rows
    for composition, experts in ((before, 2), (after, 3)):
        assert composition.computed == {}
        compose(composition, store)
        pack = composition.folder(store) / "weights.safetensors"
        written = sum(raw_length(g.shape) for g in composition.routers.values())
        assert written == experts * rows
        assert pack.stat().st_size - written < 1000  # the header
        assert composition.bytes_to_write(store) == 0
    shared = {name: ref for name, ref in after.kept.items() if before.kept.get(name) == ref}
    new = after.kept.keys() - shared.keys()
    assert shared.keys() == before.kept.keys()
    assert {after.kept[name].file for name in new} == {str(tmp_path / "c" / "w.safetensors")}
    assert sum(after.kept[name].length for name in new) == 3 * 3 * 16 * 24 * 4


def raw_length(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1] * 4


def test_adding_an_expert_keeps_the_other_rows(tmp_path: Path) -> None:
    base = dense(tmp_path)
    experts = [expert(tmp_path, base, name, s, gate=s) for name, s in (("a", 1), ("b", 2))]
    three = expert(tmp_path, base, "c", 3, gate=3)
    gates = {"gates": "vectors"}
    before = compose(mixed(base, [base, *experts], gates), tmp_path / "store")
    after = compose(mixed(base, [base, *experts, three], gates), tmp_path / "store")
    for name in mixed(base, [base, *experts], gates).routers:
        assert raw(after.tensors[name]).startswith(raw(before.tensors[name]))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_removing_an_expert_restores_the_bytes_without_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("drop")
    base = dense(folder)
    names = ["a", "b", "c", "d"]
    made = {n: expert(folder, base, n, s, gate=s) for s, n in enumerate(names, 1)}
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=2, unique=True))
    dropped = data.draw(st.sampled_from(chosen))
    rest = [made[name] for name in chosen if name != dropped]
    compose(mixed(base, [made[name] for name in chosen], {"gates": "vectors"}), folder / "store")
    after = compose(mixed(base, rest, {"gates": "vectors"}), folder / "store")
    never = compose(mixed(base, rest, {"gates": "vectors"}), folder / "fresh")
    assert (after.key, after.result) == (never.key, never.result)
    assert {n: raw(r) for n, r in after.tensors.items()} == {
        n: raw(r) for n, r in never.tensors.items()
    }
    routed = router(folder, base, *names)
    drop = {"others": "drop"}
    left = dict.fromkeys(names, drop)  # the experts' own vectors
    one = mixed(base, rest, routed, parameters=drop, prompts=left)
    few = {n: t[[names.index(e.name) for e in rest]] for n, t in vectors(base, 9, 4).items()}
    files = {"router": {"experts": [e.name for e in rest]}}
    two = mixed(base, rest, module(folder, "few", "expert", few, **files), prompts=left)
    assert compose(one, folder / "store").result == compose(two, folder / "fresh").result


def test_an_adapter_on_the_attention_composes_with_experts(tmp_path: Path) -> None:
    base = dense(tmp_path)
    one = expert(tmp_path, base, "one", 1)
    path = "model.layers.0.self_attn.q_proj"
    lora = adapter(tmp_path, "lora", {path: (torch.ones(2, 16), torch.ones(16, 2))})
    more = [step("lora", "lora")]
    composition = mixed(base, [one, base], UNIFORM, more=more, modules=[lora])
    assert list(composition.computed) == [f"{path}.weight"]
    found = values(compose(composition, tmp_path / "store").tensors)
    own = values(base.tensors)[f"{path}.weight"]
    torch.testing.assert_close(found[f"{path}.weight"], own + 4.0)
    assert peak_bytes(composition, 1) > 0
    wrong = adapter(tmp_path, "mlp", {"model.layers.0.mlp.up_proj": (torch.ones(2, 16), torch.ones(24, 2))})  # fmt: skip  # noqa: E501
    with raises("M601", match="which another step replaces"):
        mixed(base, [one, base], UNIFORM, more=[step("lora", "mlp")], modules=[wrong])


def test_the_recipes_dtype_applies_to_routers(tmp_path: Path) -> None:
    base = dense(tmp_path)
    composition = mixed(base, [expert(tmp_path, base, "one", 1, gate=4)], {"gates": "vectors"}, dtype="bfloat16")  # fmt: skip  # noqa: E501
    found = values(compose(composition, tmp_path / "store").tensors)
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    gate = "model.layers.1.block_sparse_moe.gate.weight"
    assert torch.equal(found[gate], vectors(base, 4)[gate].bfloat16())


# Wrong use -------------------------------------------------------------------------------------


def test_missing_and_extra_tensors_of_an_expert_are_named(tmp_path: Path) -> None:
    base = dense(tmp_path)
    whole = block(base, 1)
    name = "model.layers.2.mlp.down_proj.weight"
    few = module(tmp_path, "few", "expert", {k: t for k, t in whole.items() if k != name})
    with raises("M608", match=name.replace(".", r"\.")):
        mixed(base, [few])
    wide = module(tmp_path, "wide", "expert", {**whole, name: torch.zeros(16, 25)})
    with raises("M604", match=r"\[16, 25\].*\[16, 24\]"):
        mixed(base, [wide])
    deep = {**whole, "model.layers.3.mlp.up_proj.weight": torch.zeros(24, 16)}
    with raises("M208", match=r"model\.layers\.3\.mlp\.up_proj"):
        mixed(base, [module(tmp_path, "deep", "expert", deep)])
    some = {k: t for k, t in vectors(base, 1).items() if ".1." not in k}
    with raises("M608", match=r"layers\.1\.block_sparse_moe\.gate"):
        mixed(base, [module(tmp_path, "some", "expert", {**whole, **some})], {"gates": "vectors"})
    thin = {k: t[:, :8] for k, t in vectors(base, 1).items()}
    with raises("M604", match="gate"):
        mixed(base, [module(tmp_path, "thin", "expert", {**whole, **thin})], {"gates": "vectors"})


def test_a_whole_model_as_an_expert_needs_others_drop(tmp_path: Path) -> None:
    base = dense(tmp_path)
    tuned = {k: t + 0.5 for k, t in values(base.tensors).items()}
    other = module(tmp_path, "tuned", "base", tuned, config={})
    with raises("M609", match=r"tuned has 'lm_head\.weight'.*others"):
        mixed(base, [other, base])
    drop = {"tuned": {"others": "drop"}}
    composition = mixed(base, [other, base], prompts=drop)
    kept = composition.kept
    assert kept["model.norm.weight"] == base.tensors["model.norm.weight"]
    up = "model.layers.0.block_sparse_moe.experts.0.w3.weight"
    assert kept[up] == other.tensors["model.layers.0.mlp.up_proj.weight"]
    # where only the blocks differ, there is nothing to say
    half = {k: t + 0.5 * (".mlp." in k) for k, t in values(base.tensors).items()}
    mixed(base, [module(tmp_path, "half", "base", half, config={}), base])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"experts_per_token": 3.0}, "experts_per_token is 3, and has to be from 1 to 2"),
        ({"experts_per_token": 0.0}, "must be at least 1"),
        ({"experts_per_token": 1.5}, "must be an integer"),
        ({"experts_per_token": 1.0}, "does not distinguish experts"),
        ({"gates": "hiden"}, "'hiden', but must be 'hidden'"),
        ({"gates": "vectors"}, "one has none"),
        ({"gates": "hidden"}, "one has no prompts"),
        ({"others": "keep"}, "must be 'drop'"),
        ({"density": 1.0}, "no parameter 'density'"),
    ],
)
def test_invalid_router_parameters(tmp_path: Path, parameters: Any, message: str) -> None:
    base = dense(tmp_path)
    experts = [expert(tmp_path, base, "one", 1), base]
    with raises("M601", "M609", match=message):
        mixed(base, experts, {"gates": "uniform", **parameters})


def test_invalid_steps_of_a_mixture(tmp_path: Path) -> None:
    base = dense(tmp_path)
    one = expert(tmp_path, base, "one", 1, gate=1)
    plain = expert(tmp_path, base, "plain", 2)
    with raises("M609", match="has one as an expert twice"):
        mixed(base, [one, one], {"gates": "vectors"})
    with raises("M609", match="which the router does not use"):
        mixed(base, [one, base])
    with raises("M609", match="it has a router and no expert"):
        mixed(base, [])
    with raises("M609", match="has prompts, which its router does not use"):
        mixed(base, [plain], prompts={"plain": {"prompts": "x"}})
    with raises("M609", match="it has 2 routers"):
        mixed(base, [plain], more=[step("router", "base", UNIFORM)])
    scaled = Step(op="expert", module=ModuleName("plain"), scale=0.5)
    with raises("M609", match="has scale or replace"):
        mixed(base, [base], more=[scaled], modules=[plain])
    routed = router(tmp_path, base, "one", "plain")
    with raises("M609", match="router is a router, not an expert"):
        mixed(base, [routed])
    with raises("M609", match="one is not a router: it has no router.json"):
        mixed(base, [plain], one)


def test_a_router_for_other_experts(tmp_path: Path) -> None:
    base = dense(tmp_path)
    experts = [expert(tmp_path, base, name, s) for name, s in (("a", 1), ("b", 2))]
    with raises("M609", match="no row for b; it is for a, c"):
        mixed(base, experts, router(tmp_path, base, "a", "c"))
    routed = router(tmp_path / "2", base, "b", "x", "a")
    with raises("M609", match="a row for x, which is not one of its experts"):
        mixed(base, experts, routed)
    found = mixed(base, experts, routed, parameters={"others": "drop"})
    gate = "model.layers.0.block_sparse_moe.gate.weight"
    rows = values(compose(found, tmp_path / "store").tensors)[gate]
    assert torch.equal(rows, vectors(base, 9, 3)[gate][[2, 0]])
    with raises("M609", match="gates needs the base"):
        mixed(base, experts, routed, parameters=UNIFORM)
    shape = module(tmp_path, "r", "expert", vectors(base, 1, 3), router={"experts": ["a", "b"]})
    with raises("M604"):
        mixed(base, experts, shape)
    for number, text in enumerate(({"experts": ["a", "a"]}, {"experts": []}, {"rows": 3}, {})):
        broken = module(tmp_path, f"r{number}", "expert", vectors(base, 1, 2), router=text)
        with raises("M209", match="each name once"):
            mixed(base, experts, broken)


def test_nan_in_a_row_is_refused_while_composing(tmp_path: Path) -> None:
    base = dense(tmp_path)
    rows = vectors(base, 1, 2)
    rows["model.layers.1.block_sparse_moe.gate.weight"][1, 3] = float("nan")
    routed = module(tmp_path, "router", "expert", rows, router={"experts": ["base", "one"]})
    one = expert(tmp_path, base, "one", 1)
    store = tmp_path / "store"
    with raises("M605", match=r"model\.layers\.1\.block_sparse_moe\.gate"):
        compose(mixed(base, [base, one], routed), store)
    assert not list(store.rglob("*.safetensors"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("gpt2", {}, "architecture is 'gpt2'"),
        ("llama", {"attention_bias": True}, "attention_bias = True"),
        ("llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
        ("llama", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("llama", {"layer_types": 5}, "layer_types"),
        ("llama", {"architectures": {"a": 1}}, "names the architectures"),
        ("llama", {"architectures": ["MistralForCausalLM"]}, "names the architectures"),
        ("llama", {"num_hidden_layers": 4}, "another number of layers"),
        (["llama"], {}, r"architecture is \['llama'\]"),
    ],
)
def test_a_base_that_cannot_become_a_mixture_exactly(
    tmp_path: Path, kind: Any, config: dict[str, Any], message: str
) -> None:
    base = dense(tmp_path, "llama")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config, "model_type": kind}))
    with raises("M609", match=message):
        mixed(base, [base])


def test_a_tensor_without_counterpart_is_named(tmp_path: Path) -> None:
    made = dense(tmp_path)
    extra = "model.layers.1.self_attn.q_proj.bias"
    tensors = {**values(made.tensors), extra: torch.zeros(16)}
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    base = module(tmp_path / "2", "base", "base", tensors, config=config)
    with raises("M609", match=r"layers\.1\.self_attn\.q_proj\.bias.*no place"):
        mixed(base, [base])
