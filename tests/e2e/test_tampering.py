"""A flipped bit is reported in one sentence before anything is switched, or does no harm."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.records import METHODS, ReleaseRecord
from modpkg.core.tree import BlobTree
from modpkg.registry.reader import Registry
from modpkg.release.places import labelled_entries, sources_of
from tests.e2e.tampering import WANTED, World, command, flip, spread

INSTALL = ("install", WANTED)
FROZEN = ("install", "--frozen")


@pytest.fixture(scope="module", params=["plain", "encoded"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), deltas=request.param == "encoded")


@pytest.fixture(params=["folder", "http"])
def entered(request: pytest.FixtureRequest, world: World) -> Iterator[World]:
    with world.entered(http=request.param == "http"):
        yield world


@pytest.fixture
def either(request: pytest.FixtureRequest, world: World) -> Iterator[World]:
    """Half of the combinations."""
    with world.entered(http=not world.deltas):
        yield world


@pytest.fixture
def here(world: World) -> Iterator[World]:
    with world.entered():
        yield world


def tried(
    world: World,
    path: Path,
    places: list[tuple[int, int]],
    start: str,
    arguments: tuple[str, ...] = INSTALL,
    *,
    kept: bool = False,
) -> list[int]:
    """Flip one bit at a time, run the command from ``start``, and return the bytes reported.

    ``kept``: the file is a part of what ``start`` puts back, so it need not be flipped back.
    """
    detected = []
    world.restore(start)
    before, weights = world.state(), world.installed()
    for at, bit in places:
        flip(path, at, bit)
        try:
            before = world.state() if kept else before
            if world.judge(command(*arguments), before, weights):
                detected.append(at)
        except AssertionError as error:
            raise AssertionError(f"{path}: bit {bit} of byte {at}: {error}") from error
        finally:
            if not kept:
                flip(path, at, bit)
            world.restore(start)
    world.loads()
    return detected


def records(world: World) -> dict[str, ReleaseRecord]:
    registry = Registry(str(world.registry))
    return {name: registry.record(line) for name, line in world.lines().items()}


def blob(world: World, digest: str) -> Path:
    return BlobTree(world.registry).path(parse_digest(digest))


def test_an_encoded_world_has_every_encoding_and_a_plain_one_none(
    world: World, request: pytest.FixtureRequest
) -> None:
    record = records(world)["tiny"]
    methods = {e.encoding.method for _, e in labelled_entries(record) if e.encoding is not None}
    if "[encoded" in request.node.name:
        assert methods == set(METHODS)
        assert sources_of(record)
    else:
        assert not methods


def test_a_pack_of_a_registry(entered: World) -> None:
    for record in records(entered).values():
        used = [(e, e.offset, e.offset + e.length) for _, e in labelled_entries(record)]
        for pack in record.packs:
            path = blob(entered, pack)
            mine = sorted((start, stop) for e, start, stop in used if e.pack == pack)
            places = spread(0, path.stat().st_size, 7)
            places += [((start + stop) // 2, 5) for start, stop in mine[::6]]
            detected = tried(entered, path, places, "old")
            for at, _ in places:
                assert (at in detected) == any(start <= at < stop for start, stop in mine)


@pytest.mark.parametrize("kind", ["record", "interface", "file"])
def test_another_blob_of_a_registry(either: World, kind: str) -> None:
    lines, found = either.lines(), records(either)
    kinds: dict[str, set[str]] = {
        "record": {line.release for line in lines.values()},
        "interface": {
            *(line.provides for line in lines.values() if line.provides),
            *(digest for line in lines.values() for digest in line.expects.values()),
        },
        "file": {entry.digest for record in found.values() for entry in record.files.values()},
    }
    digests = kinds[kind]
    assert digests
    for digest in sorted(digests):
        path = blob(either, digest)
        places = spread(0, path.stat().st_size, 10)
        assert tried(either, path, places, "old") == [at for at, _ in places]


UNVOUCHED = ("size", "published", "yanked", "spec")
"""Fields that nothing else in a registry repeats; a lower spec is not an error."""


def fields(raw: bytes) -> dict[str, list[tuple[int, int]]]:
    """Return the position of the value of each field of a line."""
    found = {}
    for key, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items():
        begin = raw.index(f'"{key}":'.encode()) + len(key) + 3
        assert raw[begin : begin + len(bytes(value))] == bytes(value)
        found[key] = spread(begin, begin + len(bytes(value)), 4)
    return found


@pytest.mark.parametrize("name", ["talker", "tiny", "tiny-lora"])
def test_an_index_line(either: World, name: str) -> None:
    """Every field, and the bytes between them; with an empty store and with a full one."""
    path = either.registry / "index" / f"{name}.jsonl"
    data = path.read_bytes()
    begin = data.rindex(b"\n{", 0, -1) + 1
    for field, places in fields(data[begin:]).items():
        there = [(begin + at, bit) for at, bit in places]
        detected = tried(either, path, there, "old")
        if field not in UNVOUCHED:
            assert detected == [at for at, _ in there], field
    tried(either, path, spread(0, len(data), 10), "full")


def test_requirements_that_an_index_leaves_out(either: World) -> None:
    """Also where a lock was made of them first."""
    path = either.registry / "index" / "talker.jsonl"
    data = path.read_bytes()
    try:
        for old, new in ((b"tiny~=2.0", b"tiny>=1.0"), (b'"tiny-lora~=2.0"', b"")):
            path.write_bytes(data.replace(old, new))
            either.restore("old")
            before, weights = either.state(), either.installed()
            done = command(*INSTALL)
            assert either.judge(done, before, weights)
            assert "[M310]" in done.err
            (either.app / "modpkg.toml").write_text(
                '[app]\nname = "app"\n[dependencies]\n"talker" = { version = "==2.0", '
                'extras = ["loud"] }\n'
            )
            assert command("lock").status == 0
            before = either.state()
            done = command(*FROZEN)
            assert either.judge(done, before, weights)
            assert "[M410]" in done.err
    finally:
        path.write_bytes(data)


def test_the_name_of_a_registry(either: World) -> None:
    path = either.registry / "registry.json"
    data = path.read_bytes()
    begin = data.index(b'"name":"') + 8
    stop = data.index(b'"', begin)
    places = spread(begin, stop)
    assert tried(either, path, places, "to-fetch", FROZEN) == [at for at, _ in places]
    tried(either, path, spread(0, len(data)), "to-fetch", FROZEN)


@pytest.mark.parametrize("start", ["to-fetch", "locked"])
def test_a_lock(either: World, start: str) -> None:
    path = either.app / "modpkg.lock"
    either.restore(start)
    text = path.read_text()
    places = spread(0, len(text), 20)
    vouched = []
    for number, part in enumerate(text.split("[[module]]")):
        for key in ("name", "version", "kind", "release", "requires", "extras"):
            begin = part.find(f"\n{key} = ")
            if number and begin >= 0:
                value = text.index(part) + begin + len(key) + 4
                vouched += spread(value + 1, text.index("\n", value) - 1, 3)
    detected = tried(either, path, places + vouched, start, FROZEN, kept=True)
    assert set(detected) >= {at for at, _ in vouched}
    tried(either, path, places[::4] + vouched[::6], start, INSTALL, kept=True)


def test_an_unfinished_pack(either: World) -> None:
    """What an earlier command left, and the journal of it: the bytes are hashed like new ones."""
    record = records(either)["tiny"]
    entry = record.tensors["model.layers.0.self_attn.q_proj.weight"]
    pack = blob(either, entry.pack)
    either.restore("old")
    flip(pack, entry.offset + entry.length // 2, 0)
    assert command(*INSTALL).status == 1
    flip(pack, entry.offset + entry.length // 2, 0)
    either.keep("unfinished")
    left = [p for p in (either.home / "store" / "partial").iterdir() if p.suffix != ".lock"]
    assert {path.suffix for path in left} >= {".pack", ".journal"}
    try:
        for path in left:
            if size := path.stat().st_size:
                places = spread(0, size, 20 if path.suffix == ".journal" else 10)
                assert tried(either, path, places, "unfinished", kept=True) == []
    finally:
        shutil.rmtree(either.root / "kept" / "unfinished")


def test_the_index_of_the_store(either: World) -> None:
    either.restore("full")
    path = either.home / "store" / "tensors.sqlite"
    data = path.read_bytes()
    written = [at for at, byte in enumerate(data) if byte]
    places = [(at, number % 8) for number, at in enumerate([*range(0, 100, 5), *written[100::199]])]
    assert tried(either, path, places, "full", kept=True) == []


def fresh(world: World) -> None:
    """Forget what was composed and locked, so that nothing is known of the result."""
    world.restore("full")
    shutil.rmtree(world.home / "store" / "composed")
    lock = world.app / "modpkg.lock"
    lock.write_text(lock.read_text().partition("[[composed]]")[0])
    world.keep("fresh")


def test_a_pack_of_the_store(here: World) -> None:
    """The header each time a tensor is looked up, the data when something is composed of it."""
    fresh(here)
    try:
        headers = data = 0
        for name in here.store.packs.sizes():
            path = here.store.packs.path(name)
            inside = here.store.packs.read(name)
            first = min(place.offset for place in inside.values())
            assert tried(here, path, spread(0, first, 4), "fresh", kept=True) == []
            headers += 1
            for digest, place in inside.items():
                if digest not in inputs(here):
                    continue
                data += 1
                places = spread(place.offset, place.offset + place.length, 3)
                detected = tried(here, path, places, "fresh", kept=True)
                assert detected == [at for at, _ in places]
        assert headers >= 3
        assert data == 12
    finally:
        shutil.rmtree(here.root / "kept" / "fresh")


def inputs(world: World) -> set[str]:
    """Return the digests of the tensors that talker 2.0's weights are computed from."""
    found = records(world)
    base = found["tiny"].tensors
    touched = {e.digest for n, e in base.items() if n.endswith(("q_proj.weight", "v_proj.weight"))}
    return touched | {entry.digest for entry in found["tiny-lora"].tensors.values()}


