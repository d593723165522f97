"""Which project a folder's name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.environment.project import PROJECT_VARIABLE, find_project, project_in
from tests.raising import raises


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder in it, which is the working folder."""
    folder = tmp_path / "app"
    (folder / "sub").mkdir(parents=True)
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n')
    monkeypatch.chdir(folder / "sub")
    return folder


def test_a_folder_may_be_named_by_the_way_up(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("..", "../../app", "../sub/..", app / "sub" / ".."):
        assert project_in(named).folder.samefile(app)
    monkeypatch.setenv(PROJECT_VARIABLE, "..")
    assert find_project().folder.samefile(app)
    with raises("M111"):
        project_in("../sub")
    with raises("M111"):
        project_in("../..")


def test_a_link_to_a_folder_keeps_its_name_and_its_way_up(app: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(app)
    assert project_in(tmp_path / "link").folder == tmp_path / "link"
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "sub").symlink_to(app / "sub")
    assert project_in(tmp_path / "deep" / "sub" / "..").folder.samefile(app)
