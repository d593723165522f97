"""Fetching: only what is missing moves, whatever the server does, and nothing wrong gets in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import (
    ModpkgError,
    RegistryUnreachable,
)
from modpkg.core.records import canonical_json
from modpkg.manifest.config import parse_settings
from modpkg.store.store import Store
from modpkg.transfer import fetch as fetching
from modpkg.transfer import pieces
from tests.changing import a_little, numbers, publish_to, record_of
from tests.raising import raises
from tests.registry.servers import Handler, Server, serve
from tests.transfer.helpers import asked_for, fetch, locked, partial, plan_of, same

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def server(registry: Path) -> Iterator[Server]:
    with serve(registry) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces without gaps, so that small tensors take many requests."""
    monkeypatch.setattr(fetching, "PIECE", 4096)
    monkeypatch.setattr(fetching, "GAP", 0)
    monkeypatch.setattr(pieces, "PAUSE", 0.001)


def test_a_release_is_fetched_over_http_in_many_ranges(
    registry: Path, server: Server, store: Store
) -> None:
    tensors = numbers(*NAMES)
    line = publish_to(registry, tensors, deltas=False)
    plan = fetch(store, server.url, line)
    size = sum(values.nbytes for values in tensors.values())
    assert plan.missing_of("m") == plan.missing
    assert asked_for(server) == size
    assert plan.disk >= plan.missing > size
    assert partial(store) == []
    same(store.module(plan.records["m"], line.release), tensors)


def test_only_the_fetching_process_trusts_a_pack(
    registry: Path, server: Server, store: Store
) -> None:
    fetch(store, server.url, publish_to(registry, numbers(*NAMES), deltas=False))
    (pack,) = (store.packs.path(name) for name in store.index.packs())
    assert pack in store.verified
    assert pack not in Store(store.root).verified
    pack.chmod(0o644)
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    assert pack not in store.verified


def test_only_changed_tensors_are_transferred(registry: Path, server: Server, store: Store) -> None:
    first = numbers(*NAMES)
    fetch(store, server.url, publish_to(registry, first, deltas=False))
    second = first | numbers("b", seed=9)
    line = publish_to(registry, second, version="1.1", deltas=False)
    server.seen.clear()
    plan = fetch(store, server.url, line)
    assert asked_for(server) == second["b"].nbytes
    assert plan.here >= 3 * second["a"].nbytes
    same(store.module(plan.records["m"], line.release), second)


def test_modules_that_share_a_tensor_fetch_it_once(
    registry: Path, server: Server, store: Store
) -> None:
    tensors = numbers(*NAMES)
    fork = {f"x.{name}": values for name, values in tensors.items()} | numbers("y", seed=4)
    lines = (publish_to(registry, tensors), publish_to(registry, fork, "fork", deltas=False))
    plan = plan_of(store, server.url, *lines)
    server.seen.clear()
    fetch(store, server.url, *lines)
    assert asked_for(server) == 5 * fork["y"].nbytes
    assert plan.missing_of("fork") < 2 * fork["y"].nbytes
    assert len(store.index.packs()) == 2


def test_a_copy_under_another_name_moves_no_tensor(
    registry: Path, server: Server, store: Store
) -> None:
    tensors = numbers(*NAMES)
    fetch(store, server.url, publish_to(registry, tensors, deltas=False))
    line = publish_to(registry, tensors, "copy")
    server.seen.clear()
    plan = fetch(store, server.url, line)
    assert asked_for(server) == 0
    assert not plan.tensors


def test_equal_bytes_of_several_types_lie_aligned_for_the_widest(
    registry: Path, store: Store, tmp_path: Path
) -> None:
    from tests.conftest import safetensors_bytes
    from tests.modules import publish, write_module

    weights = safetensors_bytes({"a": ("U8", [16], bytes(16)), "b": ("F64", [2], bytes(16))})
    files = {"model.safetensors": weights, "config.json": b'{"model_type": "tiny"}'}
    line = publish(write_module(tmp_path / "p", "zeros", kind="base", files=files), registry)
    plan = fetch(store, str(registry), line)
    module = store.module(plan.records["zeros"], line.release)
    assert {ref.offset % 8 for ref in module.tensors.values()} == {0}
    assert len(plan.tensors) == 1


