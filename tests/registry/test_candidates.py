"""Candidates: submitted, discussed and decided, in a folder."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from modpkg.core.candidates import CandidateReport, ThreadEntry
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.progress import Progress
from modpkg.manifest.config import Settings
from modpkg.manifest.read import read_manifest
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import (
    candidates_path,
    encoded_entry,
    parse_candidates,
    parse_thread,
    read_candidate,
    read_candidates,
    read_thread,
    thread_path,
)
from modpkg.registry.damage import Verification
from modpkg.registry.folder_place import FolderPlace
from modpkg.registry.reader import Registry
from modpkg.registry.unnamed import remove_unnamed
from modpkg.registry.upkeep import all_names, open_alone
from modpkg.release.build import build
from tests.modules import publish_collection, write_module
from tests.raising import raises

NOW = datetime.datetime(2026, 11, 28, tzinfo=datetime.timezone.utc)
AT = "2026-11-28T00:00:00Z"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    publish_collection(tmp_path / "registry", "words", "1.0")
    return tmp_path / "registry"


def submit(registry: Path, version: str, text: str = "", name: str = "words") -> int:
    folder = registry.parent / f"{name}-{version}-{text}"
    write_module(folder, name, version, more=f'[files]\ninclude = ["{text}.txt"]\n' if text else "")
    if text:
        (folder / f"{text}.txt").write_text(text)
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    line = build(manifest, manifest.module, folder / "dist").line
    built = Registry(str(folder / "dist"))
    writer = CandidateWriter(registry, registry.name)
    return writer.submit(built, line, by="ada", message="Better.\nMuch.", now=NOW).number


def comment(text: str) -> ThreadEntry:
    return ThreadEntry(kind="comment", by="bob", at=AT, text=text)


def test_what_was_submitted_is_what_is_released(registry: Path) -> None:
    assert submit(registry, "1.1") == 1
    assert submit(registry, "1.1") == 1  # the same release again
    one = read_candidate(Registry(str(registry)), "words", 1)
    assert (one.status, one.by, one.at, one.message) == ("open", "ada", AT, "Better.\nMuch.")
    assert [line.version for line in Registry(str(registry)).index("words")] == ["1.0"]
    decided = CandidateWriter(registry).accept("words", 1, by="eve", now=NOW)
    line = Registry(str(registry)).line("words", "1.1")
    assert (line.release, line.published) == (one.line.release, AT)
    assert (decided.status, decided.decided_by) == ("accepted", "eve")
    with raises("M468", match="was accepted by eve"):
        CandidateWriter(registry).accept("words", 1, by="eve")
    with raises("M470", match=r"words 1\.1"):
        submit(registry, "1.1")
    with raises("M307"):
        submit(registry, "1.1", "other")


def test_the_second_of_one_version_is_not_accepted(registry: Path) -> None:
    assert [submit(registry, "1.1", "a"), submit(registry, "1.1", "b")] == [1, 2]
    writer = CandidateWriter(registry)
    writer.accept("words", 2, by="eve")
    with raises("M469", match=r"words#1 .* words 1\.1"):
        writer.accept("words", 1, by="eve")
    writer.reject("words", 1, by="eve", reason="2 is better")
    reader = Registry(str(registry))
    assert [one.status for one in read_candidates(reader, "words")] == ["rejected", "accepted"]
    assert submit(registry, "1.2") == 3


def test_one_who_was_killed_between_is_finished(registry: Path) -> None:
    submit(registry, "1.1")
    before = (registry / candidates_path("words")).read_bytes()
    writer = CandidateWriter(registry)
    writer.accept("words", 1, by="eve")
    index = (registry / "index/words.jsonl").read_bytes()
    (registry / candidates_path("words")).write_bytes(before)
    assert writer.accept("words", 1, by="eve").status == "accepted"
    assert (registry / "index/words.jsonl").read_bytes() == index


def test_what_is_missing_is_not_released(registry: Path) -> None:
    submit(registry, "1.1", "text")
    record = Registry(str(registry)).record(
        read_candidate(Registry(str(registry)), "words", 1).line
    )
    (registry / blob_path(parse_digest(record.files["text.txt"].digest))).unlink()
    with raises("M306", match=r"text\.txt"):
        CandidateWriter(registry).accept("words", 1, by="eve")
    assert [line.version for line in Registry(str(registry)).index("words")] == ["1.0"]
    damage = Verification(open_alone(str(registry), Settings()), Progress()).run(["words"]).damaged
    assert [(one.releases, one.code) for one in damage] == [(["words#1"], "M306")]


def test_a_thread_is_added_to(registry: Path) -> None:
    submit(registry, "1.1")
    writer = CandidateWriter(registry)
    writer.say("words", 1, comment("Why?"))
    report = CandidateReport(tool="vet", verdict="reject", document={"spec": 1})
    writer.say("words", 1, ThreadEntry(kind="report", by="bob", at=AT, report=report))
    writer.reject("words", 1, by="ada", reason="", status="withdrawn")
    writer.say("words", 1, comment("Pity."))
    with raises("M468", match="withdrawn"):
        writer.say("words", 1, ThreadEntry(kind="approval", by="bob", at=AT))
    entries = read_thread(Registry(str(registry)), "words", 1)
    assert [entry.kind for entry in entries] == ["comment", "report", "comment"]
    assert entries[1].report == report
    with raises("M467", match=r"words#2 .* words#1 \(1\.1, withdrawn\)"):
        writer.say("words", 2, comment("?"))
    with raises("M466", match="control character"):
        writer.say("words", 1, comment("\x1b[2J"))
    with raises("M466", match="20000"):
        writer.say("words", 1, comment("x" * 20001))


def test_what_decides_has_room_beside_comments(registry: Path) -> None:
    submit(registry, "1.1")
    path = registry / thread_path("words", 1)
    path.parent.mkdir()
    path.write_bytes(encoded_entry(comment("?")) * 1800)
    writer = CandidateWriter(registry)
    with raises("M466", match="as much said"):
        writer.say("words", 1, comment("!"))
    writer.say("words", 1, ThreadEntry(kind="approval", by="bob", at=AT))
    path.write_bytes(encoded_entry(comment("?")) * 2000)
    with raises("M466", match="as much said"):
        writer.say("words", 1, ThreadEntry(kind="approval", by="bob", at=AT))


def test_blobs_of_open_candidates_stay(registry: Path) -> None:
    submit(registry, "1.1", "kept")
    submit(registry, "0.1", "new", name="fresh")  # a module without a release
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=30)

    def clean() -> int:
        month = datetime.timedelta(days=20)
        place = FolderPlace(registry)
        return remove_unnamed(place, older_than=month, now=later, progress=Progress()).files

    assert clean() == 0
    names = all_names(Registry(str(registry)))
    verified = Verification(open_alone(str(registry), Settings()), Progress()).run(names)
    assert (verified.damaged, verified.releases) == ([], 1)
    CandidateWriter(registry).reject("words", 1, by="eve", reason="no")
    assert clean() == 2
    with (registry / candidates_path("fresh")).open("ab") as file:
        file.write(b"{}\n")
    with raises("M873", match="fresh"):
        clean()


def test_hostile_files_are_bounded_and_kept(registry: Path) -> None:
    submit(registry, "1.1")
    path = registry / candidates_path("words")
    good = json.loads(path.read_bytes())
    bad = [
        b"[]",
        json.dumps({**good, "number": 0}).encode(),
        json.dumps({**good, "number": 2, "line": {**good["line"], "name": "../x"}}).encode(),
        json.dumps({**good, "number": 3, "message": "\u202e"}).encode(),
        json.dumps({**good, "number": 4, "spec": 9}).encode(),
        b"[" * 100_000,
        b"\xff",
    ]
    data = path.read_bytes() + b"\n".join(bad) + b"\n"
    found = parse_candidates(data, "words", "here")
    assert [one.number for one in found.lines] == [1]
    assert sorted(found.unreadable) == sorted(bad)
    with raises("M465", match="number 1"):
        parse_candidates(data + path.read_bytes(), "words", "here")
    with raises("M465", match="10,000 lines"):
        parse_candidates(b"\n" * 10_001, "words", "here")
    with raises("M465", match="values"):
        parse_thread(b"," * 4_000_001, "words", 1, "here")
    path.write_bytes(data)
    warnings: list[str] = []
    reader = Registry(str(registry), warn=warnings.append)
    assert [one.number for one in read_candidates(reader, "words")] == [1]
    assert "7 lines" in warnings[0]
    assert submit(registry, "1.2") == 2
    assert all(raw in path.read_bytes().split(b"\n") for raw in bad)
    outside = registry.parent / "outside.jsonl"
    outside.write_bytes(b"secret")
    (registry / thread_path("words", 1)).parent.mkdir()
    (registry / thread_path("words", 1)).symlink_to("/dev/zero")
    with pytest.raises(Exception, match="words/1.jsonl"):
        read_thread(reader, "words", 1)
