"""The lookup of tensors is made from the release records, and rebuilt when it contradicts them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import pytest

from modpkg.core.digests import parse_digest
from modpkg.core.files import remove_tree
from modpkg.core.tensors import identity_of
from modpkg.core.tree import BlobTree
from modpkg.registry.lookup import LOCATION, TensorLookup
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from registry_spec.check import check
from tests import forkserver
from tests.changing import (
    a_little,
    build_for,
    here_and_there,
    numbers,
    publish_to,
    record_of,
    write,
)
from tests.raising import raises

FIRST = numbers("a", "b", "c")
SECOND = here_and_there(FIRST, "b")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    publish_to(tmp_path / "registry", FIRST)
    publish_to(tmp_path / "registry", SECOND, version="1.1")
    return tmp_path / "registry"


def rows(registry: Path) -> list[tuple[object, ...]]:
    """Return all that the lookup says of tensors."""
    database = sqlite3.connect(registry / LOCATION)
    found = database.execute("SELECT * FROM tensors ORDER BY key, entry").fetchall()
    database.close()
    return found


def finds_all(registry: Path) -> bool:
    """Return whether every tensor of every release is found where its record has it."""
    lookup = TensorLookup(registry)
    reader = Registry(str(registry))
    entries = [
        entry
        for name in reader.names() or []
        for line in reader.index(name)
        for entry in reader.record(line).tensors.values()
    ]
    return all(lookup.holds(entry) and lookup.find(identity_of(entry)) for entry in entries)


def test_it_agrees_with_the_records(registry: Path) -> None:
    assert finds_all(registry)
    assert len(rows(registry)) == 4
    assert TensorLookup(registry).find(("sha256:" + "0" * 64, "BF16", (2, 3000))) is None


@pytest.mark.parametrize("how", ["missing", "empty", "noise", "cut", "version", "half made"])
def test_a_missing_or_damaged_lookup_is_rebuilt(registry: Path, how: str) -> None:
    path, before = registry / LOCATION, rows(registry)
    data = path.read_bytes()
    if how == "missing":
        remove_tree(path.parent)
    elif how in ("empty", "noise", "cut"):
        path.write_bytes({"empty": b"", "noise": os.urandom(5000), "cut": data[:5000]}[how])
    else:
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99" if how == "version" else "DROP TABLE releases")
        database.commit()
        database.close()
    assert finds_all(registry)
    assert rows(registry) == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tensors SET entry = replace(entry, '\"offset\":', '\"offset\":1')",
        "UPDATE tensors SET release = 'sha256:' || printf('%064d', 0)",
        "UPDATE tensors SET entry = 'nonsense'",
        "UPDATE releases SET version = '1.1'",
    ],
)
def test_a_lookup_that_contradicts_the_records_is_rebuilt(registry: Path, change: str) -> None:
    before = rows(registry)
    database = sqlite3.connect(registry / LOCATION)
    database.execute(change)
    database.commit()
    database.close()
    assert finds_all(registry)
    assert rows(registry) == before


def test_a_flipped_byte_anywhere_does_no_harm(registry: Path) -> None:
    data = (registry / LOCATION).read_bytes()
    for place in range(0, len(data), 997):
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        (registry / LOCATION).write_bytes(damaged)
        lookup = TensorLookup(registry)
        for line in Registry(str(registry)).index("m"):
            for entry in record_of(registry, line).tensors.values():
                found = lookup.find(identity_of(entry))
                assert found is None or lookup.holds(found)
        lookup.close()


def test_releases_added_and_removed_without_it_are_noticed(registry: Path, tmp_path: Path) -> None:
    index, lookup = registry / "index" / "m.jsonl", (registry / LOCATION).read_bytes()
    before = index.read_bytes()
    publish_to(registry, a_little(SECOND, "c"), version="1.2")
    (registry / LOCATION).write_bytes(lookup)  # as a publisher leaves it that was killed
    assert finds_all(registry)
    assert len(rows(registry)) == 5
    gone = record_of(registry, Registry(str(registry)).line("m", "1.2")).tensors["c"]
    index.write_bytes(before)
    assert TensorLookup(registry).find(identity_of(gone)) is None
    assert len(rows(registry)) == 4


def test_releases_published_by_another_process_are_seen(registry: Path) -> None:
    """A lookup that is open meets the rows of releases that it has not read the index lines of."""
    lookup = TensorLookup(registry)
    line = publish_to(registry, a_little(SECOND, "c"), "fork")
    before = rows(registry)
    for entry in record_of(registry, line).tensors.values():
        assert lookup.find(identity_of(entry)) == entry
    assert rows(registry) == before


def test_tensors_of_a_missing_pack_are_not_found(registry: Path) -> None:
    entry = record_of(registry, Registry(str(registry)).line("m", "1.0")).tensors["a"]
    BlobTree(registry).path(parse_digest(entry.pack)).unlink()
    assert TensorLookup(registry).find(identity_of(entry)) is None


def test_a_broken_index_or_record_is_left_out(registry: Path) -> None:
    publish_to(registry, numbers("z", seed=4), "other")
    (registry / LOCATION).unlink()
    path = BlobTree(registry).path(
        parse_digest(Registry(str(registry)).line("other", "1.0").release)
    )
    path.chmod(0o644)
    path.write_bytes(b"{}")
    index = registry / "index" / "m.jsonl"
    index.write_bytes(index.read_bytes() * 2)
    lookup = TensorLookup(registry)
    lookup.close()
    assert rows(registry) == []


def test_a_registry_that_cannot_be_written_is_looked_up_in_memory(registry: Path) -> None:
    """Root may write everywhere, so here files stand where the folders would be."""
    remove_tree(registry / "locks")
    remove_tree(registry / "lookup")
    (registry / "locks").write_text("")
    (registry / "lookup").write_text("")
    assert finds_all(registry)


# Publishing what is there in part ------------------------------------------------------------


def test_a_fork_and_a_copy_cost_their_records_only(registry: Path) -> None:
    original = record_of(registry, Registry(str(registry)).line("m", "1.1"))
    packs = sum(1 for path in (registry / "blobs").rglob("*") if path.stat().st_size > 10_000)
    for name in ("fork", "copy"):
        line = publish_to(registry, SECOND, name)
        record = record_of(registry, line)
        assert (record.tensors, record.sources) == (original.tensors, original.sources)
        blobs = BlobTree(registry)
        assert line.size <= blobs.path(parse_digest(line.release)).stat().st_size
    assert packs == sum(1 for p in (registry / "blobs").rglob("*") if p.stat().st_size > 10_000)
    assert check(str(registry)).problems == []


def test_a_copy_that_was_built_for_no_registry_costs_no_tensor_either(
    registry: Path, tmp_path: Path
) -> None:
    folder = write(tmp_path / "copy", FIRST, "copy")
    built = build_for(folder, tmp_path / "none")
    line = RegistryWriter(registry).publish(Registry(str(folder / "dist")), built.line)
    assert line.size < 3000 < built.line.size


def test_the_size_of_a_line_is_what_the_release_added(registry: Path) -> None:
    def total() -> int:
        return sum(p.stat().st_size for p in (registry / "blobs").rglob("*") if p.is_file())

    before = total()
    line = publish_to(registry, a_little(SECOND, "a"), version="1.2")
    assert line.size == total() - before


def test_packs_have_to_be_in_the_registry_published_to(registry: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", here_and_there(SECOND, "a"), version="1.2")
    built = build_for(folder, registry)
    with raises("M317", match=r"2 of its packs are neither in its build nor in .*elsewhere"):
        RegistryWriter(tmp_path / "elsewhere").publish(Registry(str(folder / "dist")), built.line)
    assert Registry(str(tmp_path / "elsewhere")).names() == []


def test_a_release_cannot_claim_tensors_that_a_pack_lacks(registry: Path, tmp_path: Path) -> None:
    """A tensor at a place that no release vouches for is hashed."""
    other = tmp_path / "other"
    shutil.copytree(registry, other)
    folder = write(tmp_path / "fork", SECOND, "fork")
    built = build_for(folder, registry)
    # The same packs, but nothing describes what is in them, and one is damaged.
    for path in (other / "index").iterdir():
        path.unlink()
    entry = built.record.tensors["c"]
    pack = BlobTree(other).path(parse_digest(entry.pack))
    data = bytearray(pack.read_bytes())
    pack.chmod(0o644)
    data[entry.offset] ^= 1
    pack.write_bytes(data)
    with raises("M305", match="tensor 'c' of fork"):
        RegistryWriter(other).publish(Registry(str(folder / "dist")), built.line)
    data[entry.offset] ^= 1
    pack.write_bytes(data)
    RegistryWriter(other).publish(Registry(str(folder / "dist")), built.line)


PUBLISHER = """
import os, sys
from pathlib import Path
import numpy, numpy.random, zstandard
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from tests.changing import build_for
folder, registry, user = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if user:
    os.setgroups([])
    os.setgid(4321)
    os.setuid(user)
    os.umask(0o022)
