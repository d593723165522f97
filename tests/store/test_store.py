"""The store: tensors are found by digest, whatever happens to the index."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.digests import Digest
from modpkg.core.file_lock import file_lock
from modpkg.core.packs import read_pack_header
from modpkg.store.contents import scan_store
from modpkg.store.packs import lay_out
from modpkg.store.projects import Projects
from modpkg.store.store import Store
from tests import forkserver
from tests.raising import raises


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add(store: Store, *tensors: bytes, index: bool = True) -> str:
    """Add a pack of U8 tensors and return its name."""
    layout = lay_out({digest(data): ("U8", (len(data),)) for data in tensors})
    staged = store.root / "staged"
    store.root.mkdir(exist_ok=True)
    ordered = sorted(tensors, key=digest)
    staged.write_bytes(layout.header + b"".join(ordered))
    if index:
        store.add_pack(staged, layout)
    else:
        store.packs.adopt(staged, layout.name)
    return layout.name


def found(store: Store, *tensors: bytes) -> list[bool]:
    """Say which tensors are here, and check that they are where the store says."""
    places = Store(store.root).find({digest(data): 1 for data in tensors})
    for data in tensors:
        if place := places.get(digest(data)):
            whole = store.packs.path(place.pack).read_bytes()
            assert whole[place.offset : place.offset + place.length] == data
    return [digest(data) in places for data in tensors]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_tensors_are_found_by_digest(store: Store) -> None:
    name = add(store, b"one", b"two")
    assert found(store, b"one", b"two", b"three") == [True, True, False]
    assert store.index.packs() == {name: store.packs.path(name).stat().st_size}
    assert store.find({}) == {}


def test_a_pack_is_an_ordinary_safetensors_file_named_by_its_header(store: Store) -> None:
    path = store.packs.path(add(store, b"one", b"two"))
    assert {f"sha256:{name}" for name in read_pack_header(path)} == {digest(b"one"), digest(b"two")}
    assert path.stat().st_mode & 0o777 == 0o444


@given(st.sets(st.binary(min_size=1, max_size=9), min_size=1, max_size=5))
def test_a_pack_of_the_same_tensors_has_the_same_name(tensors: set[bytes]) -> None:
    kinds = {digest(data): ("U8", (len(data),)) for data in tensors}
    one, other = lay_out(kinds), lay_out(dict(reversed(kinds.items())))
    assert one == other
    assert one.size == len(one.header) + sum(map(len, tensors))


def test_a_place_that_is_not_aligned_counts_as_missing(store: Store) -> None:
    tensors = [bytes([n]) * 3 for n in range(8)]
    add(store, *tensors)
    wanted = {digest(data): 8 for data in tensors}
    places = store.find(wanted)
    assert 0 < len(places) < len(tensors)
    assert all(place.offset % 8 == 0 for place in places.values())


def test_the_pack_with_most_wanted_tensors_is_preferred(store: Store) -> None:
    add(store, b"one")
    both = add(store, b"one", b"two")
    places = store.find({digest(b"one"): 1, digest(b"two"): 1})
    assert {place.pack for place in places.values()} == {both}


def damage_nothing(path: Path) -> None:
    pass


def remove(path: Path) -> None:
    path.unlink()


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(9000))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(data)


def replace_by_another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tensors (other TEXT)")
        connection.execute("PRAGMA user_version = 7")
    connection.close()


def empty_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE tensors")
    connection.commit()
    connection.close()


def lie(path: Path) -> None:
    """Every tensor is listed in the pack of another."""
    connection = sqlite3.connect(path)
    packs = [row[0] for row in connection.execute("SELECT pack FROM packs ORDER BY pack")]
    connection.execute("UPDATE tensors SET pack = CASE pack WHEN ? THEN ? ELSE ? END",
                       (packs[0], packs[1], packs[0]))  # fmt: skip
    connection.commit()
    connection.close()


def future(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "harm",
    [
        damage_nothing,
        remove,
        overwrite,
        cut,
        scribble,
        replace_by_another_database,
        empty_tables,
        lie,
        future,
    ],
)
def test_the_index_can_be_lost(store: Store, harm: object) -> None:
    add(store, b"one", b"two")
    add(store, b"three")
    for left in store.root.glob("tensors.sqlite-*"):
        left.unlink()
    harm(store.root / "tensors.sqlite")  # type: ignore[operator]
    assert found(store, b"one", b"two", b"three") == [True, True, True]
    assert len(Store(store.root).index.packs()) == 2


def test_a_pack_that_was_renamed_but_not_noted_is_found(store: Store) -> None:
    add(store, b"one")
    add(store, b"two", index=False)
    assert found(store, b"two") == [True]


def test_a_pack_that_is_gone_is_forgotten(store: Store) -> None:
    name = add(store, b"one")
    store.packs.remove(name)
    assert found(store, b"one") == [False]
    assert Store(store.root).index.packs() == {}


@pytest.mark.parametrize("length", [0, 7, 100])
def test_a_cut_pack_is_removed(store: Store, length: int) -> None:
    path = store.packs.path(add(store, b"one"))
    os.truncate(path, length)
    assert found(store, b"one") == [False]
    assert not path.exists()


def test_another_file_under_a_packs_name_is_refused(store: Store) -> None:
    one, two = add(store, b"one"), add(store, b"four")
    store.packs.path(two).replace(store.packs.path(one))
    with raises("M201", match="does not match its name"):
        store.packs.read(one)
    assert found(store, b"one", b"four") == [False, False]


_WRITER = """
import sys
from pathlib import Path
from tests.store.test_store import add, found
from modpkg.store.store import Store
root, number = Path(sys.argv[1]), int(sys.argv[2])
mine = root / f"{number}"
store = Store(root)
import modpkg.store.store
for n in range(8):
    import hashlib
    from tests.store.test_store import digest
    from modpkg.store.packs import lay_out
    data = [f"{number}-{n}".encode(), b"shared %d" % n]
    layout = lay_out({digest(d): ("U8", (len(d),)) for d in data})
    staged = root / f"staged-{number}"
    staged.write_bytes(layout.header + b"".join(sorted(data, key=digest)))
    store.add_pack(staged, layout)
    assert found(store, *data) == [True, True]
    if n == number:
        store.index.rebuild()
