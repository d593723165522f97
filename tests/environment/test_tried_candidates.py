"""Candidates that are installed: the lock says so, and keeps to them until they are decided."""

from __future__ import annotations

from pathlib import Path

import pytest

from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import candidates_path
from modpkg.resolve.lock import LockedModule, read_lock
from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.registry.test_candidates import submit

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def registry(home: Path) -> Path:
    publish_collection(home / "registry", "words", "1.0")
    publish_collection(home / "registry", "user", "1.0", {"words": ">=1"})
    return home / "registry"


@pytest.fixture
def app(tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nuser = "*"\n')
    monkeypatch.chdir(folder)
    return folder


def locked(app: Path, name: str = "words") -> LockedModule:
    lock = read_lock(app / "modpkg.lock")
    assert lock is not None
    module = lock.find(name)
    assert module is not None
    return module


def ok(capfd: Capture, *arguments: str) -> str:
    status, out, err = run(capfd, *arguments)
    assert status == 0, err
    return out + err


def test_a_candidate_is_kept_until_it_is_accepted(
    app: Path, registry: Path, capfd: Capture
) -> None:
    ok(capfd, "install")
    assert (submit(registry, "1.1", "a"), submit(registry, "1.1", "b")) == (1, 2)
    assert "no release yet" in ok(capfd, "install", "--candidate", "words#1")
    assert "words" not in (app / "modpkg.toml").read_text()  # it came of user
    first = locked(app)
    assert (first.version, first.candidate) == ("1.1", 1)
    for command in (["install"], ["lock"], ["install", "--frozen"]):
        ok(capfd, *command)
        assert locked(app) == first
    ok(capfd, "install", "--candidate", "words#2")  # of the same version
    assert (locked(app).version, locked(app).candidate) == ("1.1", 2)
    ok(capfd, "install", "--candidate", "words#1")
    ok(capfd, "vendor", "vendored")
    CandidateWriter(registry).accept("words", 1, by="eve")
    assert "was accepted by eve; 'modpkg lock' notes" in ok(capfd, "install")
    ok(capfd, "lock")
    assert (locked(app).release, locked(app).candidate) == (first.release, 0)
    assert "accepted" not in ok(capfd, "install")
    ok(capfd, "install", "--frozen", "--registry", "vendored")


def test_one_that_was_rejected_makes_way(app: Path, registry: Path, capfd: Capture) -> None:
    submit(registry, "1.1", "a")
    ok(capfd, "install", "--candidate", "words#1")
    CandidateWriter(registry).reject("words", 1, by="eve", reason="no\nbetter")
    assert "was rejected by eve: no better; 'modpkg update words'" in ok(capfd, "install")
    assert locked(app).candidate == 1
    status, _, err = run(capfd, "install", "--candidate", "words#1")
    assert (status, "M468" in err) == (1, True)
    assert "a release takes its place" in ok(capfd, "lock")
    assert (locked(app).version, locked(app).candidate) == ("1.0", 0)
    submit(registry, "1.1", "b")
    CandidateWriter(registry).accept("words", 2, by="eve")
    ok(capfd, "update")  # 1.1 is another release than the one that was tried
    assert (locked(app).version, locked(app).candidate) == ("1.1", 0)


def test_update_goes_back_to_releases(app: Path, registry: Path, capfd: Capture) -> None:
    submit(registry, "1.1")
    ok(capfd, "install", "--candidate", "words#1")
    ok(capfd, "update", "words")
    assert (locked(app).version, locked(app).candidate) == ("1.0", 0)


def test_a_candidate_is_not_gone(app: Path, registry: Path, capfd: Capture) -> None:
    submit(registry, "1.1")
    ok(capfd, "install", "--candidate", "words#1")
    assert "any more" not in ok(capfd, "outdated")
    assert "any more" not in ok(capfd, "info", "words")


def test_a_new_name_is_added_without_a_bound(app: Path, registry: Path, capfd: Capture) -> None:
    submit(registry, "2.0rc1", name="fresh")
    ok(capfd, "install", "--candidate", "fresh#1")
    assert 'fresh = "*"' in (app / "modpkg.toml").read_text()
    assert (locked(app, "fresh").version, locked(app, "fresh").candidate) == ("2.0rc1", 1)
    assert run(capfd, "install", "--candidate", "fresh")[0] == 2
    assert run(capfd, "install", "--candidate", "fresh#2")[0] == 1


def test_another_release_under_its_number_is_refused(
    app: Path, registry: Path, capfd: Capture
) -> None:
    submit(registry, "1.1", "a")
    submit(registry, "1.1", "b")
    ok(capfd, "install", "--candidate", "words#1")
    path = registry / candidates_path("words")
    _, second = path.read_bytes().splitlines()
    path.write_bytes(second.replace(b'"number":2', b'"number":1') + b"\n")
    status, _, err = run(capfd, "lock")
    assert (status, "M416" in err) == (1, True)
    ok(capfd, "lock", "--accept-changed", "words")
    path.unlink()
    assert "does not have it any more" in ok(capfd, "install")