@pytest.mark.parametrize("over_http", [True, False])
def test_encoded_tensors_are_decoded_on_stored_or_fetched_ones(
    registry: Path, server: Server, tmp_path: Path, over_http: bool
) -> None:
    """From nothing, from the first version, and from each to the next."""
    url = server.url if over_http else str(registry)
    versions = [numbers(*NAMES)]
    for number in range(4):
        versions.append(a_little(versions[-1], "b", seed=number))
    lines = [
        publish_to(registry, tensors, version=f"1.{number}")
        for number, tensors in enumerate(versions)
    ]
    last = record_of(registry, lines[-1])
    assert last.tensors["b"].encoding is not None
    for known in (), (0,), (3,), (0, 1, 2, 3):
        store = Store(tmp_path / f"store-{len(known)}-{sum(known)}")
        for number in known:
            fetch(store, url, lines[number])
        server.seen.clear()
        plan = fetch(store, url, lines[-1])
        same(store.module(plan.records["m"], lines[-1].release), versions[-1])
        assert partial(store) == []
        if over_http and known in ((3,), (0, 1, 2, 3)):
            assert asked_for(server) == last.tensors["b"].length
        if over_http:
            names = {d for name in store.index.packs() for d in store.packs.read(name)}
            wanted = {e.digest for e in last.tensors.values()}
            assert wanted <= names
            assert known or wanted == names  # what was only decoded on is not kept


def test_one_plan_with_both_ends_of_a_chain(registry: Path, server: Server, store: Store) -> None:
    """A fork that is decoded on a tensor of the module beside it."""
    first = numbers(*NAMES)
    lines = (
        publish_to(registry, first, "zebra"),
        publish_to(registry, a_little(first, "c"), "ape"),
    )
    assert record_of(registry, lines[1]).tensors["c"].encoding is not None
    for order in lines, lines[::-1]:
        plan = fetch(Store(store.root.with_name(order[0].name)), server.url, *order)
        assert len(plan.packs) == 2
        assert len(plan.tensors) == 5


def test_a_server_without_ranges_is_read_from_the_beginning(
    registry: Path, server: Server, store: Store
) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    server.ranges = False
    fetch(store, server.url, line)


def test_interrupted_downloads_are_resumed(registry: Path, server: Server, store: Store) -> None:
    tensors = numbers(*NAMES)
    line = publish_to(registry, tensors, deltas=False)

    def fault(handler: Handler, number: int) -> bool:
        if number % 3 == 0 and "Range" in handler.headers:
            handler.give(server, cut=1000)
            return True
        return False

    server.fault = fault
    fetch(store, server.url, line)
    # Every byte received is kept: only missing bytes are requested again.
    assert asked_for(server) > sum(values.nbytes for values in tensors.values())


def test_short_responses_are_resumed(registry: Path, server: Server, store: Store) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)

    def fault(handler: Handler, number: int) -> bool:
        data = handler.file()
        asked = handler.headers.get("Range")
        if asked is None or data is None or number % 2:
            return False
        first = int(asked.removeprefix("bytes=").split("-")[0])
        span = f"bytes {first}-{first + 99}/{len(data)}"
        handler.answer(206, data[first : first + 100], Content_Range=span)
        return True

    server.fault = fault
    try:
        fetch(store, server.url, line)
    except RegistryUnreachable:  # a client may refuse an answer to another question
        server.fault = lambda handler, number: False
        fetch(store, server.url, line)


def test_bytes_beyond_the_range_are_dropped(registry: Path, server: Server, store: Store) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)

    def fault(handler: Handler, number: int) -> bool:
        data = handler.file()
        asked = handler.headers.get("Range")
        if asked is None or data is None:
            return False
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        body = data[first : last + 1] + b"more" * 1000
        handler.answer(206, body, Content_Range=f"bytes {first}-{last}/{len(data)}")
        return True

    server.fault = fault
    fetch(store, server.url, line)


