"""A light install, without torch; and consoles and files in the narrowest encoding."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tomli

from tests.e2e.environments import fresh_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `tests.light` saw in an environment of the light requirements.

    Its console and files are ASCII unless told otherwise.
    """
    folder = tmp_path_factory.mktemp("light")
    light = ["--requirement", str(ROOT / "requirements-light.txt")]
    commands = fresh_environment(folder / "venv", *light, "pytest", "hypothesis")
    narrow = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    narrow |= {"PYTHONIOENCODING": "cp437", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [commands / "python", "-X", "warn_default_encoding", "-m", "tests.light"],
        cwd=folder,
        env=os.environ | narrow | {"MODPKG_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_the_environment_has_no_torch(said: dict[str, Any]) -> None:
    assert said["torch"] is False


def test_modules_are_imported_built_checked_and_published(said: dict[str, Any]) -> None:
    assert "not compared with an architecture: torch is not installed" in said["import"]
    assert "128 of 128 values changed" in said["check 1.1"]
    assert "128 of 128 changed" in said["diff"]
    assert "128 of 128 values changed" in said["changelog"]


def test_an_app_is_installed(said: dict[str, Any]) -> None:
    assert "+ tiny-lora 1.0" in said["install"]
    assert "tiny-lora 1.0 adapter" in said["tree"]
    assert "tiny-lora" in said["list"]
    assert "Installed 2 modules" in said["fused"]  # numpy adds a LoRA


@pytest.mark.parametrize("what", ["run", "api load", "api pipeline"])
def test_what_needs_torch_says_so(what: str, said: dict[str, Any]) -> None:
    assert "needs torch, which is not installed here" in said[what]
    assert "pip install torch" in said[what]


def test_the_light_requirements_are_those_without_torch() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "requirements-light.txt").read_text("utf-8")
    light = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert light == [line for line in project["dependencies"] if not line.startswith("torch")]
