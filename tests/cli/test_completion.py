"""Completion: the scripts, in the shells that are here, and what they are given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from modpkg.cli import COMMANDS, cli
from modpkg.core.records import ModuleLine
from modpkg.registry.module_lines import format_module_lines
from tests.command import modpkg
from tests.modules import publish_collection


@pytest.fixture
def app(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    publish_collection(home / "registry", "lib", "1.0")
    publish_collection(home / "registry", "other-lib", "1.0")
    cached = home / "store" / "index-cache" / "0123456789abcdef" / "index"
    cached.mkdir(parents=True)
    (cached / "remote-lib.jsonl").write_text("")
    (cached / ".half-written.jsonl").write_text("")
    known = ModuleLine(name="searched-lib", version="1.0", kind="base")
    (cached.parent / "modules.jsonl").write_bytes(format_module_lines({"searched-lib": known}))
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    modpkg("lock")
    return tmp_path / "app"


def offered(*words: str) -> list[str]:
    """Return what can stand for the last of the words."""
    shell = ShellComplete(cli, {}, "modpkg", "_MODPKG_COMPLETE")
    return [item.value for item in shell.get_completions([*words[:-1]], words[-1])]


def test_commands_are_completed_without_importing_them() -> None:
    assert offered("") == [*COMMANDS]
    assert offered("in") == ["install", "info", "init"]
    code = (
        "import sys; from click.shell_completion import ShellComplete; from modpkg.cli import cli;"
        "print(ShellComplete(cli, {}, 'modpkg', 'X').get_completions([], 're')[0].value,"
        "sorted(m for m in sys.modules if m.startswith('modpkg.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["remove", "['modpkg.cli.everywhere']\n"]


def test_options_are_completed_those_of_every_command_too() -> None:
    assert "--upgrade-package" in offered("install", "--up")
    assert {"--quiet", "--color", "--debug", "-C"} <= set(offered("list", "-"))
    assert offered("--color", "n") == ["never"]
    assert offered("lock", "--resolution", "lowest-") == ["lowest-direct"]
    assert offered("store", "ve") == ["verify"]
    assert "--older-than" in offered("store", "gc", "--")


def test_names_come_from_the_lock_the_registries_and_the_cache(app: Path) -> None:
    assert offered("install", "") == ["lib", "other-lib", "remote-lib", "searched-lib"]
    assert offered("install", "Oth") == ["other-lib"]
    assert offered("why", "") == ["lib"]
    assert offered("update", "lib", "") == ["lib"]
    assert offered("why-not", "re") == ["remote-lib"]


def test_files_are_left_to_the_shell(app: Path) -> None:
    def kinds(*words: str) -> list[str]:
        shell = ShellComplete(cli, {}, "modpkg", "_MODPKG_COMPLETE")
        return [item.type for item in shell.get_completions([*words[:-1]], words[-1])]

    assert kinds("build", "") == ["file"]
    assert kinds("-C", "") == kinds("vendor", "") == ["dir"]
    assert kinds("run", "lib", "art") == kinds("bisect", "old") == ["file"]
    assert kinds("diff", "lib", "./") == kinds("diff", "lib", "none-such") == ["file"]
    assert offered("diff", "li") == ["lib"]


def test_names_of_another_folder(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app.parent)
    assert offered("-C", str(app), "why", "") == ["lib"]


@pytest.mark.parametrize("damage", ["[app", "\udcff", ""])
def test_what_cannot_be_read_has_no_names(app: Path, damage: str) -> None:
    Path("modpkg.toml").write_text(damage, "utf-8", "surrogateescape")
    Path("modpkg.lock").write_text(damage, "utf-8", "surrogateescape")
    assert offered("why", "") == []
    assert offered("install", "") == ["lib", "remote-lib", "searched-lib"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_of_the_shell(shell: str) -> None:
    text = modpkg("completion", shell).stdout
    assert f"_MODPKG_COMPLETE={shell}_complete" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program named modpkg on the path."""
    path = tmp_path / "bin" / "modpkg"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m modpkg "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def in_shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(app: Path, program: None) -> None:
    """As bash does on Tab: the function that the script registers, with the words of the line."""
    script = (
        'eval "$(modpkg completion bash)"\n'
        "complete -p modpkg\n"
        "COMP_WORDS=(modpkg why l) COMP_CWORD=2\n"
        "_modpkg_completion modpkg l why\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    assert in_shell("bash", "-c", script).splitlines()[-1] == "lib"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(app: Path, program: None) -> None:
    script = (
        "modpkg completion fish | source\n"
        'complete -C "modpkg why l"; complete -C "modpkg store i"; complete -C "modpkg build modp"'
    )
    assert in_shell("fish", "--no-config", "-c", script).split("\n")[:-1] == [
        "lib",
        "info\tShow the store's folder, contents and...",
        "modpkg.lock",
        "modpkg.toml",
    ]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(app: Path, program: None) -> None:
    """As zsh does on Tab: the function that the script registers, with the words of the line."""
    script = (
        "compdef() { print registered $1 }\n"
        "compadd() { print -r -- $completions }\n"
        "_describe() { print -r -- $completions_with_descriptions }\n"
        "_path_files() { print files $@ }\n"
        'eval "$(modpkg completion zsh)"\n'
        "words=(modpkg why l) CURRENT=3; _modpkg_completion\n"
        "words=(modpkg store i) CURRENT=3; _modpkg_completion\n"
        "words=(modpkg build m) CURRENT=3; _modpkg_completion\n"
    )
    assert in_shell("zsh", "-f", "-c", script).splitlines() == [
        "registered _modpkg_completion",
        "lib",
        "info:Show the store's folder, contents and...",
        "files -f",
    ]
