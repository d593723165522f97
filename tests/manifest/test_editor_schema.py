"""The schema that the first line of a manifest names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modpkg.core.system_processes import process_space
from modpkg.manifest.editor_schema import SCHEMA_LINE, add_schema, refresh_schema
from modpkg.manifest.json_schema import manifest_schema
from modpkg.manifest.read import read_manifest
from modpkg.release.content import collect
from tests.modules import write_module

SCHEMA = Path(".modpkg/modpkg.schema.json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_module(tmp_path / "own", "own"))
    return tmp_path / "own"


def test_it_is_added_once_and_not_released(folder: Path) -> None:
    text = Path("modpkg.toml").read_text()
    for _ in range(2):
        add_schema(folder)
        assert Path("modpkg.toml").read_text() == SCHEMA_LINE + text
    assert json.loads(SCHEMA.read_text()) == manifest_schema()
    assert Path(".modpkg/.gitignore").read_text() == "*\n"
    assert collect(read_manifest(Path("modpkg.toml"))).files == {}


def test_it_is_brought_up_to_date_where_the_manifest_names_it(folder: Path) -> None:
    refresh_schema(folder)
    assert not SCHEMA.exists(), "it does not"
    add_schema(folder)
    for damage in (lambda: SCHEMA.write_text("{}"), SCHEMA.unlink):
        damage()
        refresh_schema(folder)
        assert json.loads(SCHEMA.read_text()) == manifest_schema()


def test_what_a_killed_process_left_goes_where_nothing_is_written(folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path = Path("modpkg.toml")
    path.write_text(SCHEMA_LINE + path.read_text())
    SCHEMA.parent.mkdir()
    SCHEMA.write_text(json.dumps(manifest_schema(), indent=1) + "\n")
    left = SCHEMA.parent / f".tmp-x-{process_space()}-{process.pid}-01234567"
    left.touch()
    refresh_schema(folder)
    assert not left.exists()


def test_a_folder_without_a_manifest_is_left_alone(tmp_path: Path) -> None:
    refresh_schema(tmp_path)
    assert not (tmp_path / ".modpkg").exists()
