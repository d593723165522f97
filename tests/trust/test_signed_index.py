"""Attacks of TUF's list on who reads a signed registry: a hostile server that shows its files."""

from __future__ import annotations

import datetime
import os
import shutil
import threading
from pathlib import Path

import msgspec
import pytest

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.names import parse_requirement
from modpkg.core.records import IndexLine
from modpkg.registry.index import format_index
from modpkg.registry.reader import Registry
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from modpkg.trust import bins, signed_index
from modpkg.trust.known_registry import NamedRoot, SeenRegistry, remembered_folder
from modpkg.trust.lives import Lives
from modpkg.trust.metadata import BinKeys, canonical, metadata_key
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.signed_index import SignedIndex
from tests.raising import raises
from tests.trust.signed_registry import (
    BITS,
    DAY,
    HostileSource,
    SignedRegistry,
    key,
    read,
    reader,
)

STAMP = "tuf/timestamp.json"
WORDS = "index/words.jsonl"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_index, "PAUSE", 0)


@pytest.fixture
def registry(tmp_path: Path) -> SignedRegistry:
    return SignedRegistry(tmp_path / "registry")


@pytest.fixture
def server(registry: SignedRegistry) -> HostileSource:
    return HostileSource(registry.folder)


def files_of(registry: SignedRegistry) -> list[str]:
    """Return the files of metadata and the index."""
    found = [*(registry.folder / "tuf").iterdir(), *(registry.folder / "index").glob("*.jsonl")]
    return [path.relative_to(registry.folder).as_posix() for path in found]


def signed_by(number: int, path: Path, **changes: object) -> bytes:
    """Return a file of metadata with changes, signed by a key of tests alone."""
    document = msgspec.json.decode(path.read_bytes())
    document["signed"].update(changes)
    message = canonical(document["signed"])
    keyid, _ = metadata_key(key(number).public)
    document["signatures"] = [{"keyid": keyid, "sig": key(number).sign(message).hex()}]
    return msgspec.json.encode(document)


def named(data: bytes) -> dict[str, object]:
    """Return how another file of metadata names one, by its bytes too."""
    version = msgspec.json.decode(data)["signed"]["version"]
    hashes = {"sha256": digest_bytes(data).partition(":")[2]}
    return {"version": version, "length": len(data), "hashes": hashes}


def forget(server: HostileSource) -> None:
    """Forget what was seen of the registry, as another machine has."""
    shutil.rmtree(remembered_folder(server.url), ignore_errors=True)


def show_named(
    registry: SignedRegistry, server: HostileSource, path: str, data: bytes, **meta: object
) -> None:
    """Show a file of metadata, as whoever has the online key names it in all that follows."""
    server.shown[path] = data
    stamp = registry.folder / STAMP
    now = msgspec.json.decode(stamp.read_bytes())["signed"]
    number = now["meta"]["snapshot.json"]["version"]
    snapshot = registry.folder / "tuf" / f"{number}.snapshot.json"
    role = path.rpartition("/")[2].partition(".")[2]
    all_named = msgspec.json.decode(snapshot.read_bytes())["signed"]["meta"]
    made = signed_by(9, snapshot, version=number + 1, meta=all_named | {role: named(data)} | meta)
    server.shown[f"tuf/{number + 1}.snapshot.json"] = made
    after = now["version"] + 1
    server.shown[STAMP] = signed_by(9, stamp, version=after, meta={"snapshot.json": named(made)})


def test_what_is_published_is_read(registry: SignedRegistry, server: HostileSource) -> None:
    assert read(server, registry.clock) == b""
    registry.publish("words", b"one\n")
    registry.publish("new", b"two\n")
    assert read(server, registry.clock) == b"one\n"
    assert read(server, registry.clock, "new") == b"two\n"
    assert read(server, registry.clock, "missing") is None


def test_a_registry_without_metadata_is_as_it_was(tmp_path: Path, registry: SignedRegistry) -> None:
    server = HostileSource(registry.folder)
    server.shown["registry.json"] = b'{"spec":1,"name":"signed"}'
    server.shown[WORDS] = b"anything"
    assert read(server, registry.clock) == b"anything"
    assert not remembered_folder(server.url).exists()


def test_an_arbitrary_index_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    """Arbitrary software installation."""
    read(server, registry.clock)
    server.shown[WORDS] = b"evil\n"
    with raises("M564", match="digest"):
        read(server, registry.clock)
    server.shown["index/evil.jsonl"] = b"evil\n"
    with raises("M564", match="listed"):
        read(server, registry.clock, "evil")
    server.shown[WORDS] = None
    with raises("M564", match="missing"):
        read(server, registry.clock)