"""


def test_eight_processes_at_once(store: Store) -> None:
    store.root.mkdir()
    running = [
        subprocess.Popen(
            [forkserver.python(), "-c", _WRITER, str(store.root), str(number)],
            cwd=Path(__file__).parents[2],
        )
        for number in range(8)
    ]
    assert [process.wait() for process in running] == [0] * 8
    everything = [f"{number}-{n}".encode() for number in range(8) for n in range(8)]
    assert all(found(store, *everything))
    assert len(Store(store.root).index.packs()) == 64


def test_installing_imports_sqlite_only_to_look_something_up() -> None:
    code = "import sys, modpkg.cli.install, modpkg.environment.install as i; "
    code += "sys.exit('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_use_is_recorded(store: Store) -> None:
    release = digest(b"a release")
    assert scan_store(store).releases == {}
    store.mark_checked(release)
    os.utime(store.root / "checked" / release[7:], (1, 1))
    assert scan_store(store).releases == {release: 1}
    store.mark_checked(release)
    assert scan_store(store).releases[Digest(release)] > 1


def test_projects_are_known_by_their_locks(tmp_path: Path) -> None:
    projects = Projects(tmp_path / "projects")
    assert projects.known() == {}
    for name in ("a", "b", "a"):
        projects.register(tmp_path / name / "modpkg.lock", tmp_path / name / ".modpkg")
    (tmp_path / "projects" / "junk").write_bytes(b"{")
    known = projects.known()
    assert {project.lock for project in known.values()} == {
        str(tmp_path / name / "modpkg.lock") for name in ("a", "b")
    }


def test_who_is_alone_waits_for_all_others(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order = []

    def alone() -> None:
        with file_lock(path, exclusive=True):
            order.append("alone")

    with file_lock(path), file_lock(path):
        thread = threading.Thread(target=alone)
        thread.start()
        thread.join(0.2)
        order.append("together")
    thread.join()
    assert order == ["together", "alone"]


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("disk I/O error"),
        sqlite3.OperationalError("database is locked"),
        OSError(28, "No space left on device"),
    ],
    ids=str,
)
def test_an_index_that_cannot_be_used_is_no_reason_to_fail(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is made in memory, from the packs' headers, and kept there."""
    name = add(store, b"one", index=False)
    connect = sqlite3.connect

    def failing(path: object, **options: object) -> sqlite3.Connection:
        if path != ":memory:":
            raise error
        return connect(":memory:", **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", failing)
    assert found(store, b"one", b"two") == [True, False]
    other = add(store, b"two")
    assert store.index.packs().keys() == {name, other}
    assert store.index.tensors_in(other) == {digest(b"two")}
    store.index.remove_packs([other])
    store.packs.remove(other)
    assert store.index.packs().keys() == {name}
    monkeypatch.undo()
    assert found(store, b"one", b"two") == [True, False]


def test_a_pack_that_cannot_be_read_now_is_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails is no damage: what may be the only copy is not removed."""
    name = add(store, b"one", index=False)
    monkeypatch.setattr("modpkg.store.packs.read_header", lambda path: _raise(OSError(5, "no")))
    assert found(store, b"one") == [False]
    monkeypatch.undo()
    assert store.packs.path(name).exists()
    assert found(store, b"one") == [True]


def _raise(error: Exception) -> None:
    raise error


def test_a_damaged_tensor_is_not_found_again_without_the_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repairing would take the damaged bytes for the good ones."""
    name = add(store, b"one", b"two")
    store.index.remove_tensors(name, [digest(b"one")])
    monkeypatch.setattr(sqlite3, "connect", _only_memory)
    wanted = {digest(b"one"): 1, digest(b"two"): 1}
    assert store.find(wanted).keys() == {digest(b"two")}
    store.index.add_pack(name, 0, [digest(b"one")])
    assert store.find(wanted).keys() == wanted.keys()


_connect = sqlite3.connect


def _only_memory(path: object, **options: object) -> sqlite3.Connection:
    if path != ":memory:":
        raise sqlite3.OperationalError("database or disk is full")
    return _connect(":memory:", **options)  # type: ignore[call-overload, no-any-return]
