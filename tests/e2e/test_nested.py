"""Merges of merges, from modules that are published to a model that is installed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from modpkg.community.modules.project import build_project
from modpkg.community.modules.reference import view_of_folder
from modpkg.core.names import parse_requirement
from modpkg.environment.first_load import compose_at_load
from modpkg.environment.install import Installation, install
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.project import Project, find_project
from modpkg.environment.workspace import Workspace
from modpkg.interop.hf import export_hf
from modpkg.interop.mergekit import import_mergekit
from modpkg.manifest.read import read_manifest
from modpkg.release.patched import read_patch
from modpkg.resolve.lock import read_lock
from modpkg.runtime.live_parts import find_adapters, find_parts
from tests import tiny
from tests.command import modpkg, modpkg_json
from tests.modules import write_module
from tests.raising import raises


def write_merge(
    folder: Path, name: str, compose: str, *requires: str, version: str = "1.0", more: str = ""
) -> Path:
    ranges = dict.fromkeys(requires, ">=1")
    return write_module(folder, name, version, "model", ranges, f"[compose]\n{compose}\n{more}")


def dense(*names: str) -> str:
    return ", ".join(f'{{ op = "dense", module = "{name}", scale = 0.5 }}' for name in names)


Q, EMBEDDING = "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"
RECIPES = {
    "talker": 'base = "tiny"\nsteps = [{ op = "lora", module = "tiny-lora" }]',
    "second": f'base = "talker"\nmethod = "ties-mergekit"\nsteps = [{dense("other", "tiny")}]',
    "third": f'base = "other"\nmethod = "linear"\nsteps = [{dense("second", "talker")}]',
}
"""A base with a LoRA; a merge of that one and a fine-tune; and a merge of the two."""
PARTS = {
    "talker": ("tiny", "tiny-lora"),
    "second": ("talker", "other", "tiny"),
    "third": ("other", "second", "talker"),
}


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """The embedded registry, with three recipes, each of the one before."""
    projects, registry = tmp_path / "projects", home / "registry"
    tiny.publish(tiny.write_base(projects / "tiny"), registry)
    tiny.publish(tiny.write_adapter(projects / "lora"), registry)
    other = tiny.write_base(projects / "other", seed=5)
    text = (other / "modpkg.toml").read_text()
    (other / "modpkg.toml").write_text(text.replace('name = "tiny"', 'name = "other"'))
    tiny.publish(other, registry)
    for name, compose in RECIPES.items():
        tiny.publish(write_merge(projects / name, name, compose, *PARTS[name]), registry)
    return registry


def app(folder: Path, text: str) -> Project:
    folder.mkdir(exist_ok=True)
    (folder / "modpkg.toml").write_text(f'[app]\nname = "app"\n{text}')
    return Project(folder / "modpkg.toml")


def installed(project: Project | None = None, *names: str) -> Installation:
    request = InstallRequest(add=[parse_requirement(name) for name in names])
    return install(Workspace(project or find_project()), request)


def result(project: Project, name: str) -> str:
    lock = read_lock(project.lock_path)
    assert lock is not None
    return next(each.result for each in lock.composed if each.model == name)


def test_three_deep_is_one_install(registry: Path, tmp_path: Path) -> None:
    project = app(tmp_path / "nested", '[dependencies]\nthird = "*"\n')
    done = installed(project)
    lock = read_lock(project.lock_path)
    assert lock is not None
    assert sorted(m.name for m in lock.module) == [
        "other",
        "second",
        "talker",
        "third",
        "tiny",
        "tiny-lora",
    ]
    assert [each.model for each in lock.composed] == ["third"]
    model = Workspace(project).environment.model("third")
    assert model.modules == {
        "other": "1.0", "second": "1.0", "talker": "1.0", "tiny": "1.0", "tiny-lora": "1.0",
    }  # fmt: skip
    composed = list((tmp_path / "home").rglob("composed.json"))
    assert len(composed) == 1  # neither inner result is written
    assert {licence.name for licence in done.plan.licences} == {m.name for m in lock.module}
    assert result(project, "third") == by_steps(RECIPES, PARTS, registry, tmp_path)


def by_steps(
    recipes: Mapping[str, str], parts: Mapping[str, Sequence[str]], registry: Path, tmp_path: Path
) -> str:
    """Install, export and publish each as a base of its own weights; return the last result."""
    weights: list[str] = []
    for name, compose in recipes.items():
        own = {part: f"{part}-w" if part in weights else part for part in parts[name]}
        for part in weights:
            compose = compose.replace(f'"{part}"', f'"{part}-w"')
        needed = "".join(f'{part} = "*"\n' for part in own.values())
        text = f"[dependencies]\n{needed}[models.{name}-s]\n{compose}\n"
        project = app(tmp_path / f"step-{name}", text)
        installed(project)
        environment = Workspace(project).environment
        folder = environment.folder(1) / "models" / f"{name}-s"
        out = tmp_path / f"weights-{name}"
        export_hf(folder, environment.packs, out)
        files = {each: (out / each).read_bytes() for each in ("config.json", "model.safetensors")}
        base = write_module(tmp_path / f"base-{name}", f"{name}-w", "1.0", "base", files=files)
        tiny.publish(base, registry)
        weights.append(name)
    return result(project, f"{name}-s")


REAL = {
    "first": 'base = "smollm2-135m"\nsteps = [{ op = "lora", module = "summarize-lora" }]',
    "cut": 'base = "first"\nlayers = [{ module = "first", range = [0, 2] }]',
    "plain": 'base = "smollm2-135m"\nlayers = [{ module = "smollm2-135m", range = [5, 7] }]',
    "last": 'base = "plain"\nmethod = "task-arithmetic"\n'
    'steps = [{ op = "dense", module = "cut", scale = 0.3 }]',
}
REAL_PARTS = {
    "first": ("smollm2-135m", "summarize-lora"),
    "cut": ("first",),
    "plain": ("smollm2-135m",),
    "last": ("plain", "cut"),
}


def test_real_weights_three_deep(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge of two layers each of SmolLM2, and of SmolLM2 with its LoRA."""
    registry = tmp_path / "registry"
    shutil.copytree(examples, registry, copy_function=os.link)
    monkeypatch.setenv("MODPKG_REGISTRY", str(registry))
    for name, compose in REAL.items():
        tiny.publish(
            write_merge(tmp_path / "real" / name, name, compose, *REAL_PARTS[name]), registry
        )
    project = app(tmp_path / "nested", '[dependencies]\nlast = "*"\n')
    installed(project)
    assert len(list((tmp_path / "home").rglob("composed.json"))) == 1
    assert result(project, "last") == by_steps(REAL, REAL_PARTS, registry, tmp_path)


