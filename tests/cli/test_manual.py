"""Manual pages: all commands have one, and ``man`` shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from modpkg.cli import COMMANDS, cli
from modpkg.cli.manual import manual_pages
from tests.cli.test_everywhere import run


def pages() -> dict[str, str]:
    return dict(manual_pages(click.Context(cli, info_name="modpkg")))


def test_every_command_has_a_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "man"
    assert run(capfd, "help", "--man", str(folder))[0] == 0
    written = {path.name for path in (folder / "man1").iterdir()}
    assert {f"modpkg-{command}.1" for command in COMMANDS} <= written
    assert {"modpkg.1", "modpkg-store-gc.1", "modpkg-import-peft.1"} <= written
    assert {f"{name}.1" for name in pages()} == written
    assert run(capfd, "help", "install", "--man", str(folder))[0] == 2


def test_no_line_is_a_request_by_accident() -> None:
    requests = {".TH", ".SH", ".PP", ".TP", ".nf", ".fi", ".B", ".BR"}
    for name, text in pages().items():
        for line in text.splitlines():
            assert line[:1] != "'", name
            assert line[:1] != "." or line.split()[0] in requests, (name, line)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_mandoc_finds_no_fault(tmp_path: Path) -> None:
    for name, text in pages().items():
        (tmp_path / f"{name}.1").write_text(text)
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *sorted(tmp_path.glob("*.1"))],
        capture_output=True,
        text=True,
        check=False,
    )
    faults = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert faults == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_shows_options_and_examples_as_they_are_typed(tmp_path: Path) -> None:
    (tmp_path / "page.1").write_text(pages()["modpkg-schema"] + pages()["modpkg-install"])
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", "-ww", tmp_path / "page.1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "  modpkg schema store info" in done.stdout
    assert "--exclude-newer WHEN" in done.stdout
    assert "modpkg-schema - Print the JSON Schema" in " ".join(done.stdout.split())
