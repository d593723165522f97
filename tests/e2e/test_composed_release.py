"""The composed weights of a recipe as a release of their own: ``publish --composed``."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.community.modules.composed_project import composed_project
from modpkg.core.interface import weights_digest
from modpkg.core.tensors import identity_of
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import read_lock
from tests import tiny
from tests.command import modpkg, modpkg_json, refused
from tests.modules import write_module
from tests.raising import raises

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """The embedded registry, with a base and a LoRA of another licence."""
    registry = home / "registry"
    tiny.publish(tiny.write_base(tmp_path / "tiny"), registry)
    lora = tiny.write_adapter(tmp_path / "lora")
    text = (lora / "modpkg.toml").read_text()
    (lora / "modpkg.toml").write_text(text.replace('"MIT"', '"Apache-2.0"'))
    tiny.publish(lora, registry)
    return registry


def test_users_of_composed_weights_fetch_no_parents(registry: Path, tmp_path: Path) -> None:
    project = tiny.write_model(tmp_path / "talker")
    dry = modpkg_json("publish", "--composed", "--dry-run", project)
    assert (dry["name"], dry["kind"], dry["dry_run"]) == ("talker-composed", "base", True)
    published = modpkg_json("publish", "--composed", project)
    assert sorted(path.name for path in project.iterdir()) == ["modpkg.toml"]
    assert published["requires"] == []
    source = Registry(str(registry))
    (line,) = source.index("talker-composed")
    record, base = source.record(line), source.record(source.index("tiny")[0])
    assert record.license == "(Apache-2.0) AND (MIT)"
    assert [(one.name, one.version, one.relation) for one in record.provenance.built_from] == [
        ("tiny", "1.0", "merged"),
        ("tiny-lora", "1.0", "merged"),
    ]
    shared = {name for name, entry in record.tensors.items() if entry == base.tensors[name]}
    changed = record.tensors.keys() - shared
    assert len(changed) == 2 * tiny.LAYERS
    assert Q in changed
    assert identity_of(record.tensors[Q]).digest != identity_of(base.tensors[Q]).digest

    tiny.publish(project, registry)
    (tmp_path / "app").mkdir()
    manifest = tmp_path / "app" / "modpkg.toml"
    manifest.write_text('[app]\nname = "app"\n[dependencies]\ntalker = "*"\n')
    modpkg("install", cwd=manifest.parent)
    lock = read_lock(Project(manifest).lock_path)
    assert lock is not None
    assert weights_digest(record.tensors) == lock.composed[0].result

    manifest.write_text('[app]\nname = "app"\n[dependencies]\ntalker-composed = "*"\n')
    modpkg("install", cwd=manifest.parent)
    lock = read_lock(Project(manifest).lock_path)
    assert lock is not None
    assert [module.name for module in lock.module] == ["talker-composed"]
    again = modpkg_json("publish", "--composed", project)
    assert again["already"] is True


def test_the_release_has_the_recipe_with_its_versions(registry: Path, tmp_path: Path) -> None:
    project = tiny.write_model(tmp_path / "talker")
    modpkg("publish", "--composed", "--name", "whole", project)
    source = Registry(str(registry))
    record = source.record(source.index("whole")[0])
    recipe = tmp_path / "again" / "modpkg.toml"
    recipe.parent.mkdir()
    recipe.write_bytes(source.blob(record.files["recipe.toml"].digest, "the recipe"))
    assert 'tiny = "==1.0"' in recipe.read_text()
    modpkg("install", cwd=recipe.parent)
    lock = read_lock(Project(recipe).lock_path)
    assert lock is not None
    found = {each.model: each.result for each in lock.composed}
    assert found["talker"] == weights_digest(record.tensors)
    assert "tiny-lora" in source.blob(record.files["README.md"].digest, "the card").decode()


def test_what_composes_nothing_is_refused(registry: Path, tmp_path: Path) -> None:
    folder = write_module(tmp_path / "base", "base", kind="collection")
    workspace = Workspace(Project(folder / "modpkg.toml"))
    with raises("M241", match="has no"), composed_project(workspace):
        pass
    assert "nowhere else" in refused("publish", "--composed", "--by-reference", folder, status=2)
    assert "--name is for --composed" in refused("publish", "--name", "x", folder, status=2)
