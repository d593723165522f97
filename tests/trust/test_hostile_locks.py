"""A pull request that changes modpkg.lock alone, and what a lock is not made into."""

from __future__ import annotations

import datetime
import json
import re
import shutil

import pytest

from modpkg.environment import generations
from modpkg.environment.generations import Environment
from modpkg.resolve import lock as lock_file
from tests.cli.test_everywhere import run
from tests.trust.test_hostile_registry import (
    Capture,
    HostileRegistry,
    Victim,
    _names_itself_the_successor,
    hostile,
    kept,
    key,
    server,
    victim,
)

__all__ = ["hostile", "kept", "server", "victim"]


def refused(capfd: Capture, code: str, *command: str) -> str:
    status, _, err = run(capfd, *command)
    assert status == 1, (command, err)
    assert f"error[{code}]" in err, (command, err)
    return err


def done(capfd: Capture, *command: str) -> str:
    status, out, err = run(capfd, *command)
    assert status == 0, (command, err)
    return out + err


def _older(text: str, hostile: HostileRegistry) -> str:
    first, second = hostile.lines()
    text = text.replace(second["release"], first["release"])
    return text.replace('version = "1.1"', 'version = "1.0"')


@pytest.mark.parametrize("by", ["dependencies", "constraints", "gone"])
def test_a_lock_that_is_not_what_the_manifest_asks_for_is_out_of_date(
    by: str, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    if by == "constraints":
        manifest.write_text(manifest.read_text() + '[constraints]\nwords = ">=1.1"\n')
    else:
        manifest.write_text(manifest.read_text().replace('words = "*"', 'words = ">=1.1"'))
    done(capfd, "lock")
    text = lock.read_text()
    edited = _older(text, hostile)
    if by == "gone":
        edited = re.sub(r'\[\[module\]\]\nname = "words"\n(.+\n)*\n?', "", text)
    assert edited != text
    lock.write_text(edited)
    for command in (("install", "--frozen"), ("lock", "--check")):
        assert "words" in refused(capfd, "M412", *command)
    done(capfd, "install")
    assert lock.read_text() == text
    victim.check(("install",))


def test_a_lock_with_a_module_that_nothing_requires_is_refused(
    victim: Victim, capfd: Capture
) -> None:
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    before = manifest.read_text()
    manifest.write_text(before + 'other = "*"\n')
    done(capfd, "lock")
    manifest.write_text(before)
    text = lock.read_text().replace('    "other",\n', "")
    assert 'name = "other"' in text
    lock.write_text(text)
    assert "other 1.0" in refused(capfd, "M410", "install", "--frozen")
    done(capfd, "lock")
    assert 'name = "other"' not in lock.read_text()


@pytest.mark.parametrize("command", [("lock",), ("install",)])
def test_no_lock_is_written_that_is_too_long_to_be_read(
    command: tuple[str, ...],
    victim: Victim,
    hostile: HostileRegistry,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one so far stays, and with it what it promises."""
    lock = victim.app / "modpkg.lock"
    text = lock.read_text()
    monkeypatch.setattr(lock_file, "LOCK_BYTES", len(text) + 500)
    requires = [f"words>=0.{number}" for number in range(40)]
    newer = hostile.forged("1.1", "evil", name="evil", requires=requires)
    hostile.write([*hostile.lines("evil"), newer], "evil")
    manifest = victim.app / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('evil = "*"', 'evil = ">=1.1"'))
    assert "evil 1.1" in refused(capfd, "M594", *command)
    assert lock.read_text() == text
    victim.check(command)


def test_no_generation_is_written_that_is_too_long_to_be_read(
    victim: Victim, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It remembers who signed what, and an environment without it is damaged."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    text = lock.read_text()
    monkeypatch.setattr(generations, "SMALL_FILE_BYTES", 1000)
    manifest.write_text(manifest.read_text() + 'other = "*"\n')
    refused(capfd, "M594", "install")
    assert lock.read_text() == text
    assert len(Environment(victim.app / ".modpkg").numbers()) == 1


def _signed_by_mallory(hostile: HostileRegistry) -> None:
    line = hostile.forged("1.2")
    hostile.sign(line)
    hostile.write([*hostile.lines(), line])


@pytest.mark.parametrize("now", ["nobody", "mallory"])
def test_a_signer_that_was_installed_is_not_written_out_of_a_lock(
    now: str, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    lock = victim.app / "modpkg.lock"
    text = lock.read_text()
    other = "" if now == "nobody" else f'signer = "{key("mallory").public}"\n'
    edited = re.sub(r'signer = ".*"\n', other, text)
    assert edited != text
    lock.write_text(edited)
    for command in (("install", "--frozen"), ("lock", "--check")):
        if now == "nobody":  # it may be from before it was signed
            assert victim.ada in done(capfd, *command)
        else:
            assert victim.ada in refused(capfd, "M412", *command)
        assert lock.read_text() == edited
    for command in (("lock",), ("install",), ("lock", "--upgrade")):
        lock.write_text(edited)
        assert victim.ada in done(capfd, *command)
        assert lock.read_text() == text, command
    _signed_by_mallory(hostile)
    for command in (("update",), ("lock", "--upgrade"), ("update", "words")):
        lock.write_text(edited)
        refused(capfd, "M544", *command)
    hostile.write(hostile.lines()[:1])  # the newer ones are gone
    for command in (("update",), ("lock",)):
        lock.write_text(edited)
        refused(capfd, "M416", *command)
        victim_has = re.findall('name = "words"\nversion = "(.*)"', lock.read_text())
        assert victim_has == ["1.1"]


def test_a_signer_who_is_no_successor_is_not_written_into_a_lock(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """The registry has her signature of ada's release, and lets her say that she is next."""
    lock = victim.app / "modpkg.lock"
    text = lock.read_text()
    edited = text.replace(victim.ada, str(key("mallory").public))
    _names_itself_the_successor(hostile)
    first, second, _ = hostile.lines()
    hostile.sign(second)
    hostile.write([first, second])
    lock.write_text(edited)
    for command in (("install", "--frozen"), ("lock", "--check")):
        assert victim.ada in refused(capfd, "M412", *command)
    done(capfd, "lock")
    assert lock.read_text() == text


def test_a_clone_is_not_silent_about_a_signer_that_its_lock_lacks(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """It has installed nothing yet: the index line says that there is one."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    manifest.write_text(
        re.sub('default = ".*"', f'default = "{hostile.folder}"', manifest.read_text())
    )
    lock.unlink()
    done(capfd, "lock")
    text = lock.read_text()
    lock.write_text(re.sub(r'signer = ".*"\n', "", text))
    shutil.rmtree(victim.app / ".modpkg")
    assert "words 1.1 is locked without a signer" in done(capfd, "install", "--frozen")
    done(capfd, "lock")
    assert lock.read_text() == text


@pytest.mark.parametrize("server", ["signed"], indirect=True)
def test_what_a_lock_had_of_a_registry_is_missed(victim: Victim, capfd: Capture) -> None:
    lock = victim.app / "modpkg.lock"
    text = lock.read_text()
    edited = re.sub(r"\[\[registry\]\]\n(.+\n)*", "", text).rstrip() + "\n"
    assert edited != text
    for command in (("lock", "--check"), ("install", "--frozen")):
        lock.write_text(edited)
        said = done(capfd, *command)
        assert "nothing of the log and the signed index of" in said, (command, said)
    done(capfd, "lock")
    assert lock.read_text() == text


def test_what_was_dropped_comes_back_as_no_older_release(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """Whoever owns evil, which nobody signs, drops words, and then requires an older one."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    (first,) = hostile.lines("evil")
    second = hostile.forged("1.1", "evil", name="evil", requires=["words"])
    hostile.write([first, second], "evil")
    manifest.write_text(manifest.read_text().replace('words = "*"\n', ""))
    done(capfd, "update")
    third = hostile.forged("1.2", "evil", name="evil", requires=[])
    hostile.write([first, second, third], "evil")
    done(capfd, "update")
    assert 'name = "words"' not in lock.read_text()
    back = hostile.forged("1.3", "evil", name="evil", requires=["words==1.0"])
    hostile.write([first, second, third, back], "evil")
    assert "words 1.1" in refused(capfd, "M416", "update")
    lock.unlink()  # nor without a lock
    assert "words 1.1" in refused(capfd, "M416", "update")
    manifest.write_text(manifest.read_text() + 'words = "==1.0"\n')  # the user may say so
    done(capfd, "update")


EDITS = {
    "nothing": "",
    "a constraint on another": '[constraints]\nother = "<9"\n',
    "pre-releases of another": '[resolution]\nprereleases = ["other"]\n',
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("by", ["exclude-newer", "cool-down"])
def test_a_release_that_was_dated_anew_is_not_taken_back(
    by: str, edit: str, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """Of when a release was published only the index says anything."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    for name in ("words", "evil"):
        lines = hostile.lines(name)
        hostile.write([one | {"published": "2020-01-01T00:00:00Z"} for one in lines], name)
    before = manifest.read_text()
    if by == "exclude-newer":
        manifest.write_text(before + '[resolution]\nexclude-newer = "7 days"\n')
    else:
        info = hostile.folder / "registry.json"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"cool_down": "7 days"}))
    done(capfd, "lock", "--upgrade")
    first, second = hostile.lines()
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    hostile.write([first, second | {"published": now}])
    text = manifest.read_text()
    if by == "exclude-newer":
        more = EDITS[edit].removeprefix("[resolution]\n") if "prereleases" in EDITS[edit] else ""
        manifest.write_text(text + more + ("" if more else EDITS[edit]))
    else:
        manifest.write_text(text + EDITS[edit])
    later = ("update", "--exclude-newer", "6 days")  # else it is a first cut-off, the user's own
    for command in (("lock",), ("update",), *((later,) if by == "exclude-newer" else ())):
        status, _, err = run(capfd, *command)
        assert status == 0 or "error[M416]" in err, (command, err)
        victim.check(command)
    assert 'version = "1.1"' in lock.read_text()


def test_a_cutoff_that_the_project_moves_back_goes_back(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    first, second = hostile.lines()
    hostile.write(
        [
            first | {"published": "2020-01-01T00:00:00Z"},
            second | {"published": "2022-01-01T00:00:00Z"},
        ]
    )
    (evil,) = hostile.lines("evil")
    hostile.write([evil | {"published": "2020-01-01T00:00:00Z"}], "evil")
    before = manifest.read_text()
    manifest.write_text(before + '[resolution]\nexclude-newer = "2023-01-01"\n')
    done(capfd, "lock")
    assert 'version = "1.1"' in lock.read_text()
    manifest.write_text(before + '[resolution]\nexclude-newer = "2021-01-01"\n')
    done(capfd, "lock")
    assert 'version = "1.1"' not in lock.read_text()


@pytest.mark.parametrize("is_pinned", [False, True])
def test_a_first_cutoff_of_the_project_counts_whatever_the_registrys_cool_down(
    is_pinned: bool, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """The cool-down never kept out what is locked, so the cut-off is no later one."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    for name in ("words", "evil"):
        first, *later = hostile.lines(name)
        hostile.write([first | {"published": "2020-01-01T00:00:00Z"}, *later], name)
    info = hostile.folder / "registry.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"cool_down": "7 days"}))
    before = manifest.read_text()
    if is_pinned:
        manifest.write_text(before.replace('words = "*"', 'words = "==1.1"'))
        done(capfd, "lock")
    done(capfd, "lock")
    assert 'version = "1.1"' in lock.read_text()
    manifest.write_text(before + '[resolution]\nexclude-newer = "1 days"\n')
    done(capfd, "lock")
    assert 'version = "1.1"' not in lock.read_text()


@pytest.mark.parametrize("by", ["command", "edit", "edit at once"])
def test_what_the_user_removed_may_come_back_older(
    by: str, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """It was his, and he asks for what requires the older one, which nobody has signed."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    if by == "command":
        done(capfd, "remove", "words")
    else:
        manifest.write_text(manifest.read_text().replace('words = "*"\n', ""))
        if by == "edit":
            done(capfd, "install")
    asks = hostile.forged("1.0", "evil", name="asks", requires=["words==1.0"])
    hostile.write([asks], "asks")
    done(capfd, "add", "asks")
    assert 'name = "words"\nversion = "1.0"' in lock.read_text()


def test_what_the_user_removed_comes_back_as_a_cool_down_has_it(
    victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    done(capfd, "remove", "words")
    first, second = hostile.lines()
    hostile.write([first | {"published": "2020-01-01T00:00:00Z"}, second])
    info = hostile.folder / "registry.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"cool_down": "7 days"}))
    done(capfd, "add", "words")
    assert 'version = "1.1"' not in (victim.app / "modpkg.lock").read_text()


@pytest.mark.parametrize("by", ["it stays", "put back"])
def test_what_another_module_required_is_not_removed_with_what_the_user_removes(
    by: str, victim: Victim, hostile: HostileRegistry, capfd: Capture
) -> None:
    """Whoever owns evil, which required words too, brings back no older one of it."""
    manifest, lock = victim.app / "modpkg.toml", victim.app / "modpkg.lock"
    (first,) = hostile.lines("evil")
    second = hostile.forged("1.1", "evil", name="evil", requires=["words"])
    hostile.write([first, second], "evil")
    done(capfd, "update")
    third = hostile.forged("1.2", "evil", name="evil", requires=[])
    if by == "it stays":
        hostile.write([first, second, third], "evil")
        manifest.write_text(manifest.read_text().replace('words = "*"\n', ""))
        done(capfd, "update")
    else:
        done(capfd, "remove", "words", "evil")
    assert 'name = "words"' not in lock.read_text()
    back = hostile.forged("1.3", "evil", name="evil", requires=["words==1.0"])
    hostile.write([first, second, third, back], "evil")
    if by == "it stays":
        assert "words 1.1" in refused(capfd, "M416", "update")
    else:
        assert "words 1.1" in refused(capfd, "M416", "add", "evil>=1.3")
