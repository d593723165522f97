"""A release that is named beside the lock is held to what a lock is: forked, merged, built upon.

The registry is the hostile one of `test_hostile_registry`: 1.2 of ``words`` is mallory's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modpkg.trust.private_key import key_path, new_key
from tests.cli.test_everywhere import run
from tests.modules import write_module
from tests.tiny import write_adapter, write_base
from tests.trust.test_hostile_registry import (
    Capture,
    HostileRegistry,
    Victim,
    hostile,
    kept,
    key,
    server,
    victim,
)

__all__ = ["hostile", "kept", "server", "victim"]


@pytest.fixture
def forged(victim: Victim, hostile: HostileRegistry) -> HostileRegistry:
    line = hostile.forged("1.2")
    hostile.sign(line)
    hostile.write([*hostile.lines(), line])
    return hostile


def says(victim: Victim, text: str) -> None:
    with open(victim.app / "modpkg.toml", "a") as file:
        file.write(text)


@pytest.mark.parametrize("how", ["lock", "installed", "trust", "require-signed"])
def test_a_fork_is_of_what_the_project_may_have(
    how: str, victim: Victim, forged: HostileRegistry, capfd: Capture
) -> None:
    code = "M595"
    if how == "installed":
        (victim.app / "modpkg.lock").unlink()
    if how == "trust":
        says(victim, f'[trust]\n"wor*" = "{victim.ada}"\n')
        code = "M543"
    if how == "require-signed":
        says(victim, "[resolution]\nrequire-signed = true\n")
        forged.write([*forged.lines()[:2], forged.forged("1.2")])
        (victim.app / "modpkg.lock").unlink()
        code = "M595"  # what was installed is signed
    for named in ("words", "words==1.2"):
        status, _, err = run(capfd, "fork", named, "mine")
        assert (status, f"error[{code}]" in err, "words 1.2" in err) == (1, True, True), err
        assert not (victim.app / "mine").exists()
    status, _, err = run(capfd, "fork", "words==1.1", "mine")
    assert status == 0, err
    if how == "lock":
        assert run(capfd, "trust", "accept", "words")[0] == 0
        assert run(capfd, "fork", "words==1.2", "other")[0] == 0


def test_what_nobody_has_signed_is_the_locked_release(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    (first,) = hostile.lines("evil")
    hostile.write([hostile.forged("1.0", "evil", name="evil", summary="changed")], "evil")
    status, _, err = run(capfd, "fork", "evil==1.0", "mine")
    assert (status, "error[M595]" in err) == (1, True), err
    says(victim, "[resolution]\nrequire-signed = true\n")
    newer = hostile.forged("1.1", "evil", name="evil")
    hostile.write([first, newer], "evil")
    status, _, err = run(capfd, "fork", "evil==1.1", "mine")
    assert (status, "error[M545]" in err) == (1, True), err


def test_what_is_made_of_a_release_is_refused_and_what_is_shown_is_warned_of(
    victim: Victim, forged: HostileRegistry, capfd: Capture
) -> None:
    for command in (
        ("patch", "create", "words==1.2", "--base", "words==1.1"),
        ("patch", "create", "words==1.1", "--base", "words==1.2"),
        ("patch", "apply", "words==1.0", "--base", "words==1.2"),
        ("merge", "words==1.0", "words==1.1", "--base", "words==1.2"),
    ):
        status, _, err = run(capfd, *command)
        assert (status, "error[M595]" in err) == (1, True), (command, err)
    status, _, err = run(capfd, "diff", "words==1.1", "words==1.2")
    assert (status, "warning: words 1.1 is locked with the signer" in err) == (0, True), err


def test_the_base_of_a_build_is_judged(home: Path, tmp_path: Path, capfd: Capture) -> None:
    """The newest is signed by nobody, whom the adapter's own manifest does not let sign."""
    registry = ("--registry", str(tmp_path / "models"))
    new_key(key_path("ada"), "ed25519", None)
    for version, sign in (("1.0", ("--sign", "ada")), ("1.1", ())):
        base = write_base(tmp_path / f"base-{version}", version)
        assert run(capfd, "build", str(base))[0] == 0
        assert run(capfd, "publish", str(base), *registry, *sign)[0] == 0
    folder = write_adapter(tmp_path / "lora")
    assert run(capfd, "build", str(folder), *registry)[0] == 0
    with open(folder / "modpkg.toml", "a") as file:
        file.write(f'[trust]\ntiny = "{key("ada").public}"\n')
    status, _, err = run(capfd, "build", str(folder), *registry)
    assert (status, "error[M543]" in err, "tiny 1.1" in err) == (1, True, True), err
    status, _, err = run(capfd, "build", str(folder), *registry, "--against", "1.0")
    assert status == 0, err


