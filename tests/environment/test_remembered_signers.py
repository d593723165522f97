"""A lock that has another signer of a release than the machine remembers, or none, honestly."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from modpkg.environment.remembered_signers import held_signers
from modpkg.registry.reader import Registry
from modpkg.resolve.lock import Lock, LockedModule
from tests.cli.test_everywhere import run
from tests.trust.test_signed_releases import app, keys, release, signers

__all__ = ["app", "keys"]
Capture = pytest.CaptureFixture[str]


def done(capfd: Capture, *command: str) -> str:
    status, out, err = run(capfd, *command)
    assert status == 0, (command, err)
    return out + err


def sign(capfd: Capture, tmp_path: Path, version: str, by: str) -> None:
    """Sign a release that is published already."""
    done(capfd, "publish", str(tmp_path / "projects" / f"words-{version}"), "--sign", by)


def test_a_lock_from_before_the_release_was_signed_holds(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    lock = app / "modpkg.lock"
    release(capfd, tmp_path, "1.0")
    done(capfd, "install")
    before = lock.read_text()
    sign(capfd, tmp_path, "1.0", "ada")
    done(capfd, "lock")
    done(capfd, "install")
    assert signers(app) == {"words": keys["ada"]}
    after = lock.read_text()
    lock.write_text(before)  # an old branch
    for command in (
        ("install", "--frozen"),
        ("install", "--frozen"),  # nothing to do
        ("lock", "--check"),
        ("audit",),
        ("licenses",),
        ("sbom",),
        ("vendor", str(tmp_path / "vendored")),
    ):
        said = done(capfd, *command)
        assert said.count("warning: words 1.0 is locked without a signer") == 1, (command, said)
        assert keys["ada"] in said, (command, said)
        assert "'modpkg lock'" in said, (command, said)
        assert lock.read_text() == before, command
    for command in (("install",), ("lock",)):
        lock.write_text(before)
        done(capfd, *command)
        assert lock.read_text() == after, command
    lock.write_text(before)
    release(capfd, tmp_path, "1.1", "bob")
    assert "error[M544]" in run(capfd, "update")[2]


def test_after_a_rollback_install_writes_the_signer(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0")
    release(capfd, tmp_path, "1.0", name="other")
    done(capfd, "install")
    sign(capfd, tmp_path, "1.0", "ada")
    done(capfd, "add", "other")
    done(capfd, "rollback")
    assert signers(app) == {"words": ""}
    assert keys["ada"] in done(capfd, "lock", "--check")
    done(capfd, "install")
    assert signers(app) == {"words": keys["ada"]}
    assert "warning" not in done(capfd, "lock", "--check")
    assert "Nothing to do" in done(capfd, "install")


def test_locks_of_two_who_met_a_signer_and_its_successor_hold_for_each_other(
    app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(capfd, tmp_path, "1.0", "ada")
    other = tmp_path / "clone"
    shutil.copytree(app, other)
    done(capfd, "install")
    done(capfd, "key", "succeed", "words", "--from", "ada", "--to", keys["bob"])
    sign(capfd, tmp_path, "1.0", "bob")
    monkeypatch.chdir(other)
    done(capfd, "install")
    assert signers(other) == {"words": keys["bob"]}
    locks = {folder: (folder / "modpkg.lock").read_text() for folder in (app, other)}
    for here, there in ((app, other), (other, app)):
        monkeypatch.chdir(here)
        lock = here / "modpkg.lock"
        lock.write_text(locks[there])
        for command in (("lock", "--check"), ("lock",), ("install", "--frozen"), ("install",)):
            said = done(capfd, *command)
            if here == app or command == ("install",):  # bob follows; or it is installed now
                assert "warning" not in said, (here, command, said)
            else:
                assert "who follows that one" in said, (here, command, said)
            assert lock.read_text() == locks[there], (here, command)
    release(capfd, tmp_path, "1.1", "bob")
    for folder in (app, other):
        monkeypatch.chdir(folder)
        done(capfd, "update")
        assert signers(folder) == {"words": keys["bob"]}


@pytest.mark.parametrize("way", [0, 1])
def test_the_ways_on_from_a_signer_who_follows_nobody(
    way: int, app: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    """Both have signed the release, and neither has named the other."""
    lock = app / "modpkg.lock"
    release(capfd, tmp_path, "1.0", "ada")
    done(capfd, "install")
    sign(capfd, tmp_path, "1.0", "bob")
    edited = lock.read_text().replace(keys["ada"], keys["bob"])
    lock.write_text(edited)
    status, _, err = run(capfd, "install", "--frozen")
    assert (status, "error[M412]" in err, "modpkg.toml (" in err) == (1, True, False)
    remedies = [one.split("'")[0].split() for one in err.split("'modpkg ")[1:]]
    assert len(remedies) == 2
    done(capfd, *remedies[way])
    assert signers(app) == {"words": [keys["ada"], keys["bob"]][way]}
    assert "warning" not in done(capfd, "install", "--frozen")
    lock.write_text(edited)
    if way == 0:
        done(capfd, "trust", "add", "words", keys["bob"])
        done(capfd, "lock")
        assert signers(app) == {"words": keys["bob"]}
    done(capfd, "lock", "--check")


def test_offline_another_signer_holds_with_a_warning() -> None:
    module = LockedModule(
        name="words", version="1.0", kind="base", registry="r", release="sha256:0", signer="key:b"
    )
    offline = cast("Registry", SimpleNamespace(offline=True))
    held = held_signers(
        Lock(requirements=[], module=[module]), {"words": "key:a"}, lambda _: offline
    )
    assert (held.refused, held.forgotten, len(held.notes)) == ({}, {}, 1)


def test_a_later_signature_that_does_not_count_is_said_to_by_lock(
    app: Path, home: Path, tmp_path: Path, keys: dict[str, str], capfd: Capture
) -> None:
    release(capfd, tmp_path, "1.0")
    done(capfd, "install")
    sign(capfd, tmp_path, "1.0", "ada")
    (path,) = (home / "registry" / "signatures").rglob("*.jsonl")
    path.write_text(path.read_text().replace('"sig":"', '"sig":"AAAA'))
    shutil.rmtree(app / ".modpkg")
    assert "or says why" in done(capfd, "install", "--frozen")
    assert "does not count, since" in done(capfd, "lock")
    assert signers(app) == {"words": ""}
