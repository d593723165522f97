"""Recipes written as mergekit's YAML: read again, they are the same; else they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec import structs

from modpkg.compose.reducers import find_reducer
from modpkg.core.names import module_name
from modpkg.core.packs import PackTensor
from modpkg.environment.install import compose_models
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.interop.mergekit import MergeRecipe
from modpkg.interop.mergekit_experts import EXPERTS, MixtureRecipe
from modpkg.interop.mergekit_export import RecipeModel, export_mergekit, recipe_of_mergekit
from modpkg.interop.mergekit_methods import METHODS
from modpkg.manifest.normal import manifest_text, normal_form
from modpkg.manifest.read import parse_manifest
from modpkg.manifest.schema import Compose
from tests import tiny
from tests.command import modpkg_json
from tests.modules import write_module
from tests.raising import raises

COMPOSE = Path(__file__).parents[1] / "compose" / "mergekit"
RECIPES = sorted([*COMPOSE.glob("recipes/*.yml"), *COMPOSE.glob("vocabularies/*.yml")])


def read(data: dict[str, Any]) -> Compose:
    """Return what mergekit's recipe is in a manifest."""
    kind = MixtureRecipe if EXPERTS in data else MergeRecipe
    text = kind(Path("/nowhere/recipe.yml"), data).manifest("m", "1.0", "MIT")
    found = parse_manifest(text, Path("modpkg.toml")).compose
    assert found is not None
    return found


def composed(text: str) -> Compose:
    """Return the recipe of a manifest."""
    names = "".join(f'{name} = "*"\n' for name in ("a", "b", "c"))
    head = '[module]\nname = "m"\nversion = "1.0"\nkind = "model"\nlicense = "MIT"\n'
    text = f"{head}[dependencies]\n{names}[compose]\n{text}"
    found = parse_manifest(text, Path("modpkg.toml")).compose
    assert found is not None
    return found


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_mergekit_ran_comes_back(path: Path) -> None:
    recipe = read(yaml.safe_load(path.read_text()))
    written = recipe_of_mergekit("m", recipe)
    assert read(written) == recipe
    assert _models(written) == {f"./{module}" for module in recipe.modules()}


def _models(written: Any, key: str = "") -> set[str]:
    """Return the models that a recipe names."""
    if isinstance(written, dict):
        return set().union(*(_models(value, key) for key, value in written.items()))
    if isinstance(written, list):
        return set().union(*(_models(value) for value in written))
    return {written} if key in ("model", "base_model", "source_model") else set()


SETTINGS: dict[type, list[Any]] = {
    bool: [True, False, [{"filter": "mlp", "value": True}, {"value": False}]],
    int: [3],
    float: [0.5, [0.25, 0.75], [{"filter": "mlp", "value": [0.1, 0.2]}, {"value": 0.3}]],
    str: [],
}


@pytest.mark.parametrize("written", METHODS)
def test_every_parameter_of_every_method_comes_back(written: str) -> None:
    method = METHODS[written]
    reducer = find_reducer(method.name, "m")
    one = {"t": 0.5} if "t" in method.shared else {}
    scopes: list[tuple[dict[str, Any], dict[str, Any]]] = [(one, {})]
    for theirs, ours in {**method.shared, **method.each}.items():
        for value in SETTINGS[reducer.parameters[ours].type]:
            shared = theirs in method.shared
            scopes.append((one | {theirs: value}, {}) if shared else (one, {theirs: value}))
    for common, own in scopes:
        weight = {"weight": [0.25, 0.5]} if method.weighted and written != "passthrough" else {}
        names = ["a"] if written == "passthrough" else ["a", "b"]
        models = [{"model": name, "parameters": weight | own} for name in names]
        data: dict[str, Any] = {"merge_method": written, "models": models, "parameters": common}
        if method.needs_base:
            data |= {"base_model": "a", "models": models[1:]}
        recipe = read(data)
        assert read(recipe_of_mergekit("m", recipe)) == recipe, (common, own)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ('base = "a"\nsteps = [{ op = "dense", module = "b" }]',
         'base = "a"\nmethod = "task-arithmetic"\nsteps = [{ op = "dense", module = "b" }]'),
        ('base = "a"\nmethod = "mean"\nsteps = [{ op = "dense", module = "b" }]',
         'base = "a"\nmethod = "linear"\nparameters = { base_weight = 1.0 }\n'
         'steps = [{ op = "dense", module = "b" }]'),
        ('base = "a"\nmethod = "ties-mergekit"\nparameters = { density = 0.3, lambda = 2.0 }\n'
         'steps = [{ op = "dense", module = "b" }]',
         'base = "a"\nmethod = "ties-mergekit"\nparameters = { lambda = 2.0 }\n'
         'steps = [{ op = "dense", module = "b", parameters = { density = 0.3 } }]'),
    ],
)  # fmt: skip
def test_one_recipe_has_several_spellings(mine: str, theirs: str) -> None:
    assert read(recipe_of_mergekit("m", composed(mine))) == composed(theirs)


