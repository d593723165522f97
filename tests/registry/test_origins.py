"""What a module was made from: named in its manifest, found with digests when it is built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.registry.reader import Registry
from registry_spec.check import check
from tests.command import modpkg, refused
from tests.modules import write_module
from tests.tiny import publish, write_adapter, write_base


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry with tiny 1.0 and 1.1."""
    folder = tmp_path / "registry"
    monkeypatch.setenv("MODPKG_REGISTRY", str(folder))
    for number, version in enumerate(("1.0", "1.1")):
        publish(write_base(tmp_path / f"tiny-{version}", version, seed=number), folder)
    return folder


def add(project: Path, text: str) -> Path:
    path = project / "modpkg.toml"
    path.write_text(path.read_text() + text)
    return project


def test_origins_are_recorded_with_digests(registry: Path, tmp_path: Path) -> None:
    project = add(
        write_base(tmp_path / "merged", "1.2", seed=3),
        "[provenance]\nbuilt-from = [\n"
        '  { name = "Tiny", version = "1.0.0", relation = "merged" },\n'
        '  { name = "tiny", version = "1.1" },\n]\n',
    )
    output = modpkg("build", project).stdout
    assert "merged from tiny 1.0\n" in output
    assert "against  tiny 1.1\n" in output
    modpkg("publish", project, "--allow-breaking", "a merge")
    reader = Registry(str(registry))
    lines = {line.version: line for line in reader.index("tiny")}
    record = json.loads(
        (
            registry / "blobs/sha256" / lines["1.2"].release[7:9] / lines["1.2"].release[7:]
        ).read_bytes()
    )
    assert record["provenance"]["built_from"] == [
        {"name": "tiny", "version": "1.0", "release": lines["1.0"].release, "relation": "merged"},
        {"name": "tiny", "version": "1.1", "release": lines["1.1"].release},
    ]
    assert check(str(registry)).problems == []


def test_the_base_that_a_module_acts_on_comes_first_and_once(
    registry: Path, tmp_path: Path
) -> None:
    project = add(
        write_adapter(tmp_path / "lora", base="==1.1"),
        "[provenance]\nbuilt-from = [\n"
        '  { name = "tiny", version = "1.0", relation = "trained" },\n'
        '  { name = "tiny", version = "1.1", relation = "patched" },\n]\n',
    )
    publish(project, registry)
    reader = Registry(str(registry))
    made = reader.record(reader.line("tiny-lora", "1.0")).provenance.built_from
    assert [(b.version, b.relation) for b in made] == [("1.1", "patched"), ("1.0", "trained")]
    assert check(str(registry)).problems == []


def test_a_missing_origin_is_an_error_with_its_line(registry: Path, tmp_path: Path) -> None:
    project = add(
        write_module(tmp_path / "set", "set"),
        '[provenance]\nbuilt-from = [\n  { name = "tiny", version = "9" },\n]\n',
    )
    message = refused("build", project)
    assert "error[M760]" in message
    assert "modpkg.toml:9: tiny 9 is not in the registry" in message
    assert "; it has 1.0, 1.1" in message
    assert not (project / "dist").exists()
