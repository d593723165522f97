"""One command reads each thing once: its manifest, indexes, records and settings."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import modpkg.environment.open_registries as registries
import modpkg.manifest.read as reading
import modpkg.registry.reader as reader
from modpkg.cli import cli
from modpkg.environment.project import Project
from modpkg.environment.workspace import RegistryOptions, Workspace
from modpkg.manifest.read import parse_manifest
from tests import tiny
from tests.modules import publish_collection

APP = '[app]\nname = "app"\n[dependencies]\ntalker = ">=2"\n'


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """The embedded registry, with two versions of a model, and two collections."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    for name in ("lib", "more"):
        publish_collection(home / "registry", name, "1.0")
    return home / "registry"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count what is parsed: manifests, index files and records by name, settings."""
    counts: Counter[str] = Counter()

    def count(module: Any, name: str, key: Any) -> None:
        function = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            counts[key(*arguments)] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, counted)

    count(reading, "parse_manifest", lambda *_: "manifest")
    count(reader, "parse_index", lambda _, name, *__: f"index of {name}")
    count(registries, "read_settings", lambda *_: "settings")
    return counts


def run(*arguments: str) -> None:
    cli.main(list(arguments), standalone_mode=False)


def test_an_install_parses_each_text_of_the_manifest_once(
    registry: Path, reads: Counter[str]
) -> None:
    Path("modpkg.toml").write_text(APP)
    run("install")
    assert reads["manifest"] == 1
    run("install")
    assert reads["manifest"] == 1, "nothing to do"
    run("install", "lib>=1")
    assert reads["manifest"] == 3, "before and after the edit"
    run("install", "more")
    assert reads["manifest"] == 6, "before and after the edit, and with the lower bound"


def test_a_command_reads_each_index_and_the_settings_once(
    registry: Path, reads: Counter[str]
) -> None:
    Path("modpkg.toml").write_text(APP)
    run("install", "--upgrade")
    indexes = {name: count for name, count in reads.items() if name.startswith("index")}
    assert indexes == {f"index of {name}": 1 for name in ("talker", "tiny", "tiny-lora")}
    assert reads["settings"] == 1


def test_manifests_and_projects_of_a_workspace_share_open_registries(
    registry: Path, tmp_path: Path
) -> None:
    Path("modpkg.toml").write_text(APP)
    workspace = Workspace()
    shared = workspace.registries.of("talker")
    other = parse_manifest('[app]\nname = "other"\n', tmp_path / "other" / "modpkg.toml")
    assert workspace.registries_for(other).of("tiny") is shared
    assert workspace.for_manifest(other).registries.of("tiny") is shared
    beside = workspace.for_project(Project(Path("modpkg.toml").absolute()))
    assert beside.registries.of("talker") is shared
    assert beside.store is workspace.store
    elsewhere = Workspace(options=RegistryOptions(str(tmp_path / "elsewhere")))
    assert elsewhere.registries.of("talker") is not shared


def test_the_workspace_of_the_same_project_reads_it_again(registry: Path) -> None:
    Path("modpkg.toml").write_text(APP)
    workspace = Workspace()
    assert workspace.manifest.app == "app"
    Path("modpkg.toml").write_text(APP.replace('"app"', '"changed"'))
    assert workspace.manifest.app == "app"
    assert workspace.for_project(workspace.project).manifest.app == "changed"


def test_a_relative_registry_belongs_to_its_manifest(home: Path, tmp_path: Path) -> None:
    texts = '[app]\nname = "a"\n[registries]\ndefault = "shop"\n'
    manifests = [parse_manifest(texts, tmp_path / name / "modpkg.toml") for name in ("a", "b")]
    workspace = Workspace()
    one, two = (workspace.registries_for(manifest).of("x") for manifest in manifests)
    assert (one.folder, two.folder) == (tmp_path / "a" / "shop", tmp_path / "b" / "shop")
