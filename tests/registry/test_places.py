"""The same stories wherever a registry lies: in a folder, and on the servers of object stores."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import NotFound, PublishError, RegistryUnreachable
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.bucket_place import BucketPlace
from modpkg.registry.known import known_tensors
from modpkg.registry.opening import open_place
from modpkg.registry.place import BuiltBlob, Place, registry_at
from modpkg.registry.probe import probe
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import Relatives
from modpkg.registry.release_blobs import blobs_of
from modpkg.registry.unnamed import remove_unnamed
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from tests import forkserver, tiny
from tests.changing import a_little, numbers, write
from tests.cli.test_everywhere import run
from tests.command import modpkg, modpkg_json
from tests.hub_server import TOKEN, hub_server
from tests.modules import write_module
from tests.raising import raises
from tests.registry.places import shared
from tests.registry.places.servers import HEEDING, SERVERS
from tests.registry.places.store import ROOT, StoreServer, stop

_NUMBERS = itertools.count()
Reach = Callable[[str], str]
"""Lets the environment be that of somebody who may write to a server, and returns its bucket."""


def prefix() -> str:
    """Return one that no other test of this run has, in any process."""
    return f"teams/{os.getpid()}/{next(_NUMBERS)}"


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[str], StoreServer]]:
    with shared.servers() as server:
        yield server


@pytest.fixture
def reach(
    server: Callable[[str], StoreServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Reach:
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))

    def reached(name: str) -> str:
        running = server(name)
        for variable, value in running.environment.items():
            monkeypatch.setenv(variable, value)
        return running.url

    return reached


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A repository of a hub, in this process, in which nothing is."""
    with hub_server() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        state.repository("team/models")
        yield "hf://team/models"


@pytest.fixture(params=["folder", "hub", *HEEDING])
def location(request: pytest.FixtureRequest, tmp_path: Path, reach: Reach) -> str:
    """Return the address of a place where nothing is, below a prefix in a bucket."""
    if request.param == "hub":
        address: str = request.getfixturevalue("hub")
        return address
    if request.param == "folder":
        return str(tmp_path / "shared" / "models")
    return f"{reach(request.param)}/{prefix()}"