def test_what_an_update_would_take_is_said_as_it_is(
    victim: Victim, forged: HostileRegistry, capfd: Capture
) -> None:
    (row,) = json.loads(run(capfd, "outdated", "--json")[1])["modules"]
    assert (row["name"], row["update"], row["newest"]) == ("words", None, "1.2")
    assert str(key("mallory").public) in row["reason"]
    answer = json.loads(run(capfd, "why-not", "words==1.2", "--json")[1])
    assert (answer["verdict"], victim.ada in answer["explanation"]) == ("forbidden", True)
    assert answer["command"] == 'modpkg install "words==1.2" --accept-changed words'
    manifest, text = victim.app / "modpkg.toml", (victim.app / "modpkg.toml").read_text()
    manifest.write_text(text.replace('words = "*"', 'words = "==1.1"'))
    answer = json.loads(run(capfd, "why-not", "words==1.2", "--json")[1])
    assert answer["command"] == 'modpkg install "words==1.2" --accept-changed words'
    manifest.write_text(text)
    says(victim, f'[trust]\nwords = "{victim.ada}"\n')
    answer = json.loads(run(capfd, "why-not", "words==1.2", "--json")[1])
    assert (answer["verdict"], "command" in answer and answer["command"]) == ("forbidden", None)
    (row,) = json.loads(run(capfd, "outdated", "--json")[1])["modules"]
    assert (row["update"], "has to be signed by" in row["reason"]) == (None, True)


