"""``modpkg diff`` between releases, installed models and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.command import modpkg, modpkg_json, refused


@pytest.fixture
def talker(home: Path, tmp_path: Path) -> Path:
    """An environment whose first generation has talker 1.0 and whose second has 2.0."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    modpkg("install", "talker==1.0")
    modpkg("install", "talker==2.0")
    return tmp_path / "projects"


def test_releases_models_generations_and_folders_are_compared(talker: Path) -> None:
    text = modpkg("diff", "talker@1", "talker").stdout
    assert text.startswith("talker 1.0 (generation 1) to talker 2.0 (installed)\n")
    assert "16 same, 4 changed" in text
    assert "model.layers.*.self_attn.q_proj.weight  2 of 2   100 %" in text

    adapters = modpkg_json("diff", "tiny-lora==1.0", "tiny-lora==2.0")
    assert [adapters["a"], adapters["b"]] == ["tiny-lora 1.0", "tiny-lora 2.0"]
    assert {tensor["status"] for tensor in adapters["tensors"]} == {"changed"}

    same = modpkg("diff", "tiny==1.0", talker / "tiny").stdout
    assert same.splitlines()[1:] == ["  tensors  20 same"]


def test_all_lists_tensors_and_svg_draws_them(talker: Path, tmp_path: Path) -> None:
    out = modpkg("diff", "tiny==1.0", "talker", "--all", "--svg", tmp_path / "d.svg").stdout
    lines = [line for line in out.splitlines() if "changed" in line and line.startswith("model.")]
    assert len(lines) == 4
    assert "F32 [8, 8]" in lines[0]
    assert (tmp_path / "d.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        ("./nowhere", "./nowhere cannot be compared: there is no such folder"),
        ("talker@9", "has no generation 9; it has 1, 2"),
        ("tiny", "to compare a release, name its version: tiny==1.0."),
        ("tiny==7", "tiny 7"),
        (".", "it has no *.safetensors"),
    ],
)
def test_a_missing_module_is_reported(talker: Path, side: str, reason: str) -> None:
    assert reason in refused("diff", side, "talker")


def test_a_missing_environment_is_reported(home: Path) -> None:
    assert "nothing is installed" in refused("diff", "talker", "talker")