@pytest.fixture(params=HEEDING)
def bucket(request: pytest.FixtureRequest, reach: Reach) -> str:
    """Return the address of a place in a bucket where nothing is."""
    return f"{reach(request.param)}/{prefix()}"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry of models that can be installed."""
    folder = tmp_path_factory.mktemp("origin")
    tiny.publish_talker(folder / "talkers", folder / "projects")
    return Registry(str(folder / "talkers"))


def built(folder: Path, location: str) -> IndexLine:
    """Build a module for a place."""
    manifest = read_manifest(folder / "modpkg.toml")
    module = manifest.module
    assert module is not None
    relatives = Relatives(module.name, module.version)
    known = known_tensors(open_place(location), relatives)
    return build(manifest, module, folder / "dist", known=known).line


def publish(folder: Path, location: str) -> IndexLine:
    line = built(folder, location)
    writer = RegistryWriter(open_place(location), "models")
    return writer.publish(Registry(str(folder / "dist")), line)


def published(folder: Path, location: str, name: str = "m", version: str = "1.0") -> IndexLine:
    files = {"README.md": f"{name} {version} {folder}".encode()}
    return publish(write_module(folder / f"{name}-{version}", name, version, files=files), location)


def stored(location: str) -> dict[str, int]:
    """Return the files of a registry that readers know, with their sizes."""
    place = open_place(location)
    folders = ("blobs", "index")
    files = {file.path: file.size for folder in folders for file in place.stored(folder)}
    sizes = {path: place.size(path) for path in ("registry.json", "modules.jsonl")}
    return files | {path: size for path, size in sizes.items() if size is not None}


def versions(location: str, name: str = "m") -> list[str]:
    """Return the versions of a module, of which each has to be there with all its bytes."""
    reader = Registry(location)
    try:
        lines = reader.index(name)
    except NotFound:
        return []
    for line in lines:
        for digest, what in blobs_of(reader.record(line)):
            state = hashlib.sha256()
            for chunk in reader.stream(digest, what):
                state.update(chunk)
            assert f"sha256:{state.hexdigest()}" == digest
    return [line.version for line in lines]


def test_releases_of_changing_tensors(location: str, tmp_path: Path) -> None:
    tensors = numbers("a", "b", "c", "d")
    first = publish(write(tmp_path / "one", tensors), location)
    before = stored(location)
    assert publish(tmp_path / "one", location) == first
    assert stored(location) == before
    changed = a_little(tensors, "b")
    second = publish(write(tmp_path / "two", changed, version="1.1"), location)
    assert second.size < first.size / 2
    added = {path: size for path, size in stored(location).items() if path not in before}
    assert sum(added.values()) == second.size
    assert versions(location) == ["1.0", "1.1"]
    modules = Registry(location).modules()
    assert modules is not None
    assert modules["m"].version == "1.1"


def test_a_yank_and_its_end(location: str, tmp_path: Path) -> None:
    published(tmp_path, location)
    writer = RegistryWriter(open_place(location))
    for reason in ("wrong weights", None):
        writer.yank("m", "1.0", reason)
        assert registry_at(open_place(location)).line("m", "1.0").yanked == reason
    with raises("M312"):
        writer.yank("m", "2.0", "")


def test_a_copy_is_brought_up_to_date(location: str, origin: Registry, tmp_path: Path) -> None:
    source = shutil.copytree(origin.url, tmp_path / "source")
    count = len(stored(str(source)))
    for new in (True, False):
        status = modpkg_json("registry", "copy", str(source), location)
        assert (status["releases"] > 0) is new
        assert modpkg_json("registry", "verify", location)["damaged"] == []
        assert len(stored(location)) == count
    line = next(iter(Registry(str(source)).index("tiny")))
    RegistryWriter(source).yank("tiny", line.version, "bad")
    assert modpkg_json("registry", "copy", str(source), location)["yanks"] == 1
    for path in ("registry.json", "modules.jsonl", "index/tiny.jsonl"):
        assert open_place(location).source.read(path) == (source / path).read_bytes()


def test_a_version_is_one_release(location: str, tmp_path: Path) -> None:
    published(tmp_path / "mine", location)
    before = stored(location)
    with raises("M307"):
        published(tmp_path / "yours", location)
    assert stored(location) == before


def test_neighbours_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    published(tmp_path, bucket, "here")
    published(tmp_path, f"{bucket}2", "there")
    assert Registry(f"{bucket}2").names() == ["there"]
    assert Registry(bucket).names() == ["here"]


def test_a_whole_bucket(reach: Reach, tmp_path: Path) -> None:
    root = reach("gcs")
    published(tmp_path, root)
    assert versions(root) == ["1.0"]


def test_eight_publishers_at_once(location: str, tmp_path: Path) -> None:
    wanted = [("same", f"{number}.0") for number in range(5)]
    wanted += [(name, "1.0") for name in ("a", "b", "c")]
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(lambda each: published(tmp_path / each[0], location, *each), wanted))
    assert versions(location, "same") == [f"{number}.0" for number in range(5)]
    reader = Registry(location)
    assert reader.names() == ["a", "b", "c", "same"]
    modules = reader.modules()
    assert modules is not None
    assert {name: line.version for name, line in modules.items()} == {
        **dict.fromkeys(("a", "b", "c"), "1.0"),
        "same": "4.0",
    }


def test_the_same_version_twice_at_once(location: str, tmp_path: Path) -> None:
    """Two different releases of it: one is published, and the other refused."""

    def attempt(who: str) -> str:
        try:
            return published(tmp_path / who, location).release
        except PublishError as error:
            return error.code

    with ThreadPoolExecutor(2) as pool:
        one, other = sorted(pool.map(attempt, ("mine", "yours")))
    assert one == "M307"
    assert [line.release for line in Registry(location).index("m")] == [other]


def test_reading_while_others_publish(location: str, tmp_path: Path) -> None:
    seen: list[list[str]] = []
    published(tmp_path, location)
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.1):
            seen.append(versions(location))

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        for number in range(2, 4):
            published(tmp_path, location, version=f"{number}.0")
        over.set()
        reading.result()
    seen.append(versions(location))
    assert seen == sorted(seen, key=len)
    assert seen[-1] == ["1.0", "2.0", "3.0"]


_KILLED = """
import os, signal
from modpkg.registry.bucket_place import BucketPlace
from modpkg.cli import main

request, left = BucketPlace._request, {writes}

def counted(*arguments, writes=False, **options):
    global left
    left -= writes
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return request(*arguments, writes=writes, **options)

