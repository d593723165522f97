"""Composed modules within compositions: the bytes are those of composing step by step."""

from __future__ import annotations

import concurrent.futures
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs

from modpkg.compose import memory, work
from modpkg.compose.composition import Composition
from modpkg.compose.executor import ComposedModel, compose
from modpkg.compose.nested import ComposedModule
from modpkg.compose.plan import plan
from modpkg.compose.reducers import REDUCERS, find_reducer
from modpkg.compose.tensor import Job
from modpkg.core.errors import ModpkgError
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.names import ModuleName
from modpkg.core.system_processes import can_fork
from modpkg.core.tree import BlobTree
from modpkg.environment.composed_modules import ModuleGraph
from modpkg.manifest.schema import Compose, Layers, Step
from tests.compose.helpers import adapter, base, module, values
from tests.raising import raises

WIDTH, ROWS, LAYERS = 48, 40, 2
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": LAYERS,
}


def weights(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"model.norm.weight": torch.randn(WIDTH, generator=generator)}
    for layer in range(LAYERS):
        for name in ("q_proj", "up_proj"):
            values = torch.randn(ROWS, WIDTH, generator=generator)
            tensors[f"model.layers.{layer}.{name}.weight"] = values
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, InstalledModule]:
    """A base, two fine-tunes, and a LoRA of one tensor in each layer."""
    generator = torch.Generator().manual_seed(7)
    pairs = {
        f"model.layers.{layer}.q_proj": (
            torch.randn(2, WIDTH, generator=generator),
            torch.randn(ROWS, 2, generator=generator),
        )
        for layer in range(LAYERS)
    }
    return {
        "base": base(tmp_path, weights(1), num_hidden_layers=LAYERS),
        "one": module(tmp_path, "one", "base", weights(2), config=CONFIG),
        "two": module(tmp_path, "two", "base", weights(3), config=CONFIG),
        "lora": adapter(tmp_path, "lora", pairs),
    }


def step(op: str, name: str, scale: float = 1.0, **parameters: Any) -> Step:
    return Step(op=op, module=ModuleName(name), scale=scale, parameters=parameters)


def recipe(on: str, *steps: Step, method: str = "sum", **parameters: Any) -> Compose:
    return Compose(base=ModuleName(on), method=method, parameters=parameters, steps=steps)


def model(like: InstalledModule, name: str) -> InstalledModule:
    """Return a module without weights, as the release of a recipe is."""
    return structs.replace(like, name=name, kind="model", tensors={}, files={})


def nested(
    modules: Mapping[str, InstalledModule], recipes: Mapping[str, Compose], folder: Path
) -> Composition:
    """Return the plan of the last recipe, of which the others are modules."""
    stored = {**modules, **{name: model(modules["base"], name) for name in recipes}}
    graph = ModuleGraph(stored, recipes, BlobTree(folder / "nested"))
    found = graph[next(reversed(recipes))]
    assert isinstance(found, ComposedModule)
    return found.composition


def step_by_step(
    modules: Mapping[str, InstalledModule], recipes: Mapping[str, Compose], folder: Path
) -> ComposedModel:
    """Compose each recipe into weights, and use these as a base's in the following ones."""
    known = dict(modules)
    for name, each in recipes.items():
        composed = compose(plan(name, "1", each, known), folder / "steps")
        known[name] = structs.replace(modules["base"], name=name, tensors=composed.tensors)
    return composed


MERGES = {
    "sum": {},
    "task-arithmetic": {"lambda": 0.7},
    "linear": {},
    "mean": {},
    "ties": {},
    "ties-mergekit": {"density": 0.4},
    "dare-ties": {"density": 0.5, "seed": 3.0},
    "della": {"density": 0.5, "epsilon": 0.1, "seed": 3.0},
    "sce": {"select_topk": 0.5},
    "ram": {},
    "ram-plus": {},
    "karcher": {},
    "multislerp": {},
    "model-stock": {},
    "breadcrumbs": {"density": 0.8, "gamma": 0.05},
}


