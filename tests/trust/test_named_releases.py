"""A release that is named beside the lock is held to what a lock is: forked, merged, built upon.

The registry is the hostile one of `test_hostile_registry`: 1.2 of ``words`` is mallory's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.trust.private_key import key_path, new_key
from tests.cli.test_everywhere import run
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