@pytest.mark.parametrize("over_http", [True, False])
def test_a_truncated_pack_is_an_error(
    registry: Path, server: Server, store: Store, over_http: bool
) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    pack = registry / blob_path(parse_digest(next(iter(record_of(registry, line).packs))))
    pack.chmod(0o644)
    os.truncate(pack, pack.stat().st_size // 2)
    with raises("M201", "M302"):
        fetch(store, server.url if over_http else str(registry), line)
    pack.unlink()
    with raises("M306", match="the weights of m 1.0"):
        fetch(Store(store.root.with_name("b")), server.url if over_http else str(registry), line)
    assert store.index.packs() == {}


def flip(path: Path, offset: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_flipped_bit_in_a_registry_is_detected(
    registry: Path, server: Server, store: Store, encoded: bool
) -> None:
    first = numbers(*NAMES)
    line = publish_to(registry, first)
    if encoded:
        line = publish_to(registry, a_little(first, "b"), version="1.1")
    entry = record_of(registry, line).tensors["b"]
    assert (entry.encoding is not None) == encoded
    pack = registry / blob_path(parse_digest(entry.pack))
    flip(pack, entry.offset + entry.length // 2)
    for _ in range(2):
        with raises("M305", "M212", match="tensor 'b' of m"):
            fetch(store, server.url, line)
        assert store.index.packs() == {}
        assert not store.is_checked(line.release)
    flip(pack, entry.offset + entry.length // 2)
    server.seen.clear()
    fetch(store, server.url, line)
    assert asked_for(server) == entry.length  # all else had come


@pytest.mark.parametrize("what", ["tensor", "file"])
def test_wrong_bytes_of_a_mirror_are_fetched_from_the_registry(
    registry: Path, server: Server, store: Store, tmp_path: Path, what: str
) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    record = record_of(registry, line)
    shutil.copytree(registry, tmp_path / "mirror")
    entry = record.tensors["b"]
    if what == "tensor":
        flip(tmp_path / "mirror" / blob_path(parse_digest(entry.pack)), entry.offset)
    else:
        path = blob_path(parse_digest(record.files["config.json"].digest))
        flip(tmp_path / "mirror" / path, 3)
    with serve(tmp_path / "mirror") as mirror:
        text = f'[registry."{server.url}"]\nmirrors = ["{mirror.url}"]'
        fetch(store, server.url, line, settings=parse_settings(text, tmp_path / "config.toml"))
        assert any("/blobs/" in path for path in mirror.paths())
    assert any("/blobs/" in path for path in server.paths())


def interrupted(server: Server, store: Store, line: object, after: int) -> None:
    """Fetch from a server that fails after so many requests for packs."""
    came = iter(range(10_000))

    def fault(handler: Handler, number: int) -> bool:
        if "Range" in handler.headers and next(came) >= after:
            handler.answer(403)
            return True
        return False

    server.fault = fault
    with pytest.raises(ModpkgError):
        fetch(store, server.url, line)  # type: ignore[arg-type]
    server.fault = lambda handler, number: False


def test_a_later_fetch_resumes(
    registry: Path, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "CONNECTIONS", 1)
    tensors = numbers(*NAMES)
    size = sum(values.nbytes for values in tensors.values())
    line = publish_to(registry, tensors, deltas=False)
    interrupted(server, store, line, 8)
    assert partial(store) == [".journal", ".lock", ".pack", ".spool"]
    plan = plan_of(store, server.url, line)
    assert plan.missing == size - 8 * 4096
    assert plan.here >= 8 * 4096
    server.seen.clear()
    fetch(store, server.url, line)
    assert asked_for(server) == size - 8 * 4096


@pytest.mark.parametrize("damage", ["pack", "journal", "cut journal", "cut pack", "no pack"])
def test_bytes_of_an_unfinished_pack_are_verified(
    registry: Path, server: Server, store: Store, damage: str
) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    interrupted(server, store, line, 9)
    files = {path.suffix: path for path in (store.root / "partial").iterdir()}
    pack, journal = files[".pack"], files[".journal"]
    if damage == "pack":
        pack.write_bytes(os.urandom(pack.stat().st_size))
    elif damage == "journal":
        journal.write_bytes(os.urandom(2400))
    elif damage == "cut journal":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "cut pack":
        os.truncate(pack, 100)
    else:
        pack.unlink()
    fetch(store, server.url, line)
    assert partial(store) == []


def test_a_record_with_a_false_digest_of_a_tensor_is_refused(
    registry: Path, server: Server, store: Store
) -> None:
    """Another place, with another tensor's bytes: the digest differs."""
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    record = record_of(registry, line)
    from msgspec.structs import replace

    wrong = replace(record.tensors["a"], offset=record.tensors["b"].offset)
    lying = replace(record, tensors=record.tensors | {"a": wrong})
    from modpkg.core.tree import BlobTree

    release = BlobTree(registry).add(canonical_json(lying))
    with raises("M305", match="tensor 'a' of m 1.0"):
        fetch(store, server.url, replace(line, release=release))


def test_a_store_that_lost_a_pack_fetches_it_again(
    registry: Path, server: Server, store: Store
) -> None:
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    fetch(store, server.url, line)
    shutil.rmtree(store.root / "packs")
    assert plan_of(Store(store.root), server.url, line).tensors
    fetch(Store(store.root), server.url, line)


def test_two_who_fetch_the_same_take_turns(registry: Path, server: Server, store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    first = numbers(*NAMES)
    publish_to(registry, first)
    line = publish_to(registry, a_little(first, "b"), version="1.1")
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(fetch, Store(store.root), server.url, line) for _ in range(4)]:
            job.result()
    assert partial(store) == []
    pieces_asked = [seen.headers["range"] for seen in server.seen if "range" in seen.headers]
    assert len(pieces_asked) == len(set(pieces_asked))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_refused_and_nothing_remains(
    registry: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both by the plan's size, and by a disk that fills during the fetch."""
    line = publish_to(registry, numbers(*NAMES), deltas=False)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)], check=True)
    try:
        store = Store(small / "store")
        plan = plan_of(store, server.url, line)
        with raises("M502"):
            fetching.check_space(store.root, plan.disk)
        server.seen.clear()
        with raises("M502"):
            fetching.fetch_all(plan, [locked(line)], store)
        assert asked_for(server) == 0
        assert [suffix for suffix in partial(store) if suffix != ".lock"] == []
    finally:
        subprocess.run(["umount", str(small)], check=True)
