"""What another user of the machine can change is refused, or reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modpkg.core import ownership, system
from modpkg.core.ownership import TRUSTED, check_owner, dangers, stranger
from modpkg.environment.generations import Environment
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.manifest.config import read_settings
from tests.raising import raises

Disguise = Callable[..., None]


@pytest.fixture
def disguise(monkeypatch: pytest.MonkeyPatch) -> Disguise:
    """Let a path look as if it had another owner, group or mode."""
    shown: dict[str, dict[str, int]] = {}
    real = os.lstat

    def lstat(path: Any, **options: Any) -> Any:
        status = real(path, **options)
        if (changes := shown.get(os.fspath(path))) is None:
            return status
        fields = list(status)
        for name, value in changes.items():
            fields[{"mode": 0, "uid": 4, "gid": 5}[name]] = value
        return os.stat_result(fields)

    monkeypatch.setattr(ownership.os, "lstat", lstat)

    def change(path: Path, **changes: int) -> None:
        shown[str(path)] = changes

    return change


def test_who_is_a_stranger(
    tmp_path: Path, disguise: Disguise, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    assert stranger(folder) is None
    folder.mkdir()
    assert (stranger(folder), dangers(folder)) == (None, [])
    disguise(folder, uid=43210)
    assert stranger(folder) == "the user 43210"
    with raises("M514", match="the user 43210"):
        check_owner(folder)
    disguise(folder, uid=0)
    assert stranger(folder) is None
    disguise(folder, uid=43210, gid=os.getegid(), mode=0o40775)
    assert stranger(folder) is None
    disguise(folder, uid=43210, gid=os.getegid(), mode=0o40755)
    assert stranger(folder) is not None
    disguise(folder, uid=43210, gid=43210, mode=0o40775)
    assert stranger(folder) is not None
    monkeypatch.setenv(TRUSTED, os.pathsep.join([str(tmp_path / "other"), str(tmp_path)]))
    assert stranger(folder) is None
    monkeypatch.setenv(TRUSTED, str(tmp_path / "fold"))
    assert stranger(folder) is not None
    monkeypatch.setenv(TRUSTED, "*")
    check_owner(folder)


def test_who_called_sudo_is_no_stranger(
    tmp_path: Path, disguise: Disguise, monkeypatch: pytest.MonkeyPatch
) -> None:
    disguise(tmp_path, uid=43210)
    monkeypatch.setenv("SUDO_UID", "43210")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert stranger(tmp_path) is None
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert stranger(tmp_path) is not None
    monkeypatch.delattr(os, "geteuid")  # a system without owners
    assert stranger(tmp_path) is None


def test_what_everybody_can_change_is_told(tmp_path: Path, disguise: Disguise) -> None:
    disguise(tmp_path, mode=0o40777)
    (told,) = dangers(tmp_path)
    assert told.endswith(f"run: chmod o-w {system.shell_word(str(tmp_path))}")
    disguise(tmp_path, mode=0o41777)  # as /tmp: nobody removes what is another's
    assert dangers(tmp_path) == []


class Warned:
    """A progress that keeps its warnings."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def warn(self, message: str) -> None:
        self.told.append(message)


def test_the_mode_of_a_link_is_not_the_folders(tmp_path: Path) -> None:
    """A link's own mode lets everybody write, on every system, and means nothing."""
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert dangers(tmp_path / "link") == []


def test_an_environment_of_somebody_else_is_not_changed(tmp_path: Path, disguise: Disguise) -> None:
    environment = Environment(tmp_path / ".modpkg")
    with environment.exclusive():
        pass
    disguise(tmp_path / ".modpkg", uid=43210)
    with raises("M514"), environment.exclusive():
        pass


def test_projects_and_stores_of_somebody_else_are_told(
    tmp_path: Path, home: Path, disguise: Disguise, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Path("modpkg.toml").absolute()
    manifest.write_text('[app]\nname = "app"\n')
    (home / "store").mkdir(parents=True)
    for path in (manifest, home / "store"):
        disguise(path, uid=43210)
    progress = Warned()
    workspace = Workspace(progress=progress)  # type: ignore[arg-type]
    assert isinstance(workspace.project, Project)
    assert workspace.store.root == home / "store"
    assert [text.split(" belongs")[0] for text in progress.told] == [
        str(manifest),
        str(home / "store"),
    ]


def test_settings_of_somebody_else_are_not_read(home: Path, disguise: Disguise) -> None:
    home.mkdir()
    path = home / "config.toml"
    path.write_text("")
    path.chmod(0o600)
    warned: list[str] = []
    read_settings(warned.append)
    assert warned == []
    disguise(path, mode=0o100666)
    read_settings(warned.append)
    assert len(warned) == 1
    if hasattr(os, "chown") and os.geteuid() == 0:
        os.chown(path, 43210, 43210)
        disguise(path, uid=43210)
        with raises("M514"):
            read_settings(warned.append)
        os.chown(home, 43210, 43210)
        read_settings(warned.append)
