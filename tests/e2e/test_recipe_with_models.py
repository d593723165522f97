"""From a recipe of mergekit to an installed model: ``import mergekit --with-models``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from modpkg.community.modules.recipe_models import ImportedRecipe, import_with_models
from modpkg.environment.project import Project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.manifest.read import read_manifest
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import read_lock
from tests import tiny
from tests.command import modpkg, modpkg_json
from tests.hub_server import hub_server
from tests.raising import raises

RECIPE = """\
merge_method: linear
models:
  - {model: one, parameters: {weight: 0.5}}
  - {model: two, parameters: {weight: 0.5}}
"""
LICENSE = "---\nlicense: apache-2.0\n---\n"


def model(folder: Path, seed: int) -> None:
    """Write a folder as transformers saves it."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(tiny.base_weights(seed))
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    (folder / "README.md").write_text(LICENSE)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "one", 1)
    model(tmp_path / "two", 2)
    (tmp_path / "mix.yml").write_text(RECIPE)
    return tmp_path / "mix.yml"


def imported(recipe: Path, registry: Path) -> ImportedRecipe:
    workspace = Workspace(options=RegistryOptions(str(registry)))
    return import_with_models(recipe, recipe.parent / "mix", "mix", "1.0.0", "MIT", workspace)


def names(registry: Path) -> list[str]:
    return sorted(path.stem for path in (registry / "index").glob("*.jsonl"))


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_one_command_leads_to_a_model(recipe: Path, tmp_path: Path) -> None:
    command = ("import", "mergekit", recipe, "--with-models", "--publish", "registry")
    done = modpkg_json(*command, "--license", "MIT")
    assert done["models"] == ["one==1.0.0", "two==1.0.0"]
    assert names(tmp_path / "registry") == ["mix", "one", "two"]
    manifest = read_manifest(tmp_path / "mix" / "modpkg.toml")
    assert [str(d.requirement) for d in manifest.dependencies] == ["one==1.0.0", "two==1.0.0"]
    before, published = files(tmp_path / "mix"), files(tmp_path / "registry")

    again = modpkg_json(*command, "--license", "MIT")
    assert again == done
    assert files(tmp_path / "mix") == before
    assert files(tmp_path / "registry").keys() == published.keys()

    (tmp_path / "modpkg.toml").write_text('[app]\nname = "app"\n')
    assert done["then"] == "modpkg add mix==1.0.0 --registry registry"
    modpkg(*done["then"].split()[1:])
    lock = read_lock(Project(tmp_path / "modpkg.toml").lock_path)
    assert lock is not None
    assert [each.model for each in lock.composed] == ["mix"]


def test_models_are_only_built(recipe: Path, tmp_path: Path) -> None:
    done = modpkg_json("import", "mergekit", recipe, "--with-models", "--registry", "registry")
    assert not (tmp_path / "registry").exists()
    commands = done["then"].split(" && ")
    assert len(commands) == 4
    (tmp_path / "modpkg.toml").write_text('[app]\nname = "app"\n')
    for command in commands:
        modpkg(*command.split()[1:])
    assert names(tmp_path / "registry") == ["mix", "one", "two"]


