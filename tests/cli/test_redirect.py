"""``modpkg install summarizer>=2.1`` without quotes, in a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import forkserver
from tests.command import modpkg_json
from tests.modules import publish_collection


@pytest.fixture(autouse=True)
def registry(home: Path) -> None:
    for version in ("1.0", "2.1", "3.0"):
        publish_collection(home / "registry", "summarizer", version)
    publish_collection(home / "registry", "other", "1.0")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in which ``modpkg`` stands for the command."""
    line = line.replace("modpkg ", f"{forkserver.python()} -m modpkg ")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True)


@pytest.mark.parametrize("option", ["", " --json", " --dry-run", " --exclude-newer 2099-01-01"])
def test_a_specifier_read_as_a_redirect_is_installed(option: str) -> None:
    done = shell(f"modpkg install summarizer>=2.1{option}")
    assert done.returncode == 0, done.stderr
    assert "modpkg installs 'summarizer>=2.1'" in done.stderr
    assert "modpkg install 'summarizer>=2.1'" in done.stderr
    assert list(Path().iterdir()) == []
    if option != " --dry-run":
        assert modpkg_json("list")["modules"][0]["version"] == "3.0"


def test_exact_versions_too() -> None:
    assert shell("modpkg install summarizer>=2.1 other@1.0").returncode == 0
    assert list(Path().iterdir()) == []
    assert {m["name"] for m in modpkg_json("list")["modules"]} == {"summarizer", "other"}


def test_an_ambiguous_redirect_is_an_error_and_leaves_no_file() -> None:
    done = shell("modpkg install summarizer other>=1")
    assert done.returncode == 2
    assert "error[M902]" in done.stderr
    assert "quote the requirement: modpkg install 'summarizer>=1'" in done.stderr
    assert list(Path().iterdir()) == []


def test_an_ordinary_redirect_still_works() -> None:
    assert shell("modpkg install summarizer > out.txt").returncode == 0
    assert "Installed" in Path("out.txt").read_text()
    Path("=mine").write_text("kept")
    assert shell("modpkg install summarizer").returncode == 0
    assert shell("modpkg list > =list").returncode == 0
    assert "summarizer" in Path("=list").read_text()
    assert Path("=mine").read_text() == "kept"


def test_spellings_without_quotes() -> None:
    assert shell("modpkg install summarizer@^2.1").returncode == 0
    assert modpkg_json("list")["modules"][0]["version"] == "2.1"
    assert shell("modpkg install summarizer@1.0").returncode == 0
    assert modpkg_json("list")["modules"][0]["version"] == "1.0"