BucketPlace._request = counted
main(["publish", {folder!r}, "--registry", {location!r}])
"""


def test_a_publisher_is_killed_before_each_write(bucket: str, tmp_path: Path) -> None:
    """The two requests that have to be refused come first. Not each everywhere: that takes long."""
    published(tmp_path, bucket)
    folders, seen, killed = [], ["1.0"], True
    for writes in range(2, 20, 1 if bucket.startswith("gs:") else 3):
        version = f"{writes}.0"
        files = {"README.md": version.encode()}
        folders.append(write_module(tmp_path / version, "m", version, files=files))
        built(folders[-1], bucket)
        code = _KILLED.format(writes=writes, folder=str(folders[-1]), location=bucket)
        done = forkserver.run("-c", code)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        now = versions(bucket)
        assert now in (seen, [*seen, version])
        seen, killed = now, done.returncode != 0
        if not killed:
            break
    assert not killed
    assert seen[-1] == version
    assert len(seen) < len(folders)  # some were killed before the index was written
    for folder in folders:
        publish(folder, bucket)
    assert versions(bucket) == ["1.0", *(folder.name for folder in folders)]
    modules = Registry(bucket).modules()
    assert modules is not None
    assert modules["m"].version == version


_KILLED_IN_PARTS = """
import os, signal
import modpkg.registry.bucket_place as bucket_place
from modpkg.cli import main

parts = bucket_place._Sent.parts
bucket_place.PART = 5 << 20

def some(self):
    for number, part in enumerate(parts(self)):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield part

bucket_place._Sent.parts = some
main(["publish", {folder!r}, "--registry", {location!r}])
"""


def test_a_publisher_is_killed_in_a_large_upload(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path, bucket, version="0.9")
    folder = write(tmp_path / "m", numbers("a", count=27 << 17))
    line = built(folder, bucket)
    done = forkserver.run("-c", _KILLED_IN_PARTS.format(folder=str(folder), location=bucket))
    assert done.returncode == -signal.SIGKILL, done.stderr
    (pack,) = Registry(str(folder / "dist")).record(line).packs
    hexadecimal = pack.removeprefix("sha256:")
    path = f"blobs/sha256/{hexadecimal[:2]}/{hexadecimal}"
    assert path not in stored(bucket)
    assert versions(bucket) == ["0.9"]
    monkeypatch.setattr("modpkg.registry.bucket_place.PART", 5 << 20)
    publish(folder, bucket)
    assert versions(bucket) == ["0.9", "1.0"]


_STORE_KILLED = """
from modpkg.registry.bucket_place import BucketPlace
from modpkg.registry.object_source import ObjectSource
from modpkg.cli import main
from tests.registry.places.store import stop

request, left = BucketPlace._request, {writes}

def counted(*arguments, writes=False, **options):
    global left
    left -= writes
    if left < 0:
        stop({groups})
    return request(*arguments, writes=writes, **options)

BucketPlace._request = counted
ObjectSource.RETRIES = 1
main(["publish", {folder!r}, "--registry", {location!r}])
"""


def versions_of_a_restarted(location: str) -> list[str]:
    """Return the versions when the store can read again: it looks for its files when it starts."""
    ends = time.monotonic() + 120
    while True:
        try:
            return versions(location)
        except RegistryUnreachable:  # noqa: PERF203
            if time.monotonic() > ends:
                raise
            time.sleep(0.5)


def test_the_store_is_killed(reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has acknowledged is there when it runs again, and publishing goes on."""
    server, data = SERVERS["seaweedfs"](), tmp_path / "server"
    data.mkdir()

    def start() -> list[int]:
        groups = server.start(data, os.getpid())
        server.await_answer(data, groups)
        return groups

    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    location = f"{server.url}/teams"
    groups = start()
    try:
        server.fill()
        published(tmp_path, location)
        folder = write_module(tmp_path / "m", "m", "2.0", files={"README.md": b"two"})
        built(folder, location)
        values = {"groups": groups, "folder": str(folder), "location": location}
        done = forkserver.run("-c", _STORE_KILLED.format(writes=4, **values), cwd=ROOT)
        assert done.returncode == 1
        assert "[M846]" in done.stderr or "[M302]" in done.stderr, done.stderr
        groups = start()
        assert versions_of_a_restarted(location) == ["1.0"]
        publish(folder, location)
        assert versions(location) == ["1.0", "2.0"]
    finally:
        stop(groups)


