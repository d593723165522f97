"""The options that every command takes, before and after its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from modpkg.cli import COMMANDS, cli, main
from modpkg.cli.everywhere import options_of_all
from modpkg.core.errors import ModpkgError
from tests.modules import publish_collection


@pytest.fixture
def registry(home: Path) -> Path:
    publish_collection(home / "registry", "lib", "1.0")
    publish_collection(home / "registry", "lib", "1.5")
    publish_collection(home / "registry", "top", "1.0", {"lib": ">=1"})
    return home / "registry"


@pytest.fixture
def app(tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "<1.5"\n')
    monkeypatch.chdir(tmp_path)
    return folder


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    out, err = capfd.readouterr()
    return int(left.value.code or 0), out, err


def every_command() -> list[click.Command]:
    found, pending = [], [cli.get_command(click.Context(cli), name) for name in COMMANDS]
    while pending:
        command = pending.pop()
        assert command is not None
        found.append(command)
        if isinstance(command, click.Group):
            pending += command.commands.values()
    return found


def test_every_command_takes_them_and_none_takes_its_own_of_that_name() -> None:
    wanted = {name for option in options_of_all() for name in option.opts}
    for command in every_command():
        names = [name for option in command.params for name in option.opts]
        assert wanted <= set(names), command.name
        assert len(names) == len(set(names)), command.name


@pytest.mark.parametrize("before", [True, False])
def test_another_folder(app: Path, capfd: pytest.CaptureFixture[str], before: bool) -> None:
    way = ["-C", str(app)]
    status, out, err = run(capfd, *([*way, "lock"] if before else ["lock", *way]))
    assert (status, err) == (0, "")
    assert "modpkg.lock: 1 module" in out
    assert (app / "modpkg.lock").exists()


def test_folders_follow_one_another(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (app / "deep").mkdir()
    assert run(capfd, "-C", "app", "lock", "-C", "deep", "--check")[0] == 1
    assert Path.cwd() == app / "deep"


def test_a_folder_that_does_not_exist(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capfd, "list", "-C", "nope")
    assert status == 2
    assert "'nope' cannot be entered: No such file or directory" in err


def test_a_redirect_is_repaired_in_another_folder(app: Path) -> None:
    """The shell made the file in its own folder, and DIR is not taken for the command."""
    done = subprocess.run(
        f"{sys.executable} -m modpkg -C app install lib>=1.0",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'lib = ">=1.0"' in (app / "modpkg.toml").read_text()
    assert not (app.parent / "=1.0").exists()


def test_quiet_prints_what_was_asked_for_only(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capfd, "-q", "install", "-C", "app") == (0, "", "")
    status, out, err = run(capfd, "list", "-q")
    assert (status, err) == (0, "")
    assert "lib" in out
    assert run(capfd, "-q", "install") == (0, "", ""), "nothing to do"
    status, out, err = run(capfd, "-qq", "show", "nope")
    assert (status, out) == (1, "")
    assert "error[" in err


def test_quiet_leaves_warnings_and_more_of_it_does_not(
    app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = "spec = 'broken'\n"
    (app / "modpkg.lock").write_text(broken)
    _, out, err = run(capfd, "-C", "app", "install", "-q")
    assert out == ""
    assert err.startswith("warning: ")
    assert err.count("warning: ") == 1
    (app / "modpkg.lock").write_text(broken)
    assert run(capfd, "install", "-qq") == (0, "", "")


def test_verbose_shows_the_folders_and_the_stages(
    app: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, out, err = run(capfd, "lock", "-v", "-C", "app")
    assert "Locked" in out
    first, *rest = err.splitlines()
    assert first.startswith("modpkg ")
    assert f"project {app / 'modpkg.toml'}" in first
    assert f"store {home / 'store'}" in first
    assert "Resolving" in rest


def test_colour_by_option_comes_before_the_environment(
    app: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    escape = "\x1b["
    monkeypatch.chdir(app)
    run(capfd, "install")
    monkeypatch.setenv("NO_COLOR", "1")
    assert escape in run(capfd, "--color", "always", "list")[1]
    assert escape not in run(capfd, "list")[1]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert escape in run(capfd, "list")[1]
    assert escape in run(capfd, "list", "--color=auto")[1], "auto leaves it to the environment"
    assert escape not in run(capfd, "list", "--color=never")[1]


def test_debug_shows_a_traceback_wherever_it_stands(
    app: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--debug", "show", "nope"], ["show", "nope", "--debug"]):
        with pytest.raises(ModpkgError):
            main(arguments)
    assert "error[" in run(capfd, "show", "nope")[2]