def test_models_share_what_they_are_made_of(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = app(tmp_path / "alone", '[dependencies]\nthird = "*"\n')
    installed(alone)
    shutil.rmtree(tmp_path / "home" / "store")
    project = app(tmp_path / "all", '[dependencies]\nthird = "*"\nsecond = "*"\ntalker = "*"\n')
    monkeypatch.setattr("modpkg.compose.unfolding._made", None)  # nothing is computed twice
    installed(project)
    one, two = read_lock(project.lock_path), read_lock(alone.lock_path)
    assert one is not None
    assert two is not None
    assert one.composed[-1] == two.composed[0]  # whether inner results are stored changes nothing


def test_a_nested_model_that_is_composed_at_its_first_load(registry: Path, tmp_path: Path) -> None:
    project = app(
        tmp_path / "late", '[dependencies]\nthird = { version = "*", compose-at = "load" }\n'
    )
    installed(project)
    workspace = Workspace(project)
    assert workspace.environment.model("third").result is None
    compose_at_load(workspace, 1, "third")
    again = app(tmp_path / "now", '[dependencies]\nthird = "*"\n')
    installed(again)
    assert workspace.environment.model("third").result == result(again, "third")


def test_releases_with_a_recipe_are_compared(registry: Path, tmp_path: Path) -> None:
    found = modpkg_json("diff", "tiny==1.0", "talker==1.0")
    changed = [each["name"] for each in found["tensors"] if each["status"] == "changed"]
    assert len(changed) == 4
    assert Q in changed


def test_what_is_written_for_a_while_is_planned_for(registry: Path, tmp_path: Path) -> None:
    plan = plan_install(
        Workspace(app(tmp_path / "a", '[dependencies]\nthird = "*"\n')), InstallRequest()
    )
    largest = max(item.length for item in plan.compositions["third"].computed.values())
    assert largest <= plan.scratch <= plan.disk - plan.compose_bytes
    plain = plan_install(
        Workspace(app(tmp_path / "b", '[dependencies]\ntalker = "*"\n')), InstallRequest()
    )
    assert plain.scratch == 0


def test_a_live_model_whose_base_is_an_assembly(registry: Path, tmp_path: Path) -> None:
    project = app(
        tmp_path / "live",
        '[dependencies]\ntalker = "*"\ntiny-lora = "*"\n[models.twice]\nbase = "talker"\n'
        'steps = [{ op = "lora", module = "tiny-lora", scale = 0.5 }]\n',
    )
    installed(project)
    parts = find_parts(["twice"], Workspace(project))
    assert set(parts.changes) == {"twice", "tiny-lora"}
    inner = Workspace(project).environment.model("talker").tensors
    assert {n: ref.digest for n, ref in parts.table.items()} == {
        n: ref.digest for n, ref in inner.items()
    }


def test_one_version_of_a_part_for_all(registry: Path, tmp_path: Path) -> None:
    old = tmp_path / "projects" / "pinned"
    write_module(
        old, "pinned", "1.0", "model", {"talker": ">=1", "tiny": ">=2"},
        '[compose]\nbase = "talker"\nsteps = [{ op = "dense", module = "tiny" }]\n',
    )  # fmt: skip
    write_merge(tmp_path / "t", "talker", RECIPES["talker"], "tiny-lora", version="2.0")
    manifest = (tmp_path / "t" / "modpkg.toml").read_text()
    (tmp_path / "t" / "modpkg.toml").write_text(
        manifest.replace("[dependencies]\n", '[dependencies]\ntiny = "<2"\n')
    )
    tiny.publish(tmp_path / "t", registry)
    tiny.publish(tiny.write_base(tmp_path / "tiny-2", "2.0", seed=9), registry)
    tiny.publish(old, registry)
    project = app(tmp_path / "one", '[dependencies]\npinned = "*"\ntalker = ">=2"\n')
    with raises("M401", match="tiny"):
        installed(project)


def test_a_module_that_is_composed_of_itself_is_refused(registry: Path, tmp_path: Path) -> None:
    recipe = f'base = "tiny"\nsteps = [{dense("third")}]'
    project = app(tmp_path / "cycle", '[dependencies]\nthird = "*"\n')
    tiny.publish(
        write_merge(tmp_path / "loop", "talker", recipe, "tiny", "third", version="1.1"), registry
    )
    with raises("M219", match="third → second → talker → third"):
        plan_install(Workspace(project), InstallRequest())


def test_a_module_that_is_composed_of_itself_is_not_built(registry: Path, tmp_path: Path) -> None:
    recipe = f'base = "tiny"\nsteps = [{dense("third")}]'
    folder = write_merge(tmp_path / "loop", "talker", recipe, "tiny", "third", version="1.1")
    with raises("M235", match="talker is composed of itself: talker → third"):
        build_project(Workspace(Project(folder / "modpkg.toml")), tmp_path / "dist")


def test_modules_nested_too_deep_are_refused(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modpkg.environment.models.COMPOSED_DEPTH", 1)
    project = app(tmp_path / "deep", '[dependencies]\nthird = "*"\n')
    with raises("M218", match="more than 1 deep, as talker is"):
        plan_install(Workspace(project), InstallRequest())


def test_a_recipe_of_mergekit_with_a_lora(registry: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yml").write_text(
        "merge_method: ties\nbase_model: tiny\nparameters: {density: 0.5, weight: 0.5}\n"
        "models: [{model: tiny+tiny-lora}, {model: other}]\n"
    )
    import_mergekit(tmp_path / "recipe.yml", tmp_path / "merged", "merged", "1.0", license="MIT")
    for folder in (tmp_path / "merged" / "parts" / "tiny-tiny-lora", tmp_path / "merged"):
        tiny.publish(folder, registry)
    project = app(tmp_path / "from-recipe", '[dependencies]\nmerged = "*"\n')
    installed(project)
    own = {
        "one": RECIPES["talker"],
        "two": 'base = "tiny"\nmethod = "ties-mergekit"\nparameters = { density = 0.5 }\n'
        f"steps = [{dense('one', 'other')}]",
    }
    parts = {"one": PARTS["talker"], "two": ("tiny", "one", "other")}
    assert result(project, "merged") == by_steps(own, parts, registry, tmp_path)


# Patches and merges of composed modules ---------------------------------------------------------


@pytest.fixture
def copy(registry: Path, tmp_path: Path) -> Path:
    """A fine-tuned copy of what ``second`` is composed to: a few values are others."""
    project = app(tmp_path / "whole", '[dependencies]\nsecond = "*"\n')
    installed(project)
    environment = Workspace(project).environment
    folder = environment.folder(1) / "models" / "second"
    export_hf(folder, environment.packs, tmp_path / "copy")
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    tensors[Q][0, :2] += 0.5
    tensors[EMBEDDING] = tensors[EMBEDDING][:30].contiguous()  # tokens without a use are cut
    save_file(tensors, tmp_path / "copy" / "model.safetensors")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"vocab_size": 30}))
    return tmp_path / "copy"


