"""A lock is a promise: what it keeps is the same release, of the same registry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("arguments", [["compose"], ["trust", "accept", "other"]], ids=" ".join)
def test_what_resolves_beside_an_install_takes_the_remedy_too(
    app: Path, home: Path, tmp_path: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nlib = "*"\nother = "*"\n'
    )
    assert run(capfd, "lock")[0] == 0
    publish_collection(home / "registry", "other", "1.1")
    replace_release(home / "registry", tmp_path)
    (app / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nlib = ">=1"\nother = "*"\n'
    )
    status, _, err = run(capfd, *arguments)
    assert (status, "error[M416]" in err) == (1, True), err
    remedy = err.split("the command again with ")[1].rstrip(".\n").split()
    status, _, err = run(capfd, *arguments, *remedy)
    assert (status, err.count("error")) == (0, 0), err


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


def named_alike(folder: Path, like: Path) -> Path:
    """Give a registry the name of another one, and return its folder."""
    shutil.copyfile(like / "registry.json", folder / "registry.json")
    return folder


@pytest.mark.parametrize("how", ["option", "variable", "config"])
def test_another_registry_of_the_same_name_does_not_take_its_place(
    app: Path,
    home: Path,
    tmp_path: Path,
    how: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(capfd, "lock")[0] == 0
    locked = (app / "modpkg.lock").read_bytes()
    other = tmp_path / "other" / "registry"
    publish_collection(other, "lib", "9.0")
    named_alike(other, home / "registry")
    options = ["--registry", str(other)] if how == "option" else []
    if how == "variable":
        monkeypatch.setenv("MODPKG_REGISTRY", str(other))
    elif how == "config":
        (home / "config.toml").write_text(f'[registries]\ndefault = "{other}"\n')
    for arguments in (["update"], ["lock", "--upgrade"], ["install", "--upgrade-package", "lib"]):
        status, _, err = run(capfd, *arguments, *options)
        assert (status, "error[M416]" in err) == (1, True), err
        assert f"'registry' at {other}" in err
        assert "'registry' at modpkg's own folder" in err
    assert (app / "modpkg.lock").read_bytes() == locked
    assert run(capfd, "update", *options, "--accept-changed", "lib")[0] == 0
    assert f'address = "{other}"' in (app / "modpkg.lock").read_text()


def test_the_same_release_of_another_registry_leaves_the_lock_as_it_is(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    locked = (app / "modpkg.lock").read_bytes()
    shutil.copytree(home / "registry", tmp_path / "copy")
    assert run(capfd, "update", "--registry", str(tmp_path / "copy"))[0] == 0
    (tmp_path / "copy" / "registry.json").write_text('{"spec": 1, "name": "copy"}')
    assert run(capfd, "update", "--registry", str(tmp_path / "copy"))[0] == 0
    assert (app / "modpkg.lock").read_bytes() == locked


def test_a_registry_that_calls_itself_something_else_is_told(
    app: Path,
    home: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(capfd, "lock")[0] == 0
    (home / "registry" / "registry.json").write_text('{"spec": 1, "name": "hub"}')
    publish_collection(home / "registry", "lib", "1.1")
    for options in ([], ["--registry", str(home / "registry")]):
        status, _, err = run(capfd, "update", *options)
        assert (status, "error[M416]" in err) == (1, True)
        assert "called itself 'registry', and now calls itself 'hub'" in err
        assert "in place of" not in err
    monkeypatch.setenv("MODPKG_REGISTRY", str(home / "registry"))
    status, _, err = run(capfd, "lock", "--accept-changed", "lib")
    assert (status, err) == (0, "")


def test_a_lock_without_addresses_gets_them(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of an older modpkg; but not that of a registry that was named for once."""
    assert run(capfd, "lock")[0] == 0
    path = app / "modpkg.lock"
    new = path.read_text()
    path.write_text(new.replace('address = "built-in"\n', ""))
    old = path.read_text()
    assert old != new
    shutil.copytree(home / "registry", tmp_path / "copy")
    assert run(capfd, "lock", "--registry", str(tmp_path / "copy"))[0] == 0
    assert path.read_text() == old
    assert run(capfd, "install", "--frozen")[0] == 0
    assert run(capfd, "lock")[0] == 0
    assert path.read_text() == new


def test_to_name_a_module_is_not_to_accept_another_release(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "top", "1.0", {"lib": "*"})
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntop = "*"\n')
    assert run(capfd, "lock")[0] == 0
    replace_release(home / "registry", tmp_path)
    assert "error[M416]" in run(capfd, "add", "lib")[2]


