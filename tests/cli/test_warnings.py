"""Warnings: once, of what is used, and not beside "Nothing to do"."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.cli.everywhere import chosen
from modpkg.cli.output import TerminalProgress
from modpkg.registry.writer import RegistryWriter
from tests import tiny
from tests.cli.test_everywhere import run
from tests.modules import publish_collection


@pytest.fixture
def drifted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Publish an adapter and another base with other weights, the only one that is not yanked."""
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    tiny.publish(tiny.write_base(tmp_path / "b", "1.1", seed=9), home / "registry")
    RegistryWriter(home / "registry").yank("tiny", "1.0", "a trial")
    publish_collection(home / "registry", "kit", "1.0", {"tiny-lora": "*"})
    folder = tmp_path / "app"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_drift_is_told_of_what_a_model_uses(
    drifted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = drifted / "modpkg.toml"
    manifest.write_text('[app]\nname = "app"\n[dependencies]\ntiny = ">1"\nkit = "*"\n')
    assert "drift" not in run(capfd, "install")[2], "no model has the adapter"
    manifest.write_text('[app]\nname = "app"\n[dependencies]\ntiny = ">1"\ntiny-lora = "*"\n')
    err = run(capfd, "install")[2]
    assert err.count("tiny-lora was made for other weights of tiny 1.1: drifted") == 1
    assert "It was made against tiny 1.0." in err
    assert "drifted" in run(capfd, "show", "tiny-lora")[1], "it can be looked up at any time"


def test_drift_is_not_told_beside_nothing_to_do(
    drifted: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = drifted / "modpkg.toml"
    manifest.write_text('[app]\nname = "app"\n[dependencies]\ntiny = ">1"\n')
    assert "drifted" in run(capfd, "install", "tiny-lora")[2]
    for arguments in (["install"], ["install", "--upgrade"], ["update"], ["install", "tiny-lora"]):
        status, out, err = run(capfd, *arguments)
        assert (status, err) == (0, "")
        assert "Nothing to do" in out


def test_the_same_warning_is_shown_once_per_command(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        chosen.reset()
        with TerminalProgress() as progress, TerminalProgress() as other:
            for each in (progress, other, progress):
                each.warn("the licence is unknown")
                each.warn("and this is another")
        assert capfd.readouterr().err.splitlines() == [
            "warning: the licence is unknown",
            "warning: and this is another",
        ]