def test_what_the_registry_has_is_used_under_its_name(recipe: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    tiny.publish(tiny.write_base(tmp_path / "p" / "tiny", "3.0", seed=1), registry)
    other = tiny.write_base(tmp_path / "p" / "two", "1.0", seed=9)
    text = (other / "modpkg.toml").read_text()
    (other / "modpkg.toml").write_text(text.replace('name = "tiny"', 'name = "two"'))
    tiny.publish(other, registry)
    done = imported(recipe, registry)
    assert done.parts == ("tiny==3.0", "two-2==1.0.0")
    assert done.projects == ("parts/two-2", ".")
    assert any("is called two" in warning for warning in done.warnings)
    compose = read_manifest(tmp_path / "mix" / "modpkg.toml").compose
    assert compose is not None
    assert (compose.base, compose.steps[0].module) == ("tiny", "two-2")


def test_where_the_registry_has_all_of_them_there_are_no_parts(
    recipe: Path, tmp_path: Path
) -> None:
    imported(recipe, tmp_path / "registry")
    for name in ("one", "two"):
        tiny.publish(tmp_path / "mix" / "parts" / name, tmp_path / "registry")
    (tmp_path / "mix").rename(tmp_path / "before")
    tiny.publish(tmp_path / "before", tmp_path / "registry")
    for already in (False, True):
        done = imported(recipe, tmp_path / "registry")
        assert (done.projects, done.already) == ((".",), already)
        assert not (tmp_path / "mix" / "parts").exists()
    tiny.publish(tmp_path / "mix", tmp_path / "registry")  # the same release


def test_the_licence_is_that_of_models_that_name_none(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "README.md").unlink()
    (tmp_path / "two" / "README.md").write_text("---\nlicense: my-own\n---\n")
    done = imported(recipe, tmp_path / "registry")
    (told,) = (warning for warning in done.warnings if "licence is unknown" in warning)
    assert told.startswith("two: ")
    module = read_manifest(tmp_path / "mix" / "parts" / "one" / "modpkg.toml").module
    assert module is not None
    assert module.license == "MIT"


def test_a_model_with_a_lora(recipe: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_model.safetensors").write_bytes(tiny.adapter_weights())
    (lora / "adapter_config.json").write_text(json.dumps(tiny.ADAPTER_CONFIG))
    (lora / "README.md").write_text(LICENSE)
    recipe.write_text(RECIPE.replace("model: two", "model: two+lora"))
    done = imported(recipe, tmp_path / "registry")
    assert done.parts == ("lora==1.0.0", "one==1.0.0", "two==1.0.0")
    assert done.projects == ("parts/one", "parts/two", "parts/lora", "parts/two-lora", ".")
    part = (tmp_path / "mix" / "parts" / "two-lora" / "modpkg.toml").read_text()
    assert 'two = "==1.0.0"\nlora = "==1.0.0"' in part
    built = Registry(str(tmp_path / "mix" / "parts" / "lora" / "dist"))
    (line,) = built.index("lora")
    assert [one.name for one in built.record(line).provenance.built_from] == ["two"]


def test_a_model_may_be_called_as_the_recipe(recipe: Path, tmp_path: Path) -> None:
    workspace = Workspace(options=RegistryOptions(str(tmp_path / "registry")))
    done = import_with_models(recipe, tmp_path / "mix", "two", "1.0.0", "MIT", workspace)
    assert done.parts == ("one==1.0.0", "two-2==1.0.0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RECIPE.replace("model: two", "model: ./three"), r"three.*no ORG/NAME of a hub"),
        (RECIPE.replace("model: two", "model: broken"), r"model broken of"),
    ],
)
def test_a_model_that_fails_leaves_nothing(
    recipe: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    recipe.write_text(text)
    with raises("M242", match=reason):
        imported(recipe, tmp_path / "registry")
    assert not any("mix" in path.name for path in tmp_path.iterdir() if path != recipe)
    assert not (tmp_path / "registry").exists()


def test_what_cannot_be_merged_leaves_nothing(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "two" / "model.safetensors").write_bytes(tiny.base_weights(2, layers=1))
    config = tiny.CONFIG | {"num_hidden_layers": 1}
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    with raises("M601", match=r"model\.layers\.1"):
        imported(recipe, tmp_path / "registry")
    assert not (tmp_path / "mix").exists()


def test_a_router_that_cannot_read_its_prompts_leaves_nothing(recipe: Path, tmp_path: Path) -> None:
    expert = "{source_model: %s, positive_prompts: [x]}"
    experts = f"[{expert % 'one'}, {expert % 'two'}]"
    recipe.write_text(f"base_model: one\ngate_mode: cheap_embed\nexperts: {experts}\n")
    with raises("M601", match="one, which has no tokenizer"):
        imported(recipe, tmp_path / "registry")
    assert not (tmp_path / "mix").exists()


def test_another_project_is_not_replaced(recipe: Path, tmp_path: Path) -> None:
    imported(recipe, tmp_path / "registry")
    recipe.write_text(RECIPE.replace("weight: 0.5", "weight: 0.25"))
    with raises("M803"):
        imported(recipe, tmp_path / "registry")


def test_a_model_of_a_hub(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    recipe.write_text(RECIPE.replace("model: two", "model: org/far@v1"))
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        config = json.dumps(tiny.CONFIG).encode()
        far = {"model.safetensors": tiny.base_weights(2), "config.json": config}
        repository = hub.repository("org/far", far)
        repository.branches["v1"] = repository.branches["main"]
        done = imported(recipe, tmp_path / "registry")
    assert done.parts == ("far==1.0.0", "one==1.0.0")
    manifest = read_manifest(tmp_path / "mix" / "parts" / "far" / "modpkg.toml")
    assert manifest.imported_from == f"hf://org/far@{repository.head.sha}"
    offline = Workspace(options=RegistryOptions(str(tmp_path / "registry"), offline=True))
    with raises("M242", match="org/far.*--offline"):
        import_with_models(recipe, tmp_path / "again", "mix", "1.0.0", "MIT", offline)


def test_a_model_of_the_cache_of_a_hub(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    commit, cache = "a" * 40, tmp_path / "hf" / "hub" / "models--org--far"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    snapshot, blobs = cache / "snapshots" / commit, cache / "blobs"
    model(snapshot, 2)
    blobs.mkdir()
    data = (snapshot / "model.safetensors").read_bytes()
    blob = blobs / hashlib.sha256(data).hexdigest()
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    recipe.write_text(RECIPE.replace("model: two", "model: org/far"))
    offline = Workspace(options=RegistryOptions(str(tmp_path / "registry"), offline=True))
    done = import_with_models(recipe, tmp_path / "mix", "mix", "1.0.0", "MIT", offline)
    assert done.parts == ("far==1.0.0", "one==1.0.0")
    assert any("cache" in warning for warning in done.warnings)
    manifest = read_manifest(tmp_path / "mix" / "parts" / "far" / "modpkg.toml")
    assert manifest.imported_from == f"hf://org/far@{commit}"

    damaged = bytearray(data)
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with raises("M242", match="org/far.*damaged"):
        import_with_models(recipe, tmp_path / "again", "mix", "1.0.0", "MIT", offline)
    blob.unlink()
    with raises("M242", match="org/far.*--offline"):
        import_with_models(recipe, tmp_path / "again", "mix", "1.0.0", "MIT", offline)
