"""A base that lies on a hub is published without its weights, and installed from there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.remedies import Run, fails, works
from tests.hub_server import Hub, hub_server
from tests.interop.test_hub_import import base_files

APP = """
[app]
name = "app"
[registries]
default = "{registry}"
[dependencies]
base = "*"
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with hub_server() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        yield state


def has_weights(registry: Path) -> bool:
    digest = hashlib.sha256(base_files()["model.safetensors"]).hexdigest()
    return (registry / "blobs" / "sha256" / digest[:2] / digest).exists()


def test_published_by_reference_and_installed_from_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    files = base_files()
    repository = hub.repository("org/base", files)
    works(run, "import", "hf", "hf://org/base", "--name", "base")
    works(run, "build", "base", "--registry", "kept")
    sent = hub.sent
    told = works(run, "publish", "base", "--registry", "kept")
    assert hub.sent - sent < 1000  # the place was asked, and gave no weights
    assert "hf://" in told
    assert not has_weights(tmp_path / "kept")
    # The same release as an uploaded copy: one lock.
    works(run, "publish", "base", "--registry", "uploaded", "--upload")
    assert has_weights(tmp_path / "uploaded")
    locks = []
    for registry in ("uploaded", "kept"):
        (tmp_path / registry / "registry.json").write_text('{"name":"one","spec":1}\n')
        app = tmp_path / f"app-{registry}"
        app.mkdir()
        (app / "modpkg.toml").write_text(APP.format(registry=tmp_path / registry))
        monkeypatch.setenv("MODPKG_HOME", str(tmp_path / f"home-{registry}"))
        sent = hub.sent
        works(run, "-C", app, "install")
        moved = hub.sent - sent
        weights = len(files["model.safetensors"])
        assert moved == 0 if registry == "uploaded" else moved < 1.1 * weights
        locks.append((app / "modpkg.lock").read_text().replace(registry, "R"))
    assert locks[0] == locks[1]
    assert "0 B new" in works(run, "-C", tmp_path, "publish", "base", "--registry", "kept")
    assert not has_weights(tmp_path / "kept")
    # Another file in its place is refused, and named.
    repository.commits[repository.branches["main"]].files["model.safetensors"] = b"x" * 60_000
    monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "home-again"))
    shutil.rmtree(tmp_path / "app-kept" / ".modpkg")
    assert "model.safetensors" in fails(run, "M877", "-C", tmp_path / "app-kept", "install")
    # Its remedy.
    kept = tmp_path / "kept"
    base = tmp_path / "base"
    told = fails(run, "M887", "publish", base, "--registry", kept, "--by-reference")
    assert "other bytes" in told
    told = works(run, "publish", base, "--registry", kept, "--upload")
    assert "its weights are there now" in told
    assert "had lost" not in told
    assert has_weights(kept)
    works(run, "-C", tmp_path / "app-kept", "install")


def test_what_no_hub_has_is_uploaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.repository("org/base", base_files())
    works(run, "import", "hf", "hf://org/base", "--name", "base")
    works(run, "build", "base", "--registry", "kept")
    hub.repositories.clear()
    fails(run, "M878", "publish", "base", "--registry", "kept", "--by-reference")
    assert "uploaded" in works(run, "publish", "base", "--registry", "kept")
    assert has_weights(tmp_path / "kept")
    # Weights that were changed since they were imported are not those of the hub.
    hub.repository("org/base", base_files())
    weights = tmp_path / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    works(run, "build", "base", "--registry", "changed")
    fails(run, "M887", "publish", "base", "--registry", "changed", "--by-reference")
    told = works(run, "publish", "base", "--registry", "changed")
    assert "other bytes than the file here" in told
    manifest = tmp_path / "base" / "modpkg.toml"
    text = manifest.read_text()
    manifest.write_text(text[: text.index("[provenance]")])
    works(run, "build", "base", "--registry", "other")
    fails(run, "M887", "publish", "base", "--registry", "other", "--by-reference")
    # It refers to weights of the registry that it was built against, and is published to another.
    works(run, "publish", "base", "--registry", "other")
    manifest.write_text(manifest.read_text().replace('version = "1.0.0"', 'version = "1.0.1"'))
    works(run, "build", "base", "--registry", "other")
    assert "built for another" in fails(
        run, "M317", "publish", "base", "--registry", "third", "--by-reference"
    )