line = build_for(folder, registry).line
RegistryWriter(registry).publish(Registry(str(folder / "dist")), line)
"""


def publisher(folder: Path, registry: Path, user: int = 0) -> subprocess.Popen[bytes]:
    """Build and publish in a separate process, as another user if one is given."""
    return subprocess.Popen(
        [forkserver.python(), "-c", PUBLISHER, str(folder), str(registry), str(user)],
        stderr=subprocess.PIPE,
        cwd=registry.parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_publishers_at_once_lose_nothing(registry: Path, tmp_path: Path) -> None:
    folders = []
    for at in range(6):
        name = f"fork-{at % 3}"
        tensors = here_and_there(FIRST, "abc"[at % 3], seed=at)
        folder = write(tmp_path / f"p{at}", tensors, name, f"1.{at}")
        folders.append(folder)
    processes = [publisher(folder, registry) for folder in folders]
    for process in processes:
        _, output = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()
    report = check(str(registry))
    assert (report.problems, report.releases) == ([], 8)
    assert finds_all(registry)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes two other users, so it needs root")
def test_two_users_share_a_folder() -> None:
    """They publish in turn, with a umask that denies writing to others."""
    # Other users do not get into the folders that pytest makes.
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        shared = Path(temporary)
        os.chown(shared, 0, 4321)
        shared.chmod(0o2775)
        for number, user in enumerate((5001, 5002, 5001)):
            tensors = here_and_there(FIRST, "a", seed=number)
            folder = write(shared / f"project-{number}", tensors, version=f"1.{number}")
            os.chown(folder, user, 4321)
            _, output = (process := publisher(folder, shared / "registry", user)).communicate()
            assert process.returncode == 0, output.decode()
        assert check(str(shared / "registry")).problems == []
        assert finds_all(shared / "registry")
        third = record_of(shared / "registry", Registry(str(shared / "registry")).line("m", "1.2"))
        assert [len(third.packs), third.tensors["b"].encoding] == [3, None]
        assert {path.stat().st_uid for path in shared.rglob("*.lock")} == {5001}