@pytest.mark.parametrize("method", MERGES)
def test_three_deep_is_what_step_by_step_gives(
    modules: dict[str, InstalledModule], tmp_path: Path, method: str
) -> None:
    scales = (0.6, 0.3) if find_reducer(method, "").weighted else (1.0, 1.0)
    merged = {"method": method, **MERGES[method]}
    recipes = {
        "m1": recipe("base", step("lora", "lora", 0.5)),
        "m2": recipe(
            "m1", step("dense", "one", scales[0]), step("dense", "two", scales[1]), **merged
        ),
        "m3": recipe(
            "two", step("dense", "m2", scales[0]), step("dense", "m1", scales[1]), **merged
        ),
    }
    composition = nested(modules, recipes, tmp_path)
    expected = step_by_step(modules, recipes, tmp_path)
    composed = compose(composition, tmp_path / "store")
    assert composed.result == expected.result
    assert composition.key != expected.key  # inner tensors are named by what they are made of
    written = {path.name for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert written == {"composed.json", "weights.safetensors"}


def test_slerp_of_composed_modules(modules: dict[str, InstalledModule], tmp_path: Path) -> None:
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "m2": recipe("m1", step("dense", "one"), method="slerp", t=0.3),
        "m3": recipe("m2", step("dense", "m1"), step("dense", "two"), method="nuslerp"),
    }
    composed = compose(nested(modules, recipes, tmp_path), tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


def test_an_adapter_and_layers_of_composed_modules(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    runs = (
        Layers(module=ModuleName("m1"), range=(0, 2)),
        Layers(module=ModuleName("m2"), range=(0, 1), scale=0.5),
    )
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "m2": recipe("m1", step("lora", "lora", -0.25)),
        "m3": Compose(base=ModuleName("m1"), method="passthrough", layers=runs),
    }
    composition = nested(modules, recipes, tmp_path)
    assert composition.config["num_hidden_layers"] == 3
    composed = compose(composition, tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


@pytest.mark.parametrize(
    ("method", "scales"),
    [("sum", (1.0, -1.0)), ("sum", (0.1, 0.2)), ("linear", (0.1, 0.2)), ("mean", (1.0, 1.0))],
)
def test_modules_that_turn_out_to_be_equal_count_as_one(
    modules: dict[str, InstalledModule], tmp_path: Path, method: str, scales: tuple[float, float]
) -> None:
    tensors = {name: tensor.where(tensor > 0, -0.0) for name, tensor in weights(1).items()}
    modules = {**modules, "base": base(tmp_path / "zeros", tensors, num_hidden_layers=LAYERS)}
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "same": recipe("m1", step("dense", "m1", 0.5), method="linear"),
        "last": recipe(
            "base", step("dense", "m1", scales[0]), step("dense", "same", scales[1]), method=method
        ),
    }
    composed = compose(nested(modules, recipes, tmp_path), tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


def test_merged_layers_of_composed_modules(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    """A merge is the base of a run and is merged into another; a LoRA acts on the layers."""
    merged = (step("dense", "m1", 0.5), step("dense", "two", 0.25))
    runs = (
        Layers(module=ModuleName("m1"), range=(0, 2), steps=(step("dense", "two"),)),
        Layers(
            module=ModuleName("one"),
            range=(1, 2),
            steps=merged,
            method="ties-mergekit",
            parameters={"density": 0.5},
            tensors=("model.norm.weight",),
        ),
    )
    recipes = {
        "m1": recipe("base", step("dense", "one", 0.3), step("dense", "two", 0.4)),
        "m2": Compose(base=ModuleName("m1"), method="slerp", parameters={"t": 0.25}, layers=runs),
        "m3": recipe("m2", step("lora", "lora", 0.5)),
    }
    composition = nested(modules, recipes, tmp_path)
    assert composition.config["num_hidden_layers"] == 3
    found = compose(composition, tmp_path / "nested")
    assert found.result == step_by_step(modules, recipes, tmp_path).result


@pytest.mark.parametrize("method", ["ties-mergekit", "dare-linear", "linear"])
def test_a_tensor_under_another_name_has_the_values_of_its_own(
    modules: dict[str, InstalledModule], tmp_path: Path, method: str
) -> None:
    modules = {**modules, "one": rounded(modules["one"], tmp_path)}
    runs = tuple(Layers(module=ModuleName("m1"), range=(k, k + 1)) for k in (1, 0))
    density = {} if method == "linear" else {"density": 0.3}
    recipes = {
        "m1": recipe("base", step("dense", "one"), method=method, **density),
        "m2": Compose(base=ModuleName("m1"), layers=runs),
    }
    composition = nested(modules, recipes, tmp_path)
    assert bool(composition.inner) == (method != "linear")
    composed = compose(composition, tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


def rounded(fine_tune: InstalledModule, folder: Path) -> InstalledModule:
    """Return a module of small integers, of which many have the same magnitude."""
    tensors = {name: tensor.round() for name, tensor in values(fine_tune.tensors).items()}
    return module(folder, f"{fine_tune.name}-r", "base", tensors, config=CONFIG)


def test_what_is_stored_of_an_inner_result_is_read(
    modules: dict[str, InstalledModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "m2": recipe("m1", step("dense", "one"), method="ties"),
        "m3": recipe("m2", step("dense", "two", 0.5)),
    }
    composition = nested(modules, recipes, tmp_path)
    first = compose(composition, tmp_path / "one")
    compose(
        nested(modules, {name: recipes[name] for name in ("m1", "m2")}, tmp_path), tmp_path / "two"
    )
    monkeypatch.setattr("modpkg.compose.unfolding._made", None)  # nothing is computed for it
    second = compose(composition, tmp_path / "two")
    assert (first.key, first.result) == (second.key, second.result)


def test_a_tensor_that_an_outer_recipe_keeps_is_computed_once(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "m2": recipe("m1"),
    }
    outer = nested(modules, recipes, tmp_path)
    inner = nested(modules, {"m1": recipes["m1"]}, tmp_path)
    assert outer.key == inner.key
    assert not outer.inner
    assert not outer.parts


@pytest.mark.skipif(not can_fork(), reason="only Linux has these processes")
def test_processes_and_executors_give_the_same(
    modules: dict[str, InstalledModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "m2": recipe("m1", step("dense", "one"), step("dense", "two"), method="ties-mergekit"),
        "m3": recipe("m2", step("dense", "m1"), method="dare-linear", density=0.5),
    }
    composition = nested(modules, recipes, tmp_path)
    expected = compose(composition, tmp_path / "threads", threads=2).result
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert compose(composition, tmp_path / "pool", executor=pool).result == expected
    by_torch = compose(composition, tmp_path / "torch", device="cpu-torch")
    assert by_torch.result == expected
    monkeypatch.setattr(memory, "PROCESS_OUTPUT", 1)
    sent: list[bool] = []
    whether = work.can_be_sent
    monkeypatch.setattr(work, "can_be_sent", lambda jobs: sent.append(whether(jobs)) or sent[-1])
    assert memory.process_count(composition, 4) == 4
    assert compose(composition, tmp_path / "processes", threads=4).result == expected
    assert sent == [True]


def test_large_tensors_are_divided_with_what_they_are_computed_from(
    modules: dict[str, InstalledModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = {
        "m1": recipe("base", step("lora", "lora")),
        "m2": recipe("m1", step("dense", "one"), method="slerp", t=0.4),
        "m3": recipe("m2", step("dense", "m1"), step("dense", "two", 0.5)),
    }
    composition = nested(modules, recipes, tmp_path)
    expected = compose(composition, tmp_path / "one", threads=1).result
    divided = work.parts_of
    parts: list[str] = []

    def counted(job: Job, share: int) -> list[work.RowRange]:
        found = divided(job, 0)
        parts.extend([job.model] * len(found))
        return found

    monkeypatch.setattr(work, "parts_of", counted)
    monkeypatch.setattr(work, "is_large", lambda job, share: not job.device)
    monkeypatch.setattr(work, "BLOCK_ELEMENTS", 120)
    monkeypatch.setattr(work, "_PART_BYTES", 240)
    assert compose(composition, tmp_path / "parts", threads=3).result == expected
    assert {name: parts.count(name) > 4 for name in ("m1", "m2", "m3")} == {
        "m1": True,
        "m2": False,  # slerp measures the whole tensor
        "m3": True,
    }
    bad = nested(
        modules,
        {
            "m1": recipe("base", step("lora", "lora", 1e38)),
            "m2": recipe("m1", step("dense", "one")),
        },
        tmp_path,
    )
    with raises("M605", match="m1"):
        compose(bad, tmp_path / "bad", threads=3)
    assert not [path for path in (tmp_path / "bad").rglob("*") if path.is_file()]


def test_memory_and_disk_are_of_single_tensors(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    recipes = {"m1": recipe("base", step("lora", "lora"))}
    one = memory.peak_bytes(nested(modules, recipes, tmp_path), 2)
    for number in range(2, 9):
        recipes[f"m{number}"] = recipe(f"m{number - 1}", step("dense", "one", 0.1))
    deep = nested(modules, recipes, tmp_path)
    assert memory.peak_bytes(deep, 2) < 2 * one
    composed = compose(deep, tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


def test_an_unusable_value_names_the_module_that_gives_it(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    recipes = {
        "m1": recipe("base", step("lora", "lora", 1e38)),
        "m2": recipe("m1", step("dense", "one", 0.5)),
    }
    with raises("M605", match="m1.*q_proj"):
        compose(nested(modules, recipes, tmp_path), tmp_path / "store")
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_virtual_tokens_are_for_the_last_recipe_only(
    modules: dict[str, InstalledModule], tmp_path: Path
) -> None:
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    config |= {"token_dim": WIDTH, "num_layers": LAYERS}
    tokens = {"prompt_embeddings": torch.ones(3, WIDTH)}
    modules["soft"] = module(tmp_path, "soft", "adapter", tokens, adapter_config=config)
    recipes = {"m1": recipe("base", step("prompt", "soft"))}
    assert plan("m1", "1", recipes["m1"], modules).prompt is not None
    with raises("M221", match="m1 reads the virtual tokens of soft"):
        nested(modules, {**recipes, "m2": recipe("m1", step("dense", "one"))}, tmp_path)


@pytest.mark.parametrize("method", ["slerp", "linear"])
def test_tied_tensors_of_a_composed_base_are_tied(
    modules: dict[str, InstalledModule], tmp_path: Path, method: str
) -> None:
    names = ("model.embed_tokens.weight", "lm_head.weight")
    config = {**CONFIG, "tie_word_embeddings": True}
    for number, name in enumerate(("base", "one")):
        embedding = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(number))
        tensors = weights(number) | {each: embedding.bfloat16().clone() for each in names}
        modules[name] = module(tmp_path / "tied", name, "base", tensors, config=config)
    pair = torch.randn(2, WIDTH), torch.randn(ROWS, 2)
    modules["head"] = adapter(
        tmp_path,
        "head",
        {
            "model.embed_tokens": (torch.randn(2, ROWS), torch.randn(WIDTH, 2)),
            "model.layers.0.q_proj": pair,
        },
    )
    t = {"t": 0.4} if method == "slerp" else {}
    recipes = {
        "m1": recipe("base", step("dense", "one"), method=method, **t),
        "m2": recipe("m1", step("lora", "head")),
    }
    for way in (nested, step_by_step):
        with raises("M606", match="the base's output layer shares that tensor"):
            way(modules, recipes, tmp_path)


def patch_of(
    folder: Path, base: Mapping[str, TensorRef], name: str, whole: str, removed: str
) -> InstalledModule:
    """Return a patch that replaces one tensor, and removes another."""
    values = torch.ones(ROWS, WIDTH, dtype=torch.bfloat16)
    made = module(folder, name, "patch", {whole: values})
    record = {
        "base": "m1",
        "version": "1.0",
        "tensors": {
            whole: {
                "digest": made.tensors[whole].digest,
                "was": base[whole].digest,
                "inputs": {"whole": whole},
            }
        },
        "removed": {removed: base[removed].digest},
    }
    return module(folder, name, "patch", {whole: values}, patch=record)


@pytest.mark.parametrize("other", ["", "q_proj", "up_proj"])
def test_a_patch_is_for_the_values_that_its_base_is_composed_to(
    modules: dict[str, InstalledModule], tmp_path: Path, other: str
) -> None:
    """Also where nothing is computed from these, and where another module has the same tensors."""
    whole, removed = "model.layers.0.q_proj.weight", "model.layers.1.up_proj.weight"
    recipes = {"m1": recipe("base", step("lora", "lora"), step("dense", "one", 0.5))}
    right = compose(nested(modules, recipes, tmp_path), tmp_path / "right").tensors
    modules["patch"] = patch_of(tmp_path, right, "patch", whole, removed)
    if other:
        changed = {name: t * 2 if other in name else t for name, t in weights(2).items()}
        modules["one"] = module(tmp_path / "other", "one", "base", changed, config=CONFIG)
    recipes["m2"] = recipe("m1", step("patch", "patch"))
    recipes["m3"] = recipe("m2", step("lora", "late"))
    pair = {"model.layers.1.q_proj": (torch.ones(2, WIDTH), torch.ones(ROWS, 2))}
    modules["late"] = adapter(tmp_path, "late", pair)
    for last in ("m2", "m3"):
        some = {name: each for name, each in recipes.items() if name <= last}
        composition = nested(modules, some, tmp_path)
        if other:
            with raises("M731", match="patch"):
                compose(composition, tmp_path / last)
        else:
            assert removed not in compose(composition, tmp_path / last).tensors
    if other:  # what is stored of the base is compared too
        compose(nested(modules, {"m1": recipes["m1"]}, tmp_path), tmp_path / "stored")
        with raises("M731", match="patch"):
            compose(nested(modules, recipes, tmp_path), tmp_path / "stored")


@pytest.mark.parametrize("method", ["ties", "ram-plus"])
def test_what_is_measured_over_a_model_is_so_for_a_part_of_it(
    modules: dict[str, InstalledModule], tmp_path: Path, method: str
) -> None:
    runs = tuple(Layers(module=ModuleName(name), range=(1, 2)) for name in ("m2", "base"))
    recipes = {
        "m1": recipe("one", step("dense", "two"), step("dense", "base"), method=method),
        "m2": recipe("m1", step("dense", "base"), step("dense", "one"), method=method),
        "m3": Compose(base=ModuleName("one"), layers=runs),
    }
    composed = compose(nested(modules, recipes, tmp_path), tmp_path / "store")
    assert composed.result == step_by_step(modules, recipes, tmp_path).result


SETTINGS = {
    "slerp": {"t": 0.3},
    "nearswap": {"t": 0.1},
    "della": {"density": 0.5, "epsilon": 0.1},
    "della-linear": {"density": 0.5, "epsilon": 0.1},
    "passthrough": {"scale": 0.5},
}


def random_recipe(draw: random.Random, names: list[str]) -> Compose:
    """Return a recipe by a random method, of random modules."""
    method = draw.choice(sorted(REDUCERS))
    least, most = REDUCERS[method].steps
    count = 2 if method == "nuslerp" else draw.randint(least, min(most or 3, 3))
    steps = []
    for _ in range(count):
        scale = draw.choice([1.0, 0.5, 0.3, -0.25]) if REDUCERS[method].weighted else 1.0
        adapts = draw.random() < 0.25
        name = "lora" if adapts else draw.choice(names)
        steps.append(step("lora" if adapts else "dense", name, scale))
    return recipe(draw.choice(names[-3:]), *steps, method=method, **SETTINGS.get(method, {}))


@pytest.mark.parametrize("seed", range(12))
def test_random_recipes_of_recipes(
    modules: dict[str, InstalledModule], tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    names = ["base", "one", "two"]
    recipes = {}
    for number in range(draw.randint(2, 5)):
        recipes[f"m{number}"] = random_recipe(draw, names)
        names.append(f"m{number}")
    try:
        expected = step_by_step(modules, recipes, tmp_path).result
    except ModpkgError as error:
        with raises(error.code):
            for number in range(1, len(recipes) + 1):
                some = dict(list(recipes.items())[:number])
                compose(nested(modules, some, tmp_path), tmp_path / "store")
        return
    composition = nested(modules, recipes, tmp_path)
    assert compose(composition, tmp_path / "store", threads=2).result == expected
    first = dict(list(recipes.items())[: draw.randint(1, len(recipes) - 1)])
    compose(nested(modules, first, tmp_path), tmp_path / "partly")
    assert compose(composition, tmp_path / "partly").result == expected