def test_even_at_first_sight(registry: SignedRegistry, server: HostileSource) -> None:
    server.shown[WORDS] = b"evil\n"
    with raises("M564", match="digest"):
        read(server, registry.clock)


def test_registry_info_is_signed(registry: SignedRegistry, server: HostileSource) -> None:
    read(server, registry.clock)
    other = b'{"spec":1,"name":"other"}'
    with raises("M564", match="digest"):
        reader(server, registry.clock).checked("registry.json", other, lambda: other)


def test_metadata_of_another_key_is_refused(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Somebody without a key signs all of it himself."""
    for name in ("timestamp", "1.snapshot", "1.targets", "1.index-0"):
        path = registry.folder / "tuf" / f"{name}.json"
        server.shown = {f"tuf/{name}.json": signed_by(7, path)}
        with raises("M560", "M563", match="tuf"):
            read(server, registry.clock)
        assert not (
            remembered_folder(server.url) / f"{name.partition('.')[2] or name}.json"
        ).exists()


def test_an_expired_timestamp_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    """Indefinite freeze: a mirror that goes on showing what was current."""
    server.keep(*files_of(registry))
    read(server, registry.clock)
    registry.clock.time += 23 * datetime.timedelta(hours=1)
    registry.writer.renew()
    assert read(server, registry.clock) == b""
    registry.clock.time += 2 * datetime.timedelta(hours=1)
    with raises("M561", match="timestamp"):
        read(server, registry.clock)
    server.shown.clear()
    assert read(server, registry.clock) == b""


def test_an_expired_snapshot_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    read(server, registry.clock)
    registry.writer.renew()
    registry.clock.time += 8 * DAY
    stamp = registry.folder / STAMP
    expires = "2027-01-01T00:00:00Z"
    server.shown[STAMP] = signed_by(9, stamp, version=9, expires=expires)
    with raises("M561", match="snapshot"):
        read(server, registry.clock)


def test_an_expired_bin_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    registry.clock.time += 360 * DAY
    registry.write_root(2)
    for expired in ("targets", "index-0"):
        registry.writer.renew(thoroughly=True)
        server.shown.clear()
        forget(server)
        assert read(server, registry.clock) == b""
        (name,) = [
            path.name
            for path in (registry.folder / "tuf").glob(f"*.{expired}.json")
            if not path.name.startswith("1.")
        ]
        made = signed_by(9, registry.folder / "tuf" / name, expires="2026-11-28T12:00:00Z")
        show_named(registry, server, f"tuf/{name}", made)
        (remembered_folder(server.url) / f"{expired}.json").unlink()
        with raises("M561", match=expired):
            read(server, registry.clock)


def test_an_expired_root_is_refused_and_a_new_one_helps(
    registry: SignedRegistry, server: HostileSource
) -> None:
    read(server, registry.clock)
    registry.clock.time += 366 * DAY
    with raises("M568", match="rotate"):  # nobody would read it
        registry.writer.sign_all(bits=BITS)
    with raises("M561", match="root"):
        read(server, registry.clock)
    registry.write_root(2)
    registry.writer.sign_all(bits=BITS)
    assert read(server, registry.clock) == b""


def test_signing_again_renews_what_says_who_signs_and_each_bin(
    registry: SignedRegistry, server: HostileSource
) -> None:
    read(server, registry.clock)
    for root, way in (
        (2, registry.writer.sign_all),
        (3, lambda: registry.writer.renew(thoroughly=True)),
    ):
        registry.clock.time += 360 * DAY
        registry.write_root(root)
        way()
        registry.clock.time += 30 * DAY
        registry.writer.renew()  # the timestamp, which ends sooner
        assert read(server, registry.clock) == b""


def test_a_clock_years_off_is_named(registry: SignedRegistry, server: HostileSource) -> None:
    registry.clock.time += 4000 * DAY
    with raises("M561", match="2037-11-10"):
        read(server, registry.clock)


def test_a_clock_that_is_behind_what_was_signed_is_named(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """By it nothing would expire for as long; a week is nobody's attack."""
    registry.clock.time -= 6 * DAY
    assert read(server, registry.clock) == b""
    for days in (2, 2500):
        registry.clock.time -= days * DAY
        with raises("M596", match=f"it is {registry.clock.time:%Y-%m-%d}"):
            read(server, registry.clock)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "index-0"])
def test_what_counts_for_years_is_refused(
    role: str, registry: SignedRegistry, server: HostileSource
) -> None:
    """Who stole the online key shows what he has signed for as long as the root names it."""
    until = "2036-01-01T00:00:00Z"
    if role == "timestamp":
        server.shown[STAMP] = signed_by(9, registry.folder / STAMP, version=9, expires=until)
    else:
        path = f"tuf/1.{role}.json"
        made = signed_by(9, registry.folder / path, expires=until)
        if role == "snapshot":
            server.shown[path] = made
            meta = {"snapshot.json": named(made)}
            server.shown[STAMP] = signed_by(9, registry.folder / STAMP, version=9, meta=meta)
        else:
            show_named(registry, server, path, made)
    with raises("M596", match=f"{role}.*2036"):
        read(server, registry.clock, "words" if role != "index-0" else name_in(role))