def test_an_older_release_by_nobody_passes_by_its_version(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """As where somebody signs only since a later one; one that is not named is another matter."""
    older, newer = hostile.forged("0.9"), hostile.forged("1.2")
    del older["signed"], newer["signed"]
    hostile.write([older, *hostile.lines(), newer])
    for command in (
        ("fork", "words==0.9", "mine"),
        ("patch", "create", "words==1.0", "--base", "words==0.9", "--name", "change"),
        ("merge", "words==1.0", "words==1.1", "--base", "words==0.9", "--check"),
    ):
        _, _, err = run(capfd, *command)
        assert ("M595" in err, "words 0.9 is signed by nobody" in err) == (False, True), err
    status, _, err = run(capfd, "fork", "words", "newest")
    assert (status, "error[M595]" in err, "words 1.2" in err) == (1, True, True), err
    newer["signed"] = True  # by whom is hidden
    hostile.write([*hostile.lines()[:-1], newer])
    status, _, err = run(capfd, "fork", "words==1.2", "newest")
    assert (status, "error[M595]" in err) == (1, True), err
    says(victim, "[resolution]\nrequire-signed = true\n")
    status, _, err = run(capfd, "fork", "words==0.9", "other")
    assert (status, "error[M545]" in err) == (1, True), err


def test_who_came_before_stands_by_what_he_had_signed(
    victim: Victim, hostile: HostileRegistry, tmp_path: Path, capfd: Capture
) -> None:
    """What a key signs after its succession is not among that, whoever has the key now."""
    registry = ("--registry", str(hostile.folder))
    for old, new, version in (("ada", "bob", "1.2"), ("bob", "log", "1.3")):
        to = ("--to", str(key(new).public), *registry)
        assert run(capfd, "key", "succeed", "words", "--from", old, *to)[0] == 0
        folder = str(write_module(tmp_path / version, "words", version))
        assert run(capfd, "build", folder)[0] == 0
        assert run(capfd, "publish", folder, "--sign", new, *registry)[0] == 0
    assert run(capfd, "update")[0] == 0
    assert str(key("log").public) in (victim.app / "modpkg.lock").read_text()
    for version in ("1.0", "1.2"):
        status, _, err = run(capfd, "fork", f"words=={version}", f"mine-{version[-1]}")
        assert (status, "signed by" in err) == (0, False), err
    status, _, err = run(capfd, "diff", "words==1.0", "words==1.3")
    assert "signed by" not in err, err
    later = hostile.forged("1.0.1")
    hostile.sign(later, "ada")
    hostile.write([*hostile.lines(), later])
    status, _, err = run(capfd, "fork", "words==1.0.1", "later")
    assert (status, "error[M595]" in err) == (1, True), err
    again = ("--accept-changed", "words")
    assert run(capfd, "fork", "words==1.0.1", "later", *again)[0] == 0


def test_the_locked_release_passes_wherever_it_is(
    victim: Victim, hostile: HostileRegistry, tmp_path: Path, capfd: Capture
) -> None:
    copy = HostileRegistry(shutil.copytree(hostile.folder, tmp_path / "copy"))
    info = json.loads((copy.folder / "registry.json").read_text())
    (copy.folder / "registry.json").write_text(json.dumps(info | {"name": "copy"}))
    there = ("--registry", str(copy.folder))
    for name, version in (("words", "1.1"), ("words", "1.0"), ("evil", "1.0")):
        status, _, err = run(capfd, "fork", f"{name}=={version}", f"{name}-{version[-1]}", *there)
        assert (status, err.count("warning")) == (0, 0), err
    copy.write([copy.lines()[0], copy.forged("1.1", summary="changed")])
    status, _, err = run(capfd, "fork", "words==1.1", "mine", *there)
    assert (status, "error[M595]" in err) == (1, True), err
    assert run(capfd, "fork", "words==1.1", "mine", *there, "--accept-changed", "words")[0] == 0


def test_outside_any_project_nothing_is_judged_but_on_request(
    victim: Victim,
    forged: HostileRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    there = ("--registry", str(forged.folder))
    assert run(capfd, "install", "--user", "words==1.1", *there)[0] == 0
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capfd, "fork", "--user", "words==1.2", "asked", *there)
    assert (status, "error[M595]" in err) == (1, True), err
    assert run(capfd, "fork", "words==1.2", "mine", *there)[0] == 0


def test_a_base_by_nobody_is_built_against_by_its_version(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    """Its author has installed the signed one that came after."""
    registry = str(tmp_path / "models")
    new_key(key_path("ada"), "ed25519", None)
    folder = write_adapter(tmp_path / "lora")
    for version, sign in (("1.0", ()), ("1.1", ("--sign", "ada")), ("1.2", ())):
        base = write_base(tmp_path / f"base-{version}", version)
        assert run(capfd, "build", str(base))[0] == 0
        assert run(capfd, "publish", str(base), "--registry", registry, *sign)[0] == 0
        if version == "1.1":
            monkeypatch.setenv("MODPKG_REGISTRY", registry)
            monkeypatch.chdir(folder)
            assert run(capfd, "install")[0] == 0
    status, _, err = run(capfd, "build", "--against", "1.0")
    assert (status, "tiny 1.0 is signed by nobody" in err) == (0, True), err
    status, _, err = run(capfd, "build", "--against", "1.1")
    assert (status, "signed by" in err) == (0, False), err
    for command in ("build", "test"):
        assert "error[M595]" in run(capfd, command)[2], command
        err = run(capfd, command, "--accept-changed", "tiny")[2]
        assert ("M595" in err, "No such option" in err) == (False, False), (command, err)
