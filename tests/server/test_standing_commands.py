"""What becomes of releases of a served registry, from the command line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modpkg.cli import main
from modpkg.server.accounts import make_administrator
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.tables import Account, Module, Role
from tests.modules import publish_collection
from tests.registry.test_advisories import INTRODUCED, document
from tests.server.conftest import token_for
from tests.server.live import live_server

Run = Callable[..., str]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """A server with lib, which ada owns, and root, an administrator."""
    folder = tmp_path / "served"
    with live_server(folder) as server:
        tokens = {name: token_for(server, name) for name in ("ada", "root-a")}
        make_administrator(server.database, "root-a")
        with server.database.begin() as db:
            ada = db.query(Account).filter_by(name="ada").one()
            db.add(Module(name="lib", created=now()))
            db.flush()
            db.add(Role(module="lib", account_id=ada.id, role="owner"))
        for version in ("1.0", "2.0"):
            publish_collection(folder, "lib", version)
        yield server, tokens


@pytest.fixture
def run(
    live: tuple[Server, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    server, tokens = live
    monkeypatch.setitem(sys.modules, "keyring", None)
    monkeypatch.setenv("MODPKG_REGISTRY", server.settings.url)
    monkeypatch.delenv("MODPKG_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, who: str = "ada", typed: str = "", status: int = 0) -> str:
        monkeypatch.setenv("MODPKG_HOME", str(tmp_path / who))
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert left.value.code == status, err
        return out + err

    for name, token in tokens.items():
        call("login", server.settings.url, "--token", who=name, typed=f"{token}\n")
    return call


def test_a_module_from_a_warning_to_its_end(run: Run, tmp_path: Path) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    run("deprecate", "lib==2.0", "--reason", "slow", "--successor", "words")
    assert "lib 2.0 is deprecated: slow; use words instead" in run("lock")
    run("yank", "lib==1.0", "--reason", "bad")
    assert "lib 2.0" in run("info", "lib")
    assert "M475" in run("archive", "lib", "--reason", 2001 * "y", status=1)
    assert "Archived lib" in run("archive", "lib", "--reason", "done")
    assert "Not archived any more" in run("archive", "lib", "--undo")
    assert "M432" in run("registry", "remove", "lib==2.0", "--reason", "leaked", status=1)

    advisory = tmp_path / "advisory.json"
    advisory.write_text(json.dumps(document(INTRODUCED)))
    assert "M432" in run("registry", "advisory", advisory, status=1)
    assert "Published 1 advisory" in run("registry", "advisory", advisory, who="root-a")
    assert "1 advisory for 1 of 1 module" in run("audit", status=1)

    removed = run("registry", "remove", "lib==2.0", "--reason", "leaked", who="root-a")
    assert "Removed lib 2.0" in removed
    assert "was removed" in run("lock", status=1)
    run("registry", "copy", tmp_path / "served", tmp_path / "mirror")
    assert "removed" in (tmp_path / "mirror" / "index" / "lib.jsonl").read_text()
    assert (tmp_path / "mirror" / "advisories.jsonl").is_file()


def test_a_folder_has_nobody_who_archives(run: Run, tmp_path: Path) -> None:
    assert "not served" in run("archive", "lib", "--registry", tmp_path / "served", status=2)