def test_a_patch_of_a_composed_module(registry: Path, tmp_path: Path, copy: Path) -> None:
    modpkg("patch", "create", copy, "--base", "second==1.0", "--out", tmp_path / "fix")
    manifest = read_manifest(tmp_path / "fix" / "modpkg.toml")
    pins = [str(dependency.requirement) for dependency in manifest.dependencies]
    assert pins[0] == "second==1.0"
    assert {"tiny==1.0", "tiny-lora==1.0", "talker==1.0", "other==1.0"} == set(pins[1:])
    record = read_patch(tmp_path / "fix" / "patch.json", "fix")
    assert record.tensors[EMBEDDING].first == 30
    built = modpkg_json("build", "--json", tmp_path / "fix")
    assert list(built["expects"]) == ["second"]
    modpkg("publish", tmp_path / "fix")
    project = app(tmp_path / "fixed", '[dependencies]\ncopy-patch = "*"\n')
    done = installed(project)
    assert [fit.drift.exact for fit in done.plan.fits if fit.base == "second"] == [True]
    compose_at_load(Workspace(project), 1, "copy-patch")
    model = Workspace(project).environment.model("copy-patch")
    wanted = view_of_folder(str(copy), Workspace(project).progress).tensors
    assert {n: ref.digest for n, ref in model.tensors.items()} == {
        n: ref.digest for n, ref in wanted.items()
    }
    modpkg(
        "patch", "apply", "copy-patch==1.0.0", "--base", "second==1.0", "--out", tmp_path / "again"
    )
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == load_file(copy / "model.safetensors").keys()
    assert again[Q].equal(load_file(copy / "model.safetensors")[Q])


