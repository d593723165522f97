"""A registry from nothing, by the commands that people type: served, published to, seen."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modpkg.cli import main
from tests.changing import numbers, write
from tests.server.browser import headless_browser
from tests.server.process import server_process

PASSWORD = "correct horse battery staple"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command of somebody who has a home of his own; returns what it prints."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.delenv("MODPKG_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(who: str, *arguments: str | Path, typed: str = "") -> str:
        monkeypatch.setenv("MODPKG_HOME", str(tmp_path / "homes" / who))
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert left.value.code == 0, err
        return out

    return call


def test_what_one_publishes_another_installs_and_a_browser_shows(run: Run, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    project = write(tmp_path / "words", numbers("a", "b"), "words", "1.4.2")
    with server_process(str(registry), tmp_path) as server:
        typed = f"{PASSWORD}\n"
        run("ada", "registry", "admin", "ada", registry, "--password-stdin", typed=typed)
        run("ada", "login", server.url, "--name", "ada", typed=typed)
        run("ada", "build", project, "--registry", server.url)
        run("ada", "publish", project, "--registry", server.url)
        run("bob", "install", "words", "--registry", server.url)
        installed = json.loads(run("bob", "list", "--json"))["modules"]
        assert [(one["name"], one["version"]) for one in installed] == [("words", "1.4.2")]
        with headless_browser() as browser:
            browser.open(server.url)
            assert "words" in browser.run("document.querySelector('main').innerText")
            browser.open(f"{server.url}/modules/words")
            title = browser.run("document.querySelector('h1').innerText")
            assert title.split() == ["words", "1.4.2"]
            browser.open(f"{server.url}/events")
            assert "ada" in browser.run("document.querySelector('table').innerText")
            assert browser.complaints == []