def name_in(role: str) -> str:
    """Return a name whose index file is in a bin."""
    bins = BinKeys([], 1, BITS)
    names = (f"m{number}" for number in range(100))
    return next(name for name in names if bins.name(f"index/{name}.jsonl") == role)


@pytest.mark.parametrize("days", [-2500, -8, 402, 3000])
def test_nothing_is_signed_by_a_clock_that_is_wrong(days: int, registry: SignedRegistry) -> None:
    """Nobody would read it now, or nobody would see for years that it is old."""
    before = {path: (registry.folder / path).read_bytes() for path in files_of(registry)}
    registry.clock.time += days * DAY
    for sign in (
        registry.writer.sign_all,
        lambda: registry.writer.renew(thoroughly=True),
        lambda: registry.publish("words", b"one\n"),
        registry.writer.check_clock,
    ):
        with raises("M597", match=f"{registry.clock.time:%Y-%m-%d}.*trust sign --fresh"):
            sign()
    assert {path: (registry.folder / path).read_bytes() for path in files_of(registry)} == before


def test_who_says_that_the_clock_is_right_signs(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """After it was ahead, and after nobody has signed for a long time."""
    registry.clock.time += 380 * DAY
    registry.write_root(2)
    registry.writer.sign_all()
    registry.clock.time -= 380 * DAY
    with raises("M596", match="timestamp"):
        read(server, registry.clock)
    for days in (0, 500):
        registry.clock.time += days * DAY
        registry.write_root(3 + bool(days))
        with raises("M597", match="--fresh"):
            registry.writer.sign_all()
        registry.writer.sign_all(bits=registry.writer.bits())
        assert read(server, registry.clock) == b""


def test_an_older_state_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    """Rollback: everything as it was once, with signatures that hold."""
    server.keep(*files_of(registry))
    old = dict(server.shown)
    server.shown = {}
    registry.publish("words", b"one\n")
    assert read(server, registry.clock) == b"one\n"
    server.shown = old
    with raises("M562", match="version 1"):
        read(server, registry.clock)


def test_a_timestamp_of_the_same_version_is_not_taken(
    registry: SignedRegistry, server: HostileSource
) -> None:
    read(server, registry.clock)
    known = (remembered_folder(server.url) / "timestamp.json").read_bytes()
    meta = {"snapshot.json": {"version": 100}}
    server.shown[STAMP] = signed_by(9, registry.folder / STAMP, meta=meta)
    assert read(server, registry.clock) == b""
    assert (remembered_folder(server.url) / "timestamp.json").read_bytes() == known


def test_fields_that_nobody_knows_are_signed_too(
    registry: SignedRegistry, server: HostileSource
) -> None:
    more = {"keyid_hash_algorithms": ["md5", '\n\u00e9"\\']}
    data = signed_by(9, registry.folder / STAMP, version=2, more=more)
    server.shown[STAMP] = data
    assert read(server, registry.clock) == b""
    server.shown[STAMP] = data.replace(b"md5", b"md4")
    (remembered_folder(server.url) / "timestamp.json").unlink()
    with raises("M560", match="timestamp"):
        read(server, registry.clock)


def test_an_older_snapshot_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    """Rollback by who has the online key, of the snapshot or of one bin."""
    registry.publish("words", b"one\n")
    read(server, registry.clock)
    stamp = registry.folder / STAMP
    server.shown[STAMP] = signed_by(9, stamp, version=99, meta={"snapshot.json": {"version": 1}})
    with raises("M562", match="snapshot"):
        read(server, registry.clock)
    now = registry.folder / "tuf" / "3.snapshot.json"
    meta = msgspec.json.decode(now.read_bytes())["signed"]["meta"]
    for number, changed, code in (
        (99, meta | {"index-0.json": {"version": 1}}, "M562"),
        (100, {name: file for name, file in meta.items() if name != "index-1.json"}, "M563"),
    ):
        made = server.shown["tuf/4.snapshot.json"] = signed_by(9, now, version=4, meta=changed)
        server.shown[STAMP] = signed_by(
            9, stamp, version=number, meta={"snapshot.json": named(made)}
        )
        with raises(code, match="index-"):
            read(server, registry.clock)


def test_parts_of_two_states_are_refused(registry: SignedRegistry, server: HostileSource) -> None:
    """Mix and match: each file was signed once, and they were never current together."""
    server.keep("tuf/1.snapshot.json", "tuf/1.index-0.json")
    registry.publish("words", b"one\n")
    old = server.shown
    server.shown = {"tuf/3.snapshot.json": old["tuf/1.snapshot.json"]}
    with raises("M563", match="snapshot"):
        read(server, registry.clock)
    server.shown = {"tuf/3.index-0.json": old["tuf/1.index-0.json"]}
    with raises("M563", match="index-0"):
        read(server, registry.clock)
    server.shown = {"tuf/3.index-0.json": (registry.folder / "tuf/1.index-1.json").read_bytes()}
    with raises("M563", match="index-0"):
        read(server, registry.clock)


def test_an_entry_that_is_none_is_refused(registry: SignedRegistry, server: HostileSource) -> None:
    bin_0 = registry.folder / "tuf" / "1.index-0.json"
    for entry in ({}, {"length": -1, "hashes": {}}, {"length": 0, "hashes": 1}, [], "x"):
        made = signed_by(9, bin_0, targets={WORDS: entry})
        show_named(registry, server, "tuf/1.index-0.json", made)
        with raises("M564", "M565", match="models.example has signed of index.words"):
            read(server, registry.clock)
        forget(server)


def test_a_bin_in_the_place_of_another_is_refused(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Of the same version, and signed by the same key: without any of the registry's keys."""
    files = [path for path in (registry.folder / "tuf").glob("1.*.json") if "root" not in path.name]
    assert len(files) > 3
    for other in files:
        if other.name == "1.index-0.json":
            continue
        server.shown = {"tuf/1.index-0.json": other.read_bytes(), WORDS: None}
        forget(server)
        with raises("M563", "M565"):
            read(server, registry.clock)
        server.shown.clear()
        assert read(server, registry.clock) == b""  # and nothing of it is remembered
        for path in remembered_folder(server.url).glob("index-*.json"):
            path.write_bytes(other.read_bytes())
        assert read(server, registry.clock) == b""
    (registry.folder / "tuf" / "1.index-0.json").write_bytes(files[-1].read_bytes())
    with raises("M563", "M565"):  # and nothing follows from it
        registry.publish("words", b"one\n")


def test_metadata_that_is_named_by_its_version_alone_is_refused(
    registry: SignedRegistry, server: HostileSource
) -> None:
    bin_0 = (registry.folder / "tuf" / "1.index-0.json").read_bytes()
    meta = {"index-0.json": {"version": 1}}
    show_named(registry, server, "tuf/1.index-0.json", bin_0, **meta)
    with raises("M563", match="no SHA-256"):
        read(server, registry.clock)


def test_another_bin_says_nothing_of_a_file(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """A bin of the same version that lists a file of another one's."""
    bin_1 = registry.folder / "tuf" / "1.index-1.json"
    hashes = {"sha256": digest_bytes(b"evil\n").partition(":")[2]}
    targets = {WORDS: {"length": 5, "hashes": hashes}}
    server.shown["tuf/1.index-1.json"] = signed_by(9, bin_1, targets=targets)
    server.shown[WORDS] = b"evil\n"
    with raises("M564", match="digest"):
        read(server, registry.clock)


def test_endless_data_is_cut_off(registry: SignedRegistry, server: HostileSource) -> None:
    for path, most in (
        (STAMP, bounds.TUF_ROOT_BYTES),
        ("tuf/2.root.json", bounds.TUF_ROOT_BYTES),
        ("tuf/1.snapshot.json", bounds.TUF_FILE_BYTES),
        ("tuf/1.index-0.json", bounds.TUF_BIN_BYTES),
    ):
        server.shown = {path: b" " * (most + 1)}
        with raises("M565", match="has over"):
            read(server, registry.clock)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"signatures":[],"signed":{}}',
        b'{"signatures":[],"signed":{"_type":"root"}}',
        b"," * (bounds.TUF_VALUES + 1),
        b'{"signatures":[],"signed":{"_type":"timestamp","spec_version":"1.0.0","version":1,'
        b'"expires":"soon","meta":{}}}',
        b'{"signatures":[],"signed":{"_type":"timestamp","spec_version":"2.0.0","version":1,'
        b'"expires":"2027-01-01T00:00:00Z","meta":{}}}',
        b'{"signatures":[],"signed":{"_type":"timestamp","spec_version":"1.0.0","version":0,'
        b'"expires":"2027-01-01T00:00:00Z","meta":{}}}',
    ],
)
def test_malformed_metadata_is_refused(
    registry: SignedRegistry, server: HostileSource, data: bytes
) -> None:
    server.shown[STAMP] = data[: bounds.TUF_ROOT_BYTES]
    with raises("M560", "M565", match="timestamp"):
        read(server, registry.clock)