def test_verify_repairs_damage_that_composing_reports(here: World) -> None:
    fresh(here)
    try:
        store = here.store
        digest = records(here)["tiny-lora"].tensors
        entry = next(iter(digest.values()))
        place = store.find({entry.digest: 1})[entry.digest]
        flip(store.packs.path(place.pack), place.offset, 3)
        done = command(*INSTALL)
        assert "[M508]" in done.err
        assert "store verify" in done.err
        command("store", "verify")  # no project needs it: damaged counts as missing
        assert command(*INSTALL).status == 0
        assert here.installed() == here.weights
    finally:
        shutil.rmtree(here.root / "kept" / "fresh")


def test_a_composed_result(here: World) -> None:
    """Its record each time; its data by `store verify` only, as docs/store.md says."""
    here.restore("full")
    for record in sorted((here.home / "store" / "composed").rglob("composed.json")):
        size = record.stat().st_size
        assert tried(here, record, spread(0, size, 15), "full", kept=True) == []
        weights = record.with_name("weights.safetensors")
        for at, bit in spread(0, weights.stat().st_size, 5):
            flip(weights, at, bit)
            assert command("store", "verify", "--no-repair").status == 1
            here.restore("full")


def _of_generation(world: World) -> Path:
    return world.environment.folder(world.environment.current_number() or 0) / "generation.json"