STEP = 'base = "a"\nsteps = [{ op = "dense", module = "b"'


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ('base = "a"\nsteps = [{ op = "lora", module = "b" }]', "mergekit merges models"),
        (f'{STEP} }}]\nmethod = "fisher"', "mergekit has no 'fisher'; it has arcee_fusion, "),
        (f'{STEP} }}]\nmethod = "ram-plus"', "ram-plus'; its relative there is ramplus_tl"),
        (f'{STEP} }}]\nmethod = "arcee-fusion"', "makes float32 of every dtype"),
        (f'{STEP} }}]\nmethod = "ties"', "its relative there is ties, 'ties-mergekit' here"),
        (f'{STEP} }}]\nmethod = "dare-ties"\nparameters = {{ seed = 4 }}', "has no 'seed'"),
        (f'{STEP} }}]\ntokenizer = "b"', "without its rows"),
        (f"{STEP} }}]\ntie_word_embeddings = false", "tie_word_embeddings"),
        (f'{STEP}, parameters = {{ within = "text." }} }}]', "a part of the tensors"),
        (f'{STEP} }}]\nmethod = "karcher"\nparameters = {{ with_base = false }}', "another recipe"),
        ('base = "a"\nmethod = "slerp"\nlayers = [{ module = "a", range = [0, 2], parameters = '
         '{ t = 0.5 }, steps = [{ op = "dense", module = "b" }], method = "nearswap" }]',
         "one method"),
        ('base = "a"\nlayers = [{ module = "b", tensors = ["model.norm.weight"] }]',
         "without layers"),
        ('base = "a"\nmethod = "passthrough"\nlayers = [{ module = "a", range = [0, 2] }, '
         '{ module = "b", range = [1, 2] }]', "another recipe"),
    ],
)  # fmt: skip
def test_what_mergekit_does_not_say_is_refused(recipe: str, reason: str) -> None:
    with raises("M805", match=reason):
        recipe_of_mergekit("m", composed(recipe))


def test_tensors_outside_of_layers_are_those_of_the_models() -> None:
    recipe = composed(
        'base = "a"\nmethod = "passthrough"\nlayers = [{ module = "a", range = [0, 2] }, '
        '{ module = "b", range = [1, 2], tensors = ["head.weight"] }]'
    )
    with raises("M805", match="in layers"):
        recipe_of_mergekit("m", recipe)
    tensor = PackTensor("F32", (1,), 0, 4)
    known = {"b": RecipeModel(tensors={"embed.weight": tensor, "head.weight": tensor})}
    assert recipe_of_mergekit("m", recipe, known)["slices"][1]["sources"][0]["model"] == "./b"


def test_mixtures_come_back() -> None:
    data = {
        "base_model": "./a",
        "gate_mode": "cheap_embed",
        "experts_per_token": 1,
        "dtype": "bfloat16",
        "experts": [
            {"source_model": "./a", "positive_prompts": ["x", "y\nz"]},
            {"source_model": "./b", "positive_prompts": ["w"], "negative_prompts": ["v"]},
        ],
    }
    recipe = read(data)
    assert recipe_of_mergekit("m", recipe) == data
    with raises("M805", match="mergekit-moe makes one from prompts"):
        recipe_of_mergekit(
            "m",
            composed('base = "a"\nsteps = [{ op = "expert", module = "b" }, '
                     '{ op = "router", module = "c" }]'),
        )  # fmt: skip


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    recipe = composed(f"{STEP} }}]")
    (tmp_path / "r.yml").write_text("mine")
    with raises("M240", match=r"r\.yml"):
        export_mergekit("m", recipe, tmp_path / "r.yml")


def test_the_recipe_of_a_project_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    requires = {"a": "*", "b": "*"}
    compose = f'[compose]\n{STEP}, scale = 0.5 }}]\ndtype = "bfloat16"\n'
    monkeypatch.chdir(write_module(tmp_path / "m", "m", "1.0", "model", requires, compose))
    document = modpkg_json("export", "m", "m.yml", "--recipe", "mergekit")
    assert (document["format"], document["files"]) == ("mergekit", ["m.yml"])
    assert yaml.safe_load(Path("m.yml").read_text()) == {
        "merge_method": "task_arithmetic",
        "base_model": "./a",
        "models": [{"model": "./b", "parameters": {"weight": 0.5}}],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    assert json.dumps(document)


STEPS = 'steps = [{ op = "dense", module = "b", scale = 1.0 }, { op = "dense", module = "c" }]'
SPELLINGS = {
    "sum": f'base = "a"\n{STEPS}',
    "mean": f'base = "a"\nmethod = "mean"\n{STEPS}',
    "soup": f'base = "a"\nmethod = "mean"\nparameters = {{ with_base = false }}\n{STEPS}',
}


def test_spellings_compose_to_the_same_bytes(home: Path, tmp_path: Path) -> None:
    for seed, name in enumerate("abc"):
        folder = tiny.write_base(tmp_path / name, seed=seed)
        text = (folder / "modpkg.toml").read_text()
        (folder / "modpkg.toml").write_text(text.replace('name = "tiny"', f'name = "{name}"'))
        tiny.publish(folder, home / "registry")
    text = '[app]\nname = "app"\n[dependencies]\na = "*"\nb = "*"\nc = "*"\n'
    app = parse_manifest(text, tmp_path / "app" / "modpkg.toml")
    models = {}
    for name, compose in SPELLINGS.items():
        recipe = composed(f'{compose}\ndtype = "bfloat16"')
        models[module_name(name)] = recipe
        models[module_name(f"{name}-again")] = read(recipe_of_mergekit(name, recipe))
    app.path.parent.mkdir()
    app.path.write_text(manifest_text(normal_form(structs.replace(app, models=models))))
    results = compose_models(plan_install(Workspace(Project(app.path)), InstallRequest()))
    assert len({results[name] for name in SPELLINGS}) == len(SPELLINGS)
    assert all(results[name] == results[f"{name}-again"] for name in SPELLINGS)
