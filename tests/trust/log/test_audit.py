"""Auditing a log: every way in which a registry's index and log may differ is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.hub_address import parse_hub_address
from modpkg.core.progress import Progress
from modpkg.core.records import SPEC, canonical_json
from modpkg.registry.hub_place import HubPlace
from modpkg.registry.opening import open_storage
from modpkg.registry.reader import Registry
from modpkg.registry.removing import remove_release
from modpkg.trust.log.appending import open_log
from modpkg.trust.log.audit import LogAudit, audit_log
from modpkg.trust.log.checking import check_logged
from modpkg.trust.log.entries import (
    LogEntry,
    LoggedRelease,
    logged_path,
    parse_entry,
    parse_logged,
    private_entry,
    transfer_entry,
    void_entry,
)
from modpkg.trust.log.log_checkpoint import parse_checkpoint
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.log.voiding import void_missing
from modpkg.trust.log.witness import witnessed, write_witnessed
from modpkg.trust.private_key import new_key, read_key
from tests.cli.test_everywhere import run
from tests.command import modpkg
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.servers import serve
from tests.trust.log.logged import ORIGIN, LoggedRegistry

AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def one(tmp_path: Path) -> LoggedRegistry:
    """A registry with some history."""
    made = LoggedRegistry(tmp_path / "models").begin()
    for version in ("1.0", "1.1", "2.0"):
        made.publish("words", version)
    made.publish("tools")
    made.writer.yank("words", "1.0", "slow")
    made.writer.deprecate("words", "1.1", "old", "tools")
    made.log.append([transfer_entry("tools", "bob", AT)])
    remove_release(made.writer, "tools", "1.0", "leaked", Progress())
    return made


def audit(folder: Path, memory: Path) -> LogAudit:
    return audit_log(
        lambda: Registry(str(folder)), LogMemory("https://models.example", memory), Progress()
    )


def kinds(found: LogAudit) -> list[tuple[str, str, str]]:
    return [(one.kind, one.name, one.version) for one in found.differences]


def test_a_registry_that_is_right(one: LoggedRegistry, tmp_path: Path) -> None:
    found = audit(one.folder, tmp_path / "ada")
    assert kinds(found) == []
    assert (found.entries, found.releases, found.modules) == (8, 4, 2)
    one.log.append([transfer_entry(f"m{i}", "bob", AT) for i in range(600)])
    assert kinds(audit(one.folder, tmp_path / "ada")) == []


def test_lines_that_the_log_does_not_have(one: LoggedRegistry, tmp_path: Path) -> None:
    index = one.folder / "index" / "words.jsonl"
    lines = [msgspec.json.decode(raw) for raw in index.read_bytes().splitlines()]
    lines[0]["yanked"] = None
    lines[1]["successor"] = "evil"
    lines[2]["release"] = lines[0]["release"]
    lines.append(lines[0] | {"version": "3.0"})
    index.write_bytes(b"".join(canonical_json(line) + b"\n" for line in lines))
    found = audit(one.folder, tmp_path / "ada")
    assert kinds(found) == [
        ("standing", "words", "1.0"),
        ("standing", "words", "1.1"),
        ("replaced", "words", "2.0"),
        ("not-logged", "words", "3.0"),
    ]
    assert "yanked" in found.differences[0].message
    assert "evil" in found.differences[1].message
    index.unlink()
    gone = [("missing", "words", version) for version in ("1.0", "1.1", "2.0")]
    assert kinds(audit(one.folder, tmp_path / "ada")) == gone


def test_a_registry_that_went_back(one: LoggedRegistry, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "before")
    one.publish("words", "3.0")
    assert kinds(audit(one.folder, tmp_path / "ada")) == []
    assert kinds(audit(tmp_path / "before", tmp_path / "ada")) == [("history", "", "")]
    copy = LoggedRegistry(tmp_path / "before", tmp_path / "models.pem")
    copy.place.journal = copy.log
    copy.log.append([transfer_entry(f"m{i}", "bob", AT) for i in range(3)])
    (found,) = audit(tmp_path / "before", tmp_path / "ada").differences
    assert found.kind == "history"
    assert "different things" in found.message
    assert kinds(audit(tmp_path / "before", tmp_path / "bob")) == []


def test_entries_that_the_index_does_not_have(one: LoggedRegistry, tmp_path: Path) -> None:
    """Whoever has the key of the log can write anything there, and everybody sees it."""
    entries = one.folder / "log/tile/entries/000.p/8"
    data = entries.read_bytes()
    first = parse_entry(data[2 : 2 + int.from_bytes(data[:2], "big")])
    change = msgspec.structs.replace
    other = "sha256:" + "ab" * 32
    one.log.append(
        [
            change(first, version="9.0"),
            change(first, release=other),
            change(first, action="yank", version="7.0"),
            change(first, version="1.0+local"),
            change(first, release=msgspec.UNSET),
            private_entry(first, ORIGIN),
            private_entry(change(first, name="secret"), ORIGIN),
        ]
    )
    found = audit(one.folder, tmp_path / "ada")
    assert [(one.kind, one.entry) for one in found.differences] == [
        ("place", 0),  # for the same release, the last entry is where the others were
        ("place", 8),
        ("place", 13),
        ("entry", 9),
        ("entry", 10),
        ("entry", 11),
        ("entry", 12),
        ("private", None),
        ("missing", 8),
    ]
    assert found.private == 2


def test_a_log_that_does_not_give_its_root(one: LoggedRegistry, tmp_path: Path) -> None:
    entries = one.folder / "log/tile/entries/000.p/8"
    whole = entries.read_bytes()
    entries.write_bytes(whole.replace(b'"bob"', b'"eve"'))
    assert kinds(audit(one.folder, tmp_path / "ada")) == [("tile", "", ""), ("root", "", "")]
    entries.write_bytes(whole.replace(b"words", b"w\xffrds", 1))
    assert ("entry", "", "") in kinds(audit(one.folder, tmp_path / "ada"))
    entries.write_bytes(whole)
    tile = one.folder / "log/tile/0/000.p/8"
    tile.write_bytes(bytes(256))
    assert kinds(audit(one.folder, tmp_path / "ada")) == [("tile", "", "")]
    tile.unlink()
    with raises("M555", match="missing"):
        audit(one.folder, tmp_path / "ada")


def test_a_registry_without_a_log(tmp_path: Path) -> None:
    publish_collection(tmp_path / "plain", "words")
    with raises("M558", match="no log"):
        audit(tmp_path / "plain", tmp_path / "ada")


def test_the_command_tells_and_fails(one: LoggedRegistry) -> None:
    told = modpkg("registry", "audit", str(one.folder)).stdout
    assert "8 entries" in told
    (one.folder / "index" / "words.jsonl").unlink()
    done = modpkg("registry", "audit", str(one.folder), check=False)
    assert done.returncode == 1
    assert done.stdout.count("not in the index") == 3


def test_a_witness_signs_what_continues(one: LoggedRegistry, tmp_path: Path) -> None:
    new_key(tmp_path / "witness.pem", "ed25519", None)
    key = read_key(tmp_path / "witness.pem", str)
    memory = LogMemory("https://models.example", tmp_path / "witness")
    signed = witnessed(one.read(), memory, key, "w.example", 1_700_000_000)
    assert signed.cosigned_at("w.example", key.public) == 1_700_000_000
    write_witnessed(one.place, signed)
    checkpoint = one.folder / "log/checkpoint"
    read = parse_checkpoint(checkpoint.read_bytes(), "here")
    assert read.is_signed(ORIGIN, one.key.public)
    assert read.cosigned_at("w.example", key.public) == 1_700_000_000
    assert kinds(audit(one.folder, tmp_path / "ada")) == []
    shutil.copytree(one.folder, tmp_path / "before")
    one.publish("words", "3.0")
    with raises("M559", match="grown"):
        write_witnessed(one.place, signed)
    witnessed(one.read(), memory, key, "w.example", 1_700_000_001)
    with raises("M553", match="old copy"):
        before = Registry(str(tmp_path / "before"))
        witnessed(before, memory, key, "w.example", 1_700_000_002)
    plain = Registry(str(publish_plain(tmp_path)))
    with raises("M558", match="no log"):
        witnessed(plain, LogMemory("https://plain.example", tmp_path), key, "w.example", 1)
    new_key(tmp_path / "ecdsa.pem", "ecdsa-p256", None)
    with raises("M547", match="Ed25519"):
        other = read_key(tmp_path / "ecdsa.pem", str)
        witnessed(one.read(), memory, other, "w.example", 1)


def publish_plain(folder: Path) -> Path:
    publish_collection(folder / "plain", "words")
    return folder / "plain"


def test_the_command_of_a_witness(one: LoggedRegistry, tmp_path: Path) -> None:
    new_key(tmp_path / "witness.pem", "ed25519", None)
    options = [str(one.folder), "--key", str(tmp_path / "witness.pem"), "--name", "w.example"]
    told = modpkg("registry", "witness", *options).stdout
    assert told.count("\N{EM DASH} ") == 2
    assert "w.example" not in (one.folder / "log/checkpoint").read_text()
    modpkg("registry", "witness", *options, "--write")
    assert "w.example" in (one.folder / "log/checkpoint").read_text()
    assert modpkg("registry", "witness", *options[:-1], "a b", check=False).returncode == 2


def test_a_name_that_a_list_leaves_out_is_compared_too(one: LoggedRegistry, tmp_path: Path) -> None:
    index = one.folder / "index" / "words.jsonl"
    lines = [msgspec.json.decode(raw) for raw in index.read_bytes().splitlines()]
    lines[2]["release"] = lines[0]["release"]
    lines.append(lines[0] | {"version": "3.0"})
    index.write_bytes(b"".join(canonical_json(line) + b"\n" for line in lines))
    listed = one.folder / "modules.jsonl"
    kept = [raw for raw in listed.read_bytes().splitlines(True) if b'"name":"words"' not in raw]
    assert len(kept) == 1
    listed.write_bytes(b"".join(kept))
    with serve(one.folder) as served:
        memory = LogMemory(served.url, tmp_path / "ada")
        found = audit_log(lambda: Registry(served.url), memory, Progress())
    assert kinds(found) == [("replaced", "words", "2.0"), ("not-logged", "words", "3.0")]


def test_a_public_module_is_not_logged_as_a_private_one(
    one: LoggedRegistry, tmp_path: Path
) -> None:
    aside = LoggedRegistry(tmp_path / "aside")
    line = aside.publish("extra")
    for part in ("index", "blobs"):
        shutil.copytree(aside.folder / part, one.folder / part, dirs_exist_ok=True)
    public = LogEntry(spec=SPEC, action="publish", at=AT, name="extra", release=line.release)
    one.log.append([private_entry(public, ORIGIN)])
    assert kinds(audit(one.folder, tmp_path / "ada")) == [("private", "extra", "1.0")]
    memory = LogMemory("https://models.example", tmp_path / "bob")
    reader = audit_log(lambda: Registry(str(one.folder)), memory, Progress(), logged_in=True)
    assert kinds(reader) == []


@pytest.mark.parametrize("more", [b'"name":"other",', b'"unknown":1,', b" "])
def test_an_entry_has_one_spelling(more: bytes) -> None:
    raw = canonical_json(transfer_entry("tools", "bob", AT))
    assert parse_entry(raw).name == "tools"
    with pytest.raises(ValueError, match="canonical"):
        parse_entry(raw[:1] + more + raw[1:])


def test_where_releases_are_said_to_be(one: LoggedRegistry, tmp_path: Path) -> None:
    """Of each release there is a file, which who locks it is refused without."""
    lines = one.read().index("words")
    paths = [one.folder / logged_path(parse_digest(line.release)) for line in lines]
    whole = [path.read_bytes() for path in paths]
    first = parse_logged(whole[0])
    for data in (
        b"{",
        whole[1],
        canonical_json(LoggedRelease(3, first.entry)),
        canonical_json(LoggedRelease(0, first.entry.replace("1.0", "1.1"))),
        b"[" * 5000,
    ):
        paths[0].write_bytes(data)
        assert kinds(audit(one.folder, tmp_path / "ada")) == [("place", "words", "1.0")]
    paths[0].write_bytes(whole[0])
    paths[2].unlink()
    (found,) = audit(one.folder, tmp_path / "ada").differences
    assert (found.kind, found.version, found.entry) == ("place", "2.0", 2)
    paths[2].write_bytes(whole[2])
    release = "sha256:" + "ab" * 32
    hidden = LogEntry(spec=SPEC, action="publish", at=AT, name="hidden", release=release)
    one.log.append([private_entry(hidden, ORIGIN)])
    assert kinds(audit(one.folder, tmp_path / "ada")) == []
    (one.folder / logged_path(parse_digest(release))).unlink()
    assert kinds(audit(one.folder, tmp_path / "ada")) == [("place", "", "")]


def killed_before_its_line(one: LoggedRegistry, version: str) -> None:
    """Log a release of words whose index line is not written."""
    path = one.folder / "index" / "words.jsonl"
    before = path.read_bytes()
    one.publish("words", version)
    path.write_bytes(before)


def test_what_never_came_into_the_index_is_void(one: LoggedRegistry, tmp_path: Path) -> None:
    killed_before_its_line(one, "3.0")
    found = audit(one.folder, tmp_path / "ada")
    assert kinds(found) == [("missing", "words", "3.0")]
    (entry,) = void_missing(one.place, one.log, found.differences)
    assert (entry.action, entry.name, entry.version) == ("void", "words", "3.0")
    found = audit(one.folder, tmp_path / "ada")
    assert kinds(found) == []
    assert [(gone.version, gone.entry, gone.void) for gone in found.void] == [("3.0", 8, 9)]
    assert void_missing(one.place, one.log, found.differences) == []
    shutil.rmtree(one.folder.parent / "projects" / "words-3.0")
    line = one.publish("words", "3.0")  # it is logged again
    found = audit(one.folder, tmp_path / "ada")
    assert (kinds(found), found.entries, len(found.void)) == ([], 11, 1)
    check_logged(one.read(), [line], LogMemory("https://models.example", tmp_path / "ada"))


def test_nothing_is_void_that_is_in_the_index(one: LoggedRegistry, tmp_path: Path) -> None:
    killed_before_its_line(one, "3.0")
    found = audit(one.folder, tmp_path / "ada")
    one.publish("words", "3.0")
    assert void_missing(one.place, one.log, found.differences) == []
    first = one.read().index("words")[0]
    one.log.append([void_entry("words", "1.0", first.release, AT)])
    one.log.append([void_entry("words", "1.1", first.release, AT)])
    assert kinds(audit(one.folder, tmp_path / "ada")) == [
        ("entry", "words", "1.1"),
        ("not-logged", "words", "1.0"),
    ]


def test_the_command_says_what_is_void(
    one: LoggedRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    killed_before_its_line(one, "3.0")
    command = ("registry", "audit", str(one.folder))
    assert run(capfd, *command)[0] == 1
    status, out, _ = run(capfd, *command, "--void", str(one.folder.parent / "models.pem"))
    assert (status, "words 3.0 was logged (entry 8), and is void (entry 9)" in out) == (0, True)
    status, out, _ = run(capfd, *command)
    assert (status, "is void" in out) == (0, True)


def test_only_the_storage_is_written(
    one: LoggedRegistry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever gives the address that people read at learns what to name, before all is read."""
    with serve(one.folder) as server:
        key = str(tmp_path / "models.pem")
        for words in (
            ["audit", server.url, "--void", key],
            ["witness", server.url, "--key", key, "--name", "w.example", "--write"],
            ["trust", "init", server.url, "--root-key", key, "--online-key", key],
            ["gc", server.url],
            ["gc", server.url, "--dry-run"],
            ["init", server.url],
            ["verify", server.url, "--mend"],
        ):
            status, _, err = run(capfd, "registry", *words)
            assert (status, "error[M576]" in err) == (1, True), err
        assert server.seen == []
    with raises("M576", match="folder or object store"):
        open_storage("https://models.example")
    with raises("M576", match="not its storage"):
        open_log(HubPlace(parse_hub_address("hf://acme/words")), key)
    plain = str(LoggedRegistry(tmp_path / "plain").folder)
    for words in (["audit", plain], ["audit", plain, "--void", key]):
        assert "error[M558]" in run(capfd, "registry", *words)[2]
    other = str(LoggedRegistry(tmp_path / "other").folder.parent / "other.pem")
    err = run(capfd, "registry", "audit", str(one.folder), "--void", other)[2]
    assert "error[M556]" in err
