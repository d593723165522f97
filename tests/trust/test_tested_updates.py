"""`update --test` and bisecting take no release that `update` refuses, and show what it shows.

The registry is the hostile one of `test_hostile_registry`.
"""

from __future__ import annotations

import json
import shlex
import sys

import pytest
import tomli

from tests.cli.test_everywhere import run
from tests.planted import write_check
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
PASSES = shlex.join([sys.executable, "-c", ""])


def test_a_name_that_was_dropped_and_comes_back_keeps_its_signer(
    victim: Victim,
    hostile: HostileRegistry,
    capfd: Capture,
) -> None:
    """Of what no lock has any more, the environment's generations remember who signed it."""
    manifest = (victim.app / "modpkg.toml").read_text().replace('words = "*"\n', "")
    (victim.app / "modpkg.toml").write_text(manifest)
    lines = hostile.lines("evil")
    for version, requires in (("1.1", ["words"]), ("1.2", [])):
        lines.append(hostile.forged(version, "evil", name="evil", requires=requires))
        hostile.write(lines, "evil")
        assert run(capfd, "install", "--upgrade")[0] == 0
    lines.append(hostile.forged("1.3", "evil", name="evil", requires=["words"]))
    hostile.write(lines, "evil")
    line = hostile.forged("1.2")
    hostile.sign(line)
    hostile.write([*hostile.lines(), line])
    before = (victim.app / "modpkg.lock").read_bytes()
    status, _, err = run(capfd, "update", "--test", PASSES)
    assert (status, "error[M544]" in err, "words 1.1 was installed" in err) == (1, True, True)
    assert (victim.app / "modpkg.lock").read_bytes() == before


def test_what_is_new_is_shown(victim: Victim, hostile: HostileRegistry, capfd: Capture) -> None:
    line = hostile.forged("1.0", "evil", name="third")
    hostile.sign(line)
    hostile.write([line], "third")
    newer = hostile.forged("1.1", "evil", name="evil", requires=["third"])
    hostile.write([*hostile.lines("evil"), newer], "evil")
    mallory = str(key("mallory").public)
    status, out, err = run(capfd, "update", "--test", PASSES, "--dry-run")
    assert (status, f"New here: third signed by {mallory}" in out) == (0, True), err
    status, out, err = run(capfd, "update", "--test", PASSES)
    assert (status, f"New here: third signed by {mallory}" in out) == (0, True), err


def test_what_was_accepted_is_named(
    victim: Victim,
    hostile: HostileRegistry,
    capfd: Capture,
) -> None:
    line = hostile.forged("1.2")
    hostile.sign(line)
    hostile.write([*hostile.lines(), line])
    assert "error[M544]" in run(capfd, "update", "--test", PASSES)[2]
    accepting = ("--accept-changed", "words")
    status, _, err = run(capfd, "update", "--test", PASSES, *accepting)
    assert (status, "which was accepted" in err) == (0, True), err


@pytest.mark.parametrize("is_named", [False, True])
def test_no_version_between_two_locks_is_tried_that_another_has_signed(
    is_named: bool,
    victim: Victim,
    hostile: HostileRegistry,
    capfd: Capture,
) -> None:
    """Ada has signed 1.3 too, with which the command fails; 1.2 between is mallory's."""
    if is_named:
        with open(victim.app / "modpkg.toml", "a") as file:
            file.write(f'[trust]\n"words" = "{victim.ada}"\n')
    lines = hostile.lines()
    for version, by in (("1.2", "mallory"), ("1.3", "ada")):
        line = hostile.forged(version)
        hostile.sign(line, by)
        lines.append(line)
    hostile.write(lines)
    fails = shlex.join(write_check(victim.app, "sys.exit(v['words'] > (1, 1))"))
    status, out, err = run(capfd, "update", "--test", fails, "--json")
    assert status == 0, err
    tried = (victim.app / ".runs").read_text()
    assert "(1, 3)" in tried
    assert "(1, 2)" not in tried
    (skipped,) = json.loads(out)["skipped"]
    assert "words 1.2" in skipped["reason"]
    assert ("M543" if is_named else victim.ada) in skipped["reason"] or victim.ada in skipped[
        "reason"
    ]
    lock = tomli.loads((victim.app / "modpkg.lock").read_text())
    assert {one["name"]: one["version"] for one in lock["module"]}["words"] == "1.1"
    victim.check(("update", "--test"))