def test_a_patch_of_a_composed_module_of_other_parts(
    registry: Path, tmp_path: Path, copy: Path
) -> None:
    modpkg("patch", "create", copy, "--base", "second==1.0", "--out", tmp_path / "fix")
    modpkg("build", tmp_path / "fix")
    modpkg("publish", tmp_path / "fix")
    tiny.publish(tiny.write_adapter(tmp_path / "newer", "2.0", seed=8), registry)
    project = app(
        tmp_path / "other-parts",
        '[dependencies]\ncopy-patch = "*"\nsecond = "*"\n[overrides]\ntiny-lora = "==2.0"\n'
        '[models.mine]\nbase = "second"\nsteps = [{ op = "patch", module = "copy-patch" }]\n',
    )
    plan = plan_install(Workspace(project), InstallRequest())
    (fit,) = [fit for fit in plan.fits if fit.base == "second"]
    assert fit.drift.ports == ("tiny-lora",)
    with raises("M731", match="copy-patch"):
        installed(project)


def test_merging_copies_of_a_composed_module(registry: Path, tmp_path: Path, copy: Path) -> None:
    other = tmp_path / "other-copy"
    shutil.copytree(copy, other)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] += 1.0
    save_file(tensors, other / "model.safetensors")
    merged = tmp_path / "merged"
    modpkg("merge", copy, other, "--base", "second==1.0", "--out", merged)
    manifest = read_manifest(merged / "modpkg.toml")
    assert manifest.module is not None
    assert (manifest.module.kind, manifest.compose) == ("base", None)
    assert {origin.name for origin in manifest.origins} >= {"second", "tiny", "tiny-lora", "other"}
    found = load_file(merged / "model.safetensors")
    assert all(found[name].equal(tensors[name]) for name in tensors)
    modpkg("build", merged)
    # a composed release is a parent like any other
    parents = ("talker==1.0", "other==1.0")
    modpkg("merge", *parents, "--base", "tiny==1.0", "--method", "mean", "--out", tmp_path / "mean")


def test_an_adapter_of_a_composed_module(registry: Path, tmp_path: Path) -> None:
    folder = tiny.write_adapter(tmp_path / "late", seed=4)
    text = (folder / "modpkg.toml").read_text()
    text = text.replace("tiny-lora", "late-lora").replace('tiny = ">=1"', 'second = ">=1"')
    (folder / "modpkg.toml").write_text(text)
    built = modpkg_json("build", "--json", folder)
    assert list(built["expects"]) == ["second"]
    modpkg("publish", folder)
    project = app(tmp_path / "adapted", '[dependencies]\nlate-lora = "*"\n')
    done = installed(project)
    assert [fit.drift.exact for fit in done.plan.fits if fit.base == "second"] == [True]
    compose_at_load(Workspace(project), 1, "late-lora")
    parts = find_adapters("second", ["late-lora"], Workspace(project))
    assert set(parts.changes) == {"late-lora", "second"}
    tiny.publish(tiny.write_adapter(tmp_path / "newer", "2.0", seed=8), registry)
    again = install(Workspace(project), InstallRequest(upgrade=None))
    (fit,) = [fit for fit in again.plan.fits if fit.base == "second"]
    assert fit.drift.ports == ("tiny-lora",)
    with raises("M414", match="late-lora"):
        install(Workspace(project), InstallRequest(strict=True))
