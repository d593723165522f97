"""A lock is a promise: what it keeps is the same release, of the same registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.test_everywhere import run
from tests.modules import publish_collection


@pytest.fixture
def app(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A locked app on ``lib``; the registry also has ``other``."""
    publish_collection(home / "registry", "lib", "1.0")
    publish_collection(home / "registry", "other", "1.0")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    monkeypatch.chdir(folder)
    return folder


def replace_release(registry: Path, tmp_path: Path, version: str = "1.0") -> None:
    """Put another release in the place of ``lib``, as a registry that is taken over would."""
    evil = tmp_path / "evil"
    publish_collection(evil, "other", "1.0")
    publish_collection(evil, "lib", version, {"other": "*"})
    shutil.copyfile(evil / "index" / "lib.jsonl", registry / "index" / "lib.jsonl")
    shutil.copytree(evil / "blobs", registry / "blobs", dirs_exist_ok=True)


COMMANDS = [["lock"], ["lock", "--upgrade"], ["update"], ["add", "other"], ["install", "other"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_another_release_of_a_locked_version_is_refused(
    app: Path, home: Path, tmp_path: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    locked = (app / "modpkg.lock").read_bytes()
    manifest = (app / "modpkg.toml").read_bytes()
    replace_release(home / "registry", tmp_path)
    # once more: what a registry has now is not in the cache of the first command
    if arguments == ["lock"]:
        (app / "modpkg.toml").write_bytes(manifest.replace(b'"*"', b'">=1"'))
    status, _, err = run(capfd, *arguments)
    assert (status, "error[M416]" in err) == (1, True)
    assert (app / "modpkg.lock").read_bytes() == locked
    remedy = err.split("the command again with ")[1].rstrip(".\n").split()
    status, _, err = run(capfd, *arguments, *remedy)
    assert (status, err.count("error")) == (0, 0)
    assert b'name = "other"' in (app / "modpkg.lock").read_bytes()


def test_removing_keeps_the_promise_too(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "add", "other")[0] == 0
    replace_release(home / "registry", tmp_path)
    assert "error[M416]" in run(capfd, "remove", "other")[2]
    assert run(capfd, "remove", "other", "--accept-changed", "lib")[0] == 0


def test_another_registry_does_not_take_the_place_of_one(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    publish_collection(tmp_path / "mine", "lib", "9.0")
    publish_collection(tmp_path / "mine", "other", "1.0")
    (tmp_path / "mine" / "registry.json").write_text('{"spec": 1, "name": "mine"}')
    for arguments in (["lock", "--upgrade"], ["update"]):
        status, _, err = run(capfd, *arguments, "--registry", str(tmp_path / "mine"))
        assert (status, "error[M416]" in err) == (1, True)
        assert "9.0" not in (app / "modpkg.lock").read_text()
    assert run(capfd, "install", "other", "--registry", str(tmp_path / "mine"))[0] == 0
    assert "9.0" not in (app / "modpkg.lock").read_text()


def test_a_registry_that_the_manifest_now_names_is_what_is_meant(
    app: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    publish_collection(tmp_path / "mine", "lib", "1.0", {"lib2": "*"})
    publish_collection(tmp_path / "mine", "lib2", "1.0")
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\n'
        'lib = { version = "*", registry = "mine" }\n'
        f'[registries]\nmine = "{tmp_path / "mine"}"\n'
    )
    assert run(capfd, "lock")[0] == 0


def test_the_same_release_again_is_fine(
    app: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    publish_collection(home / "registry", "lib", "1.1")
    status, _, err = run(capfd, "update")
    assert (status, err) == (0, "")


def test_a_version_that_vanished_is_told(
    app: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    publish_collection(home / "registry", "lib", "1.1")
    path = home / "registry" / "index" / "lib.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(json.dumps(lines[1]) + "\n")
    status, _, err = run(capfd, "lock", "--upgrade-package", "lib")
    assert status == 0
    assert "lib 1.0 was locked" in err
