"""Who signs a module after somebody is in the log: nobody is shown it alone, or lacks it alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modpkg.core.digests import digest_bytes
from modpkg.core.progress import Progress
from modpkg.core.records import SPEC
from modpkg.registry.reader import Registry
from modpkg.registry.signature_files import successors_path
from modpkg.trust.bundle import sign_statement
from modpkg.trust.log.appending import PrivateJournal
from modpkg.trust.log.audit import LogAudit, audit_log
from modpkg.trust.log.entries import LogEntry, succeed_entry
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.log.voiding import void_missing
from modpkg.trust.statement import keys_of_module, succession_statement
from tests.cli.test_everywhere import run
from tests.trust.log.logged import LoggedRegistry, actions_of, entries_of
from tests.trust.signed_registry import key

AT = "2026-01-01T00:00:00Z"
PATH = successors_path("words")


def naming(old: int, new: int, name: str = "words") -> bytes:
    return sign_statement(succession_statement(keys_of_module(name), key(new).public), key(old))


@pytest.fixture
def one(tmp_path: Path) -> LoggedRegistry:
    """A registry with a module that is signed, and one that is not."""
    made = LoggedRegistry(tmp_path / "models").begin()
    line = made.publish("words")
    made.publish("tools")
    made.writer.sign(line, [b'{"not":"judged here"}'])
    made.writer.succeed("words", naming(1, 2))
    return made


def audit(one: LoggedRegistry, url: str = "") -> LogAudit:
    memory = LogMemory("https://models.example", one.folder.parent / "memory")
    return audit_log(lambda: Registry(url or str(one.folder)), memory, Progress())


def test_a_statement_is_in_the_log_before_anybody_sees_it(one: LoggedRegistry) -> None:
    assert actions_of(one.folder)[-1] == ("succeed", "words", "")
    assert entries_of(one.folder)[-1].statement == digest_bytes(naming(1, 2))
    one.writer.succeed("words", naming(1, 2))  # again
    assert len(actions_of(one.folder)) == 3
    one.writer.succeed("words", naming(2, 3))
    assert len(actions_of(one.folder)) == 4
    assert audit(one).differences == []


def test_one_that_somebody_is_shown_alone_or_not_at_all(one: LoggedRegistry) -> None:
    file = one.folder / PATH
    whole = file.read_bytes()
    file.write_bytes(whole + naming(1, 9) + b"\n")
    (found,) = audit(one).differences
    assert (found.kind, found.name, found.entry) == ("successor", "words", None)
    assert found.statement == digest_bytes(naming(1, 9))
    file.write_bytes(naming(1, 9) + b"\n")
    assert [one.entry for one in audit(one).differences] == [None, 2]
    file.unlink()
    (found,) = audit(one).differences
    assert (found.kind, found.entry, found.statement) == ("successor", 2, digest_bytes(whole[:-1]))


def test_one_of_a_module_that_nobody_has_signed_is_asked_for_if_the_log_has_it(
    one: LoggedRegistry,
) -> None:
    one.writer.succeed("tools", naming(1, 2, "tools"))
    assert audit(one).differences == []
    (one.folder / successors_path("tools")).unlink()
    (found,) = audit(one).differences
    assert (found.kind, found.name, found.entry) == ("successor", "tools", 3)


def test_one_that_never_was_written_is_void(
    one: LoggedRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its writer was killed between; the one after it is another, as identities sign it anew."""
    file = one.folder / PATH
    before = file.read_bytes()
    one.writer.succeed("words", naming(2, 3))
    file.write_bytes(before)
    found = audit(one)
    (entry,) = void_missing(one.place, one.log, found.differences)
    assert (entry.action, entry.statement) == ("void", digest_bytes(naming(2, 3)))
    after = audit(one)
    assert after.differences == []
    assert [(gone.name, gone.entry, gone.void) for gone in after.void] == [("words", 3, 4)]
    status, out, _ = run(capfd, "registry", "audit", str(one.folder))
    assert (status, "successor for words was logged (entry 3), and is void" in out) == (0, True)
    assert json.loads(run(capfd, "registry", "audit", str(one.folder), "--json")[1])["void"]
    one.writer.succeed("words", naming(2, 3))  # it counts again
    assert audit(one).differences == []
    assert void_missing(one.place, one.log, found.differences) == []


def test_what_a_log_says_of_statements_has_to_make_sense(one: LoggedRegistry) -> None:
    statement = digest_bytes(b"other")
    entries = [
        succeed_entry("words", statement, AT, "void"),
        succeed_entry("words", statement, AT, "yank"),
        succeed_entry("../words", statement, AT),
        LogEntry(spec=SPEC, action="succeed", at=AT, name="words"),
        LogEntry(spec=SPEC, action="succeed", at=AT, private=statement, statement=statement),
    ]
    one.log.append(entries)
    assert [one.kind for one in audit(one).differences] == ["entry"] * len(entries)


def test_a_log_begins_with_what_is_there(tmp_path: Path) -> None:
    made = LoggedRegistry(tmp_path / "models")
    line = made.publish("words")
    made.writer.sign(line, [b"{}"])
    made.writer.succeed("words", naming(1, 2))
    made.begin()
    assert actions_of(made.folder) == [("publish", "words", "1.0"), ("succeed", "words", "")]
    assert audit(made).differences == []


def test_those_of_private_modules_are_not_in_the_log(one: LoggedRegistry) -> None:
    before = len(entries_of(one.folder))
    PrivateJournal(one.log).note(PATH, b"", naming(1, 2) + b"\n")
    assert len(entries_of(one.folder)) == before
