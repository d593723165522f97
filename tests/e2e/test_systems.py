"""The core story on macOS and Windows, as far as one process on Linux can be taken for them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import modpkg
from tests import forkserver, story


def told(system: str, home: Path) -> dict[str, Any]:
    done = forkserver.run("-m", "tests.story", system, env=os.environ | {"MODPKG_HOME": str(home)})
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("system", ["macos", "windows"])
def test_the_core_story_ends_the_same(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made there is read here: the pointer to the current generation is a file there."""
    monkeypatch.setenv("MODPKG_HOME", str(Path("home").absolute()))
    ended = told(system, Path("home").absolute())
    assert Path("app/.modpkg/current").is_symlink() == (system == "macos")
    assert ended["first"] == ended["rolled back"] == ended["still mapped"]
    assert ended["updated"] == ended["again"] == ended["after gc"] != ended["first"]
    assert ended["live"] != ended["updated"]  # PEFT's wrapper has names of its own
    assert ended["repaired"].endswith(": 1 corrupt, 1 repaired.")
    assert "tiny-lora 1.0 adapter" in ended["tree"]
    assert ended["left"] == []
    assert story.weights(modpkg.load("mine", project="app")) == ended["updated"]
    story.modpkg("-C", "app", "rollback", "--to", "1")  # and goes on here
    assert Path("app/.modpkg/current").is_symlink()
    assert story.weights(modpkg.load("mine", project="app")) == ended["first"]