def test_a_registry_that_was_signed_stays_signed(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Who takes the metadata away takes nothing of what was known."""
    read(server, registry.clock)
    server.keep(*files_of(registry))
    server.shown = {path: None for path in server.shown if path.startswith("tuf/")}
    server.shown["registry.json"] = b'{"spec":1,"name":"signed"}'
    server.shown[WORDS] = b"evil\n"
    with raises("M566", match="timestamp"):
        read(server, registry.clock)


def test_metadata_that_is_named_has_to_be_there(
    registry: SignedRegistry, server: HostileSource
) -> None:
    server.shown[STAMP] = None
    with raises("M565", match="which it names"):
        read(server, registry.clock)


def test_a_registry_that_is_only_away_is_said_to_be(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """A folder that is not mounted, another prefix, or a server that answers 404 to everything."""
    read(server, registry.clock)
    first = digest_bytes((registry.folder / "tuf" / "1.root.json").read_bytes())
    server.shown = dict.fromkeys([*files_of(registry), "registry.json"])
    with raises("M301", match="models.example"):
        read(server, registry.clock)
    page = b"<html>Log in</html>"
    server.shown = dict.fromkeys(server.shown, page)
    with raises("M209", match=r"registry\.json"):
        read(server, registry.clock)
    forget(server)
    locked = reader(server, registry.clock)
    locked.locked = SeenRegistry(first, 1, 1)
    with raises("M209", match=r"registry\.json"):
        locked.metadata()
    server.shown = dict.fromkeys(server.shown)
    named = reader(server, registry.clock)
    named.named = NamedRoot(first, "modpkg.toml")
    with raises("M301", match="models.example"):
        named.metadata()


# Roots ------------------------------------------------------------------------------------------


def test_a_root_needs_the_threshold_of_the_one_before(
    registry: SignedRegistry, server: HostileSource
) -> None:
    read(server, registry.clock)
    first = registry.folder / "tuf" / "1.root.json"
    server.shown["tuf/2.root.json"] = signed_by(1, first, version=2)
    with raises("M560", match="1 of 2"):
        read(server, registry.clock)


def test_one_key_under_two_names_counts_once(
    registry: SignedRegistry, server: HostileSource
) -> None:
    read(server, registry.clock)
    document = msgspec.json.decode((registry.folder / "tuf" / "1.root.json").read_bytes())
    keys = document["signed"]["keys"]
    roles = document["signed"]["roles"]
    one = roles["root"]["keyids"][0]
    keys["other"] = keys[one]
    roles["root"] = {"keyids": [one, "other"], "threshold": 2}
    signature = key(1).sign(canonical(document["signed"])).hex()
    document["signatures"] = [{"keyid": k, "sig": signature} for k in (one, "other")]
    data = msgspec.json.encode(document)
    server.shown["tuf/1.root.json"] = data
    server.shown["registry.json"] = msgspec.json.encode(
        {"spec": 1, "name": "signed", "tuf": digest_bytes(data)}
    )
    server.url = "https://other.example"
    with raises("M560", match="1 of 2"):
        read(server, registry.clock)


def test_roots_are_never_skipped(registry: SignedRegistry, server: HostileSource) -> None:
    read(server, registry.clock)
    registry.write_root(2)
    registry.write_root(3)
    server.shown["tuf/2.root.json"] = (registry.folder / "tuf" / "3.root.json").read_bytes()
    with raises("M563", match="version 3"):
        read(server, registry.clock)
    server.shown.clear()
    assert read(server, registry.clock) == b""
    assert (remembered_folder(server.url) / "3.root.json").exists()


def test_people_are_replaced_by_a_root(registry: SignedRegistry, server: HostileSource) -> None:
    read(server, registry.clock)
    registry.people = [key(4), key(5)]
    registry.write_root(2)
    assert read(server, registry.clock) == b""
    second = registry.folder / "tuf" / "2.root.json"
    server.shown["tuf/3.root.json"] = signed_by(1, second, version=3)
    with raises("M560", match="0 of 2"):
        read(server, registry.clock)


def test_a_stolen_online_key_ends_with_a_root(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Key compromise, and fast forward: the thief has set versions out of reach."""
    read(server, registry.clock)
    stamp, snapshot = registry.folder / STAMP, registry.folder / "tuf" / "1.snapshot.json"
    far = 1 << 50
    made = server.shown[f"tuf/{far}.snapshot.json"] = signed_by(9, snapshot, version=far)
    meta = {"snapshot.json": named(made)}
    server.shown[STAMP] = signed_by(9, stamp, version=far, meta=meta)
    assert read(server, registry.clock) == b""  # who has the key can do that
    locked = reader(server, registry.clock)
    locked.checked(WORDS, b"", lambda: b"")
    seen = locked.seen()
    assert seen is not None
    assert seen.snapshot == far
    registry.online = key(8)
    registry.write_root(2)
    with raises("M560", match="timestamp"):
        read(server, registry.clock)
    server.shown.clear()
    registry.writer = registry.opened()
    registry.writer.sign_all(bits=BITS)
    assert read(server, registry.clock) == b""
    after = reader(server, registry.clock)
    after.locked = seen
    assert after.checked(WORDS, b"", lambda: b"") == b""
    stamp_now = msgspec.json.decode((remembered_folder(server.url) / "timestamp.json").read_bytes())
    assert stamp_now["signed"]["version"] == 2


def test_another_root_is_another_registry(
    registry: SignedRegistry, server: HostileSource, tmp_path: Path
) -> None:
    """Who takes an address over with keys of his own."""
    read(server, registry.clock)
    other = SignedRegistry(tmp_path / "other", threshold=1, online=6)
    taken = HostileSource(other.folder)
    with raises("M567", match="this machine"):
        read(taken, registry.clock)
    fresh = reader(taken, registry.clock)
    fresh.locked = SeenRegistry("sha256:" + "0" * 64, 1, 1)
    with raises("M567", match="modpkg.lock"):
        fresh.checked(WORDS, b"", lambda: b"")


# Two machines, and the lock ---------------------------------------------------------------------


def elsewhere(server: HostileSource, registry: SignedRegistry, folder: Path) -> SignedIndex:
    """Return a reader on a machine that has seen nothing."""
    return SignedIndex(
        server, server, lambda: server.read("registry.json"), folder=folder, now=registry.clock
    )


def test_a_rollback_between_two_machines_is_seen(
    registry: SignedRegistry, server: HostileSource, tmp_path: Path
) -> None:
    server.keep(*files_of(registry))
    old, server.shown = server.shown, {}
    registry.publish("words", b"one\n")
    first = elsewhere(server, registry, tmp_path / "a")
    first.checked(WORDS, b"one\n", lambda: b"one\n")
    server.shown = old
    second = elsewhere(server, registry, tmp_path / "b")
    assert second.checked(WORDS, b"", lambda: b"") == b""
    third = elsewhere(server, registry, tmp_path / "c")
    third.locked = first.seen()
    with raises("M562", match="snapshot"):
        third.checked(WORDS, b"", lambda: b"")


def test_the_lock_says_that_a_registry_is_signed(
    registry: SignedRegistry, server: HostileSource, tmp_path: Path
) -> None:
    first = elsewhere(server, registry, tmp_path / "a")
    first.checked(WORDS, b"", lambda: b"")
    server.shown = {"registry.json": b'{"spec":1,"name":"signed"}', "tuf/1.root.json": None}
    second = elsewhere(server, registry, tmp_path / "b")
    second.locked = first.seen()
    with raises("M566", match="root"):
        second.checked(WORDS, b"", lambda: b"")


def test_a_mirror_that_lies_is_left_out(registry: SignedRegistry, server: HostileSource) -> None:
    read(server, registry.clock)
    mirror = HostileSource(registry.folder)
    mirror.keep(*files_of(registry))
    registry.publish("words", b"one\n")
    read(server, registry.clock)
    both = SignedIndex(mirror, server, lambda: None, now=registry.clock)
    assert both.checked(WORDS, b"", lambda: server.read(WORDS)) == b"one\n"


# Writers at work --------------------------------------------------------------------------------


def test_no_reader_is_refused_whoever_was_killed_when(
    registry: SignedRegistry, server: HostileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step of a change, and between, either content is taken."""
    read(server, registry.clock)
    (registry.folder / WORDS).write_bytes(b"")
    writer = registry.writer
    writer.announce(WORDS, b"", b"one\n")
    assert read(server, registry.clock) == b""
    registry.write_index("words", b"one\n")
    assert read(server, registry.clock) == b"one\n"
    again = registry.opened()  # the server was killed here
    assert again.renew(thoroughly=True) == []
    assert read(server, registry.clock) == b"one\n"
    server.shown[WORDS] = b""
    with raises("M564", match="digest"):
        read(server, registry.clock)


def test_a_new_name_appears_without_a_gap(registry: SignedRegistry, server: HostileSource) -> None:
    registry.writer.announce("index/new.jsonl", None, b"x\n")
    assert read(server, registry.clock, "new") is None
    registry.write_index("new", b"x\n")
    assert read(server, registry.clock, "new") == b"x\n"
    registry.opened().renew(thoroughly=True)
    server.shown["index/new.jsonl"] = None
    with raises("M564", match="missing"):
        read(server, registry.clock, "new")


def test_what_was_announced_and_never_came_is_forgotten(
    registry: SignedRegistry, server: HostileSource
) -> None:
    registry.writer.announce("index/new.jsonl", None, b"x\n")
    registry.writer.announce(WORDS, b"", b"x\n")
    registry.writer.renew(thoroughly=True)
    server.shown[WORDS] = b"x\n"
    assert read(server, registry.clock) == b"x\n"
    registry.clock.time += datetime.timedelta(hours=2)
    registry.writer.renew(thoroughly=True)
    with raises("M564", match="digest"):
        read(server, registry.clock)
    server.shown["index/new.jsonl"] = b"x\n"
    with raises("M564", match="listed"):
        read(server, registry.clock, "new")


def test_an_announcement_counts_for_a_day(registry: SignedRegistry, server: HostileSource) -> None:
    """Who was killed left it, and nobody has signed anything since."""
    registry.writer = registry.opened(Lives(30 * DAY, 30 * DAY))
    registry.writer.announce("index/new.jsonl", None, b"x\n")
    registry.writer.announce(WORDS, b"", b"x\n")
    server.shown |= {WORDS: b"x\n", "index/new.jsonl": b"x\n"}
    registry.clock.time += datetime.timedelta(hours=23)
    assert read(server, registry.clock) == read(server, registry.clock, "new") == b"x\n"
    registry.clock.time += datetime.timedelta(hours=2)
    for name in ("words", "new"):
        with raises("M564", match="another digest"):
            read(server, registry.clock, name)
    server.shown |= {WORDS: b"", "index/new.jsonl": None}
    assert read(server, registry.clock) == b""
    assert read(server, registry.clock, "new") is None


def test_a_reader_between_two_publications_asks_again(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """The index is newer than the metadata that was read before it."""
    read(server, registry.clock)
    steps = [b"two\n", b"one\n"]

    def race(path: str) -> None:
        if path.startswith("tuf/") and path.endswith("index-0.json") and steps:
            registry.publish("words", steps.pop())

    signed = reader(server, registry.clock)
    registry.publish("words", b"zero\n")
    server.before_read = race
    found = signed.checked(WORDS, b"zero\n", lambda: server.read(WORDS))
    assert found in (b"zero\n", b"one\n", b"two\n")
    server.before_read = lambda path: None
    assert read(server, registry.clock) == (registry.folder / WORDS).read_bytes()


def test_what_nobody_signed_is_not_signed_by_the_next_change(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Who can write to the storage, without a key."""
    registry.write_index("words", b"evil\n")
    with raises("M569", match="words"):
        registry.publish("words", b"evil\none\n")
    registry.write_index("more", b"evil\n")
    with raises("M569", match="more"):
        registry.publish("more", b"evil\none\n")
    assert (registry.folder / WORDS).read_bytes() == b"evil\n"
    with raises("M564", match="digest"):
        read(server, registry.clock)
    assert registry.writer.sign_all() == 2  # its operator has looked at it
    assert read(server, registry.clock) == b"evil\n"


def test_metadata_in_the_storage_is_not_believed(registry: SignedRegistry) -> None:
    path = registry.folder / "tuf" / "1.index-0.json"
    path.write_bytes(signed_by(7, path))
    with raises("M563", match="index-0"):
        registry.publish("words", b"one\n")
    stamp = registry.folder / STAMP
    stamp.write_bytes(signed_by(7, stamp))
    with raises("M560", match="timestamp"):
        registry.writer.renew()


def test_a_storage_that_went_back_is_seen_by_who_signs(registry: SignedRegistry) -> None:
    before = (registry.folder / STAMP).read_bytes()
    registry.publish("words", b"one\n")
    (registry.folder / STAMP).write_bytes(before)
    with raises("M562", match="timestamp"):
        registry.publish("words", b"two\n")


def test_files_that_nobody_names_are_in_nobodys_way(
    registry: SignedRegistry, server: HostileSource
) -> None:
    """Who was killed has left a bin and a snapshot of the next version."""
    for name in ("2.index-0", "2.snapshot"):
        (registry.folder / "tuf" / f"{name}.json").write_bytes(b"left")
    registry.publish("words", b"one\n")
    assert read(server, registry.clock) == b"one\n"


def test_old_files_are_removed_and_current_ones_stay(
    registry: SignedRegistry, server: HostileSource
) -> None:
    for number in range(3):
        registry.publish("words", b"%d\n" % number)
    for path in (registry.folder / "tuf").iterdir():
        os.utime(path, (registry.clock.time.timestamp(),) * 2)  # by the clock of this test
    registry.clock.time += 2 * DAY
    registry.writer.renew(thoroughly=True)
    left = {path.name for path in (registry.folder / "tuf").iterdir()}
    assert "1.snapshot.json" not in left
    assert "1.root.json" in left
    assert "1.targets.json" in left
    assert read(server, registry.clock) == b"2\n"


def test_bins_become_more_with_the_names(
    registry: SignedRegistry, server: HostileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bins, "NAMES_IN_BIN", 1)
    names = [f"m{number}" for number in range(20)]
    for name in names:
        registry.write_index(name, name.encode())
    registry.writer.sign_all()
    assert read(server, registry.clock, "m7") == b"m7"
    registry.writer.renew(thoroughly=True)
    assert (registry.folder / "tuf" / "1.index-1f.json").exists()
    for name in ("m7", "m8"):
        assert read(server, registry.clock, name) == name.encode()
    registry.publish("m7", b"more")
    assert read(server, registry.clock, "m7") == b"more"
    registry.writer.renew(thoroughly=True)
    assert read(server, registry.clock, "m9") == b"m9"


def test_only_the_keys_of_the_root_sign(registry: SignedRegistry, tmp_path: Path) -> None:
    other = MetadataWriter(registry.place, [key(5)], now=registry.clock)
    with raises("M568", match="another key"):
        other.sign_all()
    from modpkg.registry.folder_place import FolderPlace

    plain = FolderPlace(tmp_path / "plain")
    plain.prepare("plain")
    with raises("M568", match="no root"):
        MetadataWriter(plain, [key(9)]).renew()


# Private modules --------------------------------------------------------------------------------


def test_a_private_index_is_signed_without_its_name(
    registry: SignedRegistry, server: HostileSource
) -> None:
    server.shown["index/secret.jsonl"] = b"one\n"
    with raises("M564", match="listed"):
        read(server, registry.clock, "secret")
    registry.writer.announce_private(b"one\n")
    assert read(server, registry.clock, "secret") == b"one\n"
    registry.writer.settle_private(None, b"one\n")
    registry.writer.announce_private(b"two\n")
    registry.writer.settle_private(b"one\n", b"two\n")
    with raises("M564", match="listed"):
        read(server, registry.clock, "secret")
    server.shown["index/secret.jsonl"] = b"two\n"
    assert read(server, registry.clock, "secret") == b"two\n"
    files = b"".join(path.read_bytes() for path in (registry.folder / "tuf").iterdir())
    assert b"secret" not in files


def line(name: str, *requires: str) -> bytes:
    """Return an index file of one release."""
    release = "sha256:" + "00" * 32
    made = IndexLine(
        name=name, version="1.0", kind="collection", requires=[*requires], release=release
    )
    return format_index([made])


def walked(registry: SignedRegistry, server: HostileSource) -> list[str]:
    """Return the modules that a command resolves, as a new one reads the registry."""
    opened = Registry(server.url, source=server)  # type: ignore[arg-type]
    opened.files.checks = reader(server, registry.clock)
    roots = root_needs("top", (), parse_requirement("top").specifier, "")
    return sorted(resolve(roots, Catalog(opened)).modules)


def test_what_is_required_is_asked_for_before_who_signs_is_known(
    registry: SignedRegistry, server: HostileSource
) -> None:
    registry.publish("top", line("top", "middle"))
    registry.publish("middle", line("middle", "below>=1"))
    registry.publish("below", line("below"))
    has_come = threading.Event()

    def before_read(path: str) -> None:
        if path == "index/below.jsonl":
            has_come.set()
        if path.startswith("tuf/"):
            assert has_come.wait(300)

    server.before_read = before_read
    assert walked(registry, server) == ["below", "middle", "top"]
    assert server.asked.count("index/below.jsonl") == 1


def test_what_an_unsigned_index_requires_is_not_taken(
    registry: SignedRegistry, server: HostileSource
) -> None:
    registry.publish("top", line("top"))
    registry.publish("evil", line("evil"))
    server.shown["index/top.jsonl"] = line("top", "evil")
    with raises("M564", match="another digest"):
        walked(registry, server)
    server.shown["index/top.jsonl"] = b"[" * 100_000
    with raises("M564"):
        walked(registry, server)
    server.shown["index/top.jsonl"] = b'{"requires": ["%s"]}' % (b"x" * 100_000)
    with raises("M564"):
        walked(registry, server)


def test_a_copy_of_a_bin_that_is_damaged_is_fetched_again(
    registry: SignedRegistry, server: HostileSource
) -> None:
    registry.publish("words", b"one\n")
    assert read(server, registry.clock) == b"one\n"
    kept = [*remembered_folder(server.url).glob("index-*.json")]
    assert kept
    for path in kept:
        path.write_bytes(bytes(path.stat().st_size))  # as a loss of power may leave it
    assert read(server, registry.clock) == b"one\n"