def test_to_name_another_module_is_not_to_assign_this_one(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """``lib-two`` begins with ``lib``."""
    assert run(capfd, "lock")[0] == 0
    replace_release(home / "registry", tmp_path)
    publish_collection(tmp_path / "mine", "lib-two", "1.0")
    for order in ("lib = '*'\n{}", "{}lib = '*'\n"):
        two = "lib-two = { version = '*', registry = 'mine' }\n"
        (app / "modpkg.toml").write_text(
            f"[app]\nname = 'app'\n[registries]\nmine = '{tmp_path / 'mine'}'\n[dependencies]\n"
            + order.format(two)
        )
        assert "error[M416]" in run(capfd, "lock")[2]


def test_an_equal_version_in_another_spelling_is_the_same(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    replace_release(home / "registry", tmp_path, "1.0.0")
    assert "error[M416]" in run(capfd, "update")[2]


def test_what_was_installed_is_promised_without_a_lock_and_after_a_rollback(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "install")[0] == 0
    publish_collection(home / "registry", "lib", "1.1")
    assert run(capfd, "update")[0] == 0
    assert run(capfd, "rollback")[0] == 0
    assert 'version = "1.0"' in (app / "modpkg.lock").read_text()
    evil = tmp_path / "evil"
    publish_collection(evil, "other", "1.0")
    publish_collection(evil, "lib", "1.0")
    publish_collection(evil, "lib", "1.1", {"other": "*"})
    shutil.copyfile(evil / "index" / "lib.jsonl", home / "registry" / "index" / "lib.jsonl")
    shutil.copytree(evil / "blobs", home / "registry" / "blobs", dirs_exist_ok=True)
    status, _, err = run(capfd, "update")
    assert (status, "error[M416]" in err) == (1, True)
    assert "than the one that was installed" in err
    (app / "modpkg.lock").unlink()
    assert "error[M416]" in run(capfd, "install")[2]
    assert run(capfd, "install", "--accept-changed", "lib")[0] == 0
    assert run(capfd, "install", "--upgrade")[0] == 0


def test_a_version_that_was_replaced_and_yanked_is_told(
    app: Path, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "lock")[0] == 0
    replace_release(home / "registry", tmp_path)
    publish_collection(home / "registry", "lib", "1.1")
    path = home / "registry" / "index" / "lib.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["yanked"] = "bad"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "error[M416]" in run(capfd, "lock")[2]
    status, _, err = run(capfd, "lock", "--upgrade")
    assert status == 0
    assert "lib 1.0 was locked, and the registry 'registry' at modpkg's own folder now has" in err
    assert "yanked; 1.1 takes its place" in err


def change_index(registry: Path, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change the lines of ``lib``."""
    path = registry / "index" / "lib.jsonl"
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


VANISH = {
    "gone": lambda lines: lines[:1],
    "needs modpkg 99": lambda lines: [lines[0], lines[1] | {"requires_modpkg": ">=99"}],
    "another release": lambda lines: [lines[0], lines[1] | {"release": lines[0]["release"]}],
    "newer than the cut-off": lambda lines: [lines[0], lines[1] | {"published": "2999-01-01"}],
}


@pytest.mark.parametrize("how", VANISH)
def test_a_locked_version_that_vanished_is_not_downgraded(
    app: Path, home: Path, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor if the index says of it what excludes it now."""
    publish_collection(home / "registry", "lib", "1.1")
    if how == "newer than the cut-off":
        with open(app / "modpkg.toml", "a") as file:
            file.write("[resolution]\nexclude-newer = '2998-01-01'\n")
    assert run(capfd, "lock")[0] == 0
    locked = (app / "modpkg.lock").read_bytes()
    change_index(home / "registry", VANISH[how])
    commands = [["lock"], ["add", "other"]]
    if how in ("gone", "another release"):
        commands += [["update"], ["lock", "--upgrade-package", "lib"]]
    for command in commands:
        if how == "another release" and command != ["lock"]:
            change_index(home / "registry", lambda lines: [lines[0], lines[1] | {"yanked": ""}])
        status, _, err = run(capfd, *command)
        assert (status, "error[M416]" in err) == (1, True), err
        assert err.count("1.1") == 1 or how != "gone", err
    assert (app / "modpkg.lock").read_bytes() == locked
    if how != "another release":
        assert "lib 1.1 was locked, and" in err
        assert "1.0 takes its place" in err
        status, _, err = run(capfd, "lock", "--accept-changed", "lib")
        assert (status, err.count("lib 1.1 was locked, and")) == (0, 1)
        assert b'version = "1.0"' in (app / "modpkg.lock").read_bytes()


def test_what_the_manifest_asks_for_now_is_no_broken_promise(
    app: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "lib", "1.1")
    assert run(capfd, "lock")[0] == 0
    change_index(home / "registry", lambda lines: lines[:1])
    (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "<1.1"\n')
    status, _, err = run(capfd, "lock")
    assert (status, err.count("lib 1.1 was locked, and")) == (0, 1)


def test_a_version_that_vanished_and_has_a_newer_one_is_told_once(
    app: Path, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capfd, "install")[0] == 0
    publish_collection(home / "registry", "lib", "1.1")
    change_index(home / "registry", lambda lines: lines[1:])
    assert "error[M416]" in run(capfd, "lock")[2]
    status, _, err = run(capfd, "lock", "--upgrade-package", "lib")
    assert status == 0
    assert "lib 1.0 was locked" in err
    assert err.count("1.0") == 1


@pytest.mark.parametrize("has_it", [False, True])
def test_what_another_registry_of_the_same_name_lacks_is_not_said_of_the_locked_one(
    app: Path, home: Path, tmp_path: Path, has_it: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both call themselves alike, and only the one that is named now was asked."""
    publish_collection(home / "registry", "lib", "2.0")
    assert run(capfd, "lock")[0] == 0
    other = tmp_path / "other"
    publish_collection(other, "lib", "3.0" if has_it else "1.0")
    if has_it:
        publish_collection(other, "other", "1.0")
        publish_collection(other, "lib", "2.0", {"other": "*"})
    shutil.copyfile(home / "registry" / "registry.json", other / "registry.json")
    status, _, err = run(capfd, "update", "--registry", str(other), "--accept-changed", "lib")
    assert status == 0, err
    assert "any more" not in err
    assert "now has another release" not in err
    assert f"at {other} " in err
