"""Checks with tests: reports of both releases, made by ``modpkg test`` on a model that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.command import modpkg, modpkg_json, refused
from tests.community.tiny import labelled, publish_encoder_and_head, table, write_head


def test_reports_of_both_releases_are_compared(home: Path, tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    publish_encoder_and_head(home / "registry", projects)
    folder = tmp_path / "own"
    cases = labelled(write_head(folder), projects / "encoder-1.0", wrong=3)
    files = {"tests/moods.jsonl": cases}
    write_head(folder, "own", "1.0", more=table(), files=files)
    modpkg("test", cwd=folder)
    modpkg("build", folder)
    modpkg("publish", folder)

    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0"', 'version = "1.0.1"'))
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.weight"][0, 0] += 1e-6
    save_file(tensors, weights)

    def check() -> Any:
        return modpkg_json("check", folder)

    stale = check()  # the report is of the weights before
    assert stale["tests"]["note"].startswith("tests were not compared: ")
    assert "is a report of another composition" in stale["tests"]["note"]
    modpkg("test", cwd=folder)
    found = check()
    assert (found["level"], found["tests"]["compared"], found["tests"]["worse"]) == ("patch", 1, [])
    assert "1 compared, 1 hold" in modpkg("check", folder).stdout

    tensors["classifier.weight"][:, :8] *= -40
    save_file(tensors, weights)
    modpkg("test", cwd=folder, check=False)
    modpkg("build", folder)
    message = refused("publish", folder)
    assert "error[M761]: own 1.0.1 would be a major change after 1.0" in message
    assert "tests: 'moods' got worse: passed before, fails now" in message