def test_lock_install_and_vendor(location: str, origin: Registry, tmp_path: Path) -> None:
    """What is locked, installed and copied is what it is from the folder it came from."""
    writer = RegistryWriter(open_place(location), origin.name)
    for name in origin.names() or ():
        for line in origin.index(name):
            writer.copy_release(origin, line)
    locks = []
    for registry in (origin.url, location):
        app = tmp_path / hashlib.sha256(registry.encode()).hexdigest()
        app.mkdir()
        (app / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\ntalker = "<2"\n')
        modpkg("lock", "--registry", registry, cwd=app)
        lines = (app / "modpkg.lock").read_text().splitlines()
        locks.append([line for line in lines if not line.startswith("address = ")])
    assert locks[0] == locks[1]
    modpkg("install", "--registry", location, cwd=app)
    modpkg("vendor", "copy", "--registry", location, cwd=app)
    modules = {entry["name"] for entry in modpkg_json("list", cwd=app)["modules"]}
    assert modules == {"tiny", "tiny-lora", "talker"}
    copied = Registry(str(app / "copy"))
    assert set(copied.names() or ()) == modules
    for name in modules:
        assert versions(copied.url, name) == ["1.0"]


def test_looking_after_a_registry(
    location: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is made, verified, copied, damaged and mended, and what nothing names is removed."""
    status, out, err = run(capfd, "registry", "init", location, "--name", "models")
    assert (status, "Made the registry models" in out) == (0, True), err
    published(tmp_path, location)
    line = published(tmp_path, location, version="2.0")
    status, out, err = run(capfd, "registry", "verify", location)
    assert (status, "no damage" in out) == (0, True), out + err
    copy = str(tmp_path / "copy")
    for counts in ("Copied 2 releases", "Copied 0 releases"):
        status, out, err = run(capfd, "registry", "copy", location, copy)
        assert (status, counts in out) == (0, True), out + err
    assert versions(copy) == ["1.0", "2.0"]
    place = open_place(location)
    (readme,) = registry_at(place).record(line).files.values()
    place.remove(blob_path(parse_digest(readme.digest)))
    status, out, err = run(capfd, "registry", "verify", location)
    assert (status, "needed by m 2.0" in out) == (1, True), out + err
    status, out, err = run(capfd, "registry", "copy", copy, location, "m==2.0")
    assert status == 0, err
    publish(tmp_path / "m-2.0", location)
    status, out, err = run(capfd, "registry", "verify", location)
    assert status == 0, out + err
    RegistryWriter(place).yank("m", "1.0", "")
    left = add_unnamed(place, tmp_path)
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=8)
    span = datetime.timedelta(days=7)
    freed = remove_unnamed(place, older_than=span, now=later, progress=Progress())
    assert (freed.files, freed.freed) == (1, left)
    assert versions(location) == ["1.0", "2.0"]


def add_unnamed(place: Place, tmp_path: Path) -> int:
    """Add a blob that nothing names, as a publisher leaves it that is killed; return its bytes."""
    tree = BlobTree(tmp_path / "tree")
    digest = tree.add(b"of nobody")
    return place.change(lambda change: change.add([BuiltBlob(digest, "a file", tree)]))


@pytest.mark.parametrize("name", [name for name in HEEDING if name != "moto"])
def test_who_may_only_read(
    name: str,
    reach: Reach,
    server: Callable[[str], StoreServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With moto everybody may write."""
    location = f"{reach(name)}/{prefix()}"
    published(tmp_path, location)
    reading = server(name).reading
    assert reading is not None
    for variable in server(name).environment:
        monkeypatch.delenv(variable)
    for variable, value in reading.items():
        monkeypatch.setenv(variable, value)
    assert versions(location) == ["1.0"]
    with raises("M846", match="these credentials may not write there"):
        published(tmp_path, location, version="2.0")
    with raises("M846", match="these credentials may not write there"):
        RegistryWriter(open_place(location)).yank("m", "1.0", "")
    assert versions(location) == ["1.0"]


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_store_ignores_is_found(name: str, reach: Reach) -> None:
    place = open_place(f"{reach(name)}/{prefix()}")
    assert isinstance(place, BucketPlace)
    assert probe(place) == ([] if name in HEEDING else ["If-None-Match: *", "If-Match"])
    assert list(place.stored("")) == []


def test_a_store_that_ignores_conditions_is_refused(
    reach: Reach, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    location = f"{reach('rclone')}/models"
    status, _, error = run(capfd, "registry", "init", location)
    assert status == 1
    assert "ignores If-None-Match: * and If-Match, so several publishers" in error
    assert stored(location) == {}
    with raises("M848", match="ignores If-None-Match and If-Match"):
        published(tmp_path, location)
    assert set(stored(location)) <= {"registry.json"}