def _of_model(world: World) -> Path:
    return world.environment.model_folder("talker") / "model.json"


@pytest.mark.parametrize("record", [_of_generation, _of_model])
def test_a_record_of_an_environment(here: World, record: Callable[[World], Path]) -> None:
    """Reading commands report it; changing the environment regenerates it."""
    here.restore("full")
    path = record(here)
    size = path.stat().st_size
    for at, bit in spread(0, size, 20):
        flip(path, at, bit)
        done = command("run", "talker", str(here.app / "modpkg.toml"))
        assert done.status == 1
        assert len(done.errors) == 1
        assert done.errors[0].startswith("error[M506]"), done.err
        here.restore("full")
    weights = here.installed()
    for arguments in (("install",), INSTALL, ("rollback", "--to", "2")):
        for at, bit in spread(0, size, 3):
            flip(path, at, bit)
            assert command(*arguments).status == 0
            assert here.installed() == (weights if arguments == ("install",) else here.weights)
            here.loads()
            here.restore("full")


@pytest.mark.parametrize("record", [_of_generation, _of_model])
def test_a_generation_to_return_to(here: World, record: Callable[[World], Path]) -> None:
    here.restore("full")
    assert command("rollback", "--to", "2").status == 0
    path = record(here)
    assert command("rollback", "--to", "1").status == 0
    before, weights = here.state(), here.installed()
    for at, bit in spread(0, path.stat().st_size):
        flip(path, at, bit)
        assert here.judge(command("rollback", "--to", "2"), before, weights)
        flip(path, at, bit)
    flip(path, 200, 1)
    assert command("install", "talker", "tiny").status == 0  # what is damaged and old is removed
