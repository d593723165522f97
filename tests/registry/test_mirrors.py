"""Mirrors are read first, skipped when they fail, and verified."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modpkg.core.digests import Digest, blob_path
from modpkg.core.tree import BlobTree
from modpkg.manifest.config import parse_settings
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.reader import Registry
from modpkg.registry.source import RangesUnsupported
from tests.modules import publish, write_module
from tests.raising import raises
from tests.registry.servers import Handler, Server, failing, serve

TEXT = bytes(range(256)) * 20_000


class Stage:
    """A registry, two mirrors of it, and what was warned of."""

    def __init__(self, folder: Path, home: Server, first: Server, second: Server) -> None:
        self.folder = folder
        self.home = home
        self.first = first
        self.second = second
        self.warnings: list[str] = []

    def registry(self, cache: str = "store", offline: bool = False) -> Registry:
        text = f'[registry."{self.home.url}"]\nmirrors = ["{self.first.url}","{self.second.url}"]'
        return Registry(
            self.home.url,
            cache=BlobTree(self.folder / cache),
            warn=self.warnings.append,
            settings=parse_settings(text, self.folder / "config.toml"),
            offline=offline,
        )

    def read(self, registry: Registry | None = None) -> bytes:
        """Read all of the release, and return its one file."""
        registry = registry or self.registry()
        record = registry.record(registry.line("m", "1.0"))
        digest = Digest(record.files["notes.txt"].digest)
        return b"".join(registry.stream(digest, "notes.txt"))

    def asked(self) -> list[int]:
        return [len(server.seen) for server in (self.first, self.second, self.home)]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(ObjectSource, "RETRIES", 1)  # the waits are tested elsewhere
    for name in ("home", "first", "second"):
        if name == "home":
            module = write_module(tmp_path / "m", "m", files={"notes.txt": TEXT})
            publish(module, tmp_path / "home")
        else:
            shutil.copytree(tmp_path / "home", tmp_path / name)
    with (
        serve(tmp_path / "home") as home,
        serve(tmp_path / "first") as first,
        serve(tmp_path / "second") as second,
    ):
        yield Stage(tmp_path, home, first, second)


def blob_of(stage: Stage, what: str) -> str:
    """Return the path of the release record, or of the file."""
    registry = Registry(str(stage.folder / "home"))
    line = registry.line("m", "1.0")
    if what == "record":
        return blob_path(Digest(line.release))
    return blob_path(Digest(registry.record(line).files["notes.txt"].digest))


def test_the_first_mirror_serves_all(stage: Stage) -> None:
    assert stage.read() == TEXT
    assert stage.warnings == []
    assert stage.home.paths() == ["/registry.json"], "only to know the registry by its name"
    assert stage.second.seen == []


def test_the_registry_name_is_fetched_once(stage: Stage) -> None:
    first = stage.registry()
    assert first.name == "home"
    stage.read(first)
    stage.read()
    assert stage.home.paths() == ["/registry.json"]


def test_mirrors_do_without_the_registry(stage: Stage) -> None:
    stage.home.fault = failing(1000, 503)
    assert stage.read() == TEXT
    assert stage.warnings == []


def test_a_mirror_of_another_registry_is_skipped(stage: Stage) -> None:
    (stage.first.folder / "registry.json").write_text('{"name":"other","spec":1}')
    assert stage.read() == TEXT
    (warning,) = stage.warnings
    assert warning == (
        f"skipping the mirror {stage.first.url} of {stage.home.url}: "
        "it is a copy of the registry 'other', not of 'home'"
    )
    assert stage.first.paths() == ["/registry.json"]


def test_without_the_registry_its_remembered_name_counts(stage: Stage) -> None:
    stage.read()
    stage.home.fault = failing(1000, 503)
    (stage.first.folder / "registry.json").write_text('{"name":"other","spec":1}')
    assert stage.read() == TEXT
    assert "not of 'home'" in stage.warnings[0]


def damage(path: str) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        file = stage.first.folder / blob_of(stage, path)
        file.chmod(0o644)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)

    return act


def remove(path: str) -> Callable[[Stage], None]:
    return lambda stage: (stage.first.folder / blob_of(stage, path)).unlink()


def fail(status: int) -> Callable[[Stage], None]:
    def act(stage: Stage) -> None:
        stage.first.fault = failing(1000, status)

    return act


def fail_on_blobs(stage: Stage) -> None:
    def fault(handler: Handler, number: int) -> bool:
        if handler.path.startswith("/blobs/"):
            handler.answer(403)
            return True
        return False

    stage.first.fault = fault


def garble(path: str) -> Callable[[Stage], None]:
    return lambda stage: (stage.first.folder / path).write_text("<html>welcome to the café</html>")


def cut(stage: Stage) -> None:
    stage.first.ranges = False

    def fault(handler: Handler, number: int) -> bool:
        if handler.path.lstrip("/") != blob_of(stage, "file"):
            return False
        handler.give(stage.first, cut=2_000_000)
        return True

    stage.first.fault = fault


@pytest.mark.parametrize(
    ("mishap", "why"),
    [
        (fail(503), "it failed on registry.json (status 503)"),
        (fail(404), "it does not have registry.json"),
        (fail(410), "it was removed for good (410)"),
        (fail(401), "requires credentials for registry.json"),
        (fail_on_blobs, "forbids reading blobs/"),
        (remove("record"), "it does not have blobs/"),
        (remove("file"), "it does not have blobs/"),
        (damage("record"), "has another digest"),
        (garble("registry.json"), "registry.json is not a valid"),
        (cut, "it closed the connection in the middle of blobs/"),
    ],
)
def test_a_mirror_that_fails_is_skipped_with_one_warning(
    stage: Stage, mishap: Callable[[Stage], None], why: str
) -> None:
    mishap(stage)
    registry = stage.registry()
    assert stage.read(registry) == TEXT
    (warning,) = stage.warnings
    assert warning.startswith(f"skipping the mirror {stage.first.url} of {stage.home.url}: ")
    assert why in warning
    asked = len(stage.first.seen)
    assert stage.read(registry) == TEXT
    assert (len(stage.first.seen), len(stage.warnings)) == (asked, 1)
    assert stage.home.paths() in (["/registry.json"], [])


def test_an_interrupted_download_resumes_on_the_next_mirror(stage: Stage) -> None:
    cut(stage)
    stage.read()
    (span,) = [seen.headers["range"] for seen in stage.second.seen if "range" in seen.headers]
    assert int(span.removeprefix("bytes=").split("-")[0]) > 1_000_000


def test_a_module_that_a_mirror_lacks_is_looked_for_in_the_registry(stage: Stage) -> None:
    publish(write_module(stage.folder / "n", "n"), stage.folder / "home")
    registry = stage.registry()
    assert [line.version for line in registry.index("n")] == ["1.0"]
    assert registry.index("nowhere") == []
    assert stage.warnings == []


def test_if_all_fail_the_error_names_the_registry(stage: Stage) -> None:
    for server in (stage.first, stage.second, stage.home):
        server.fault = failing(1000, 503)
    with raises("M302", match=f"at {stage.home.url} could not be read"):
        stage.read()
    assert len(stage.warnings) == 2


def test_a_file_on_no_mirror_is_missing(stage: Stage) -> None:
    for server in (stage.first, stage.second, stage.home):
        (server.folder / blob_of_home(stage)).unlink()
    with raises("M306"):
        stage.read()
    for server in (stage.first, stage.second, stage.home):
        (server.folder / "registry.json").unlink()
    with raises("M301"):
        _ = stage.registry("another").info


def blob_of_home(stage: Stage) -> str:
    return blob_of(stage, "file")


def test_the_registry_itself_is_not_forgiven(stage: Stage) -> None:
    for server in (stage.first, stage.second):
        server.fault = failing(1000, 404)
    stage.first, home = stage.home, stage.first
    damage("record")(stage)
    stage.first = home
    with raises("M305"):
        stage.read()


def test_a_stream_with_another_digest_is_reported_by_whoever_hashes_it(stage: Stage) -> None:
    registry, digest = stage.registry(), Digest("sha256:" + "0" * 64)
    assert registry.address_of(digest) == stage.first.url
    assert registry.disable(stage.first.url, "its weights have another digest")
    assert registry.disable(stage.first.url, "another thread saw it too")
    assert registry.address_of(digest) == stage.second.url
    assert registry.disable(stage.second.url, "its weights have another digest")
    assert registry.address_of(digest) == stage.home.url
    assert not registry.disable(stage.home.url, "its weights have another digest")
    assert len(stage.warnings) == 2
    plain = Registry(stage.home.url)
    assert plain.address_of(digest) == plain.url
    assert not plain.disable(plain.url, "it fails")


def test_a_mirror_may_give_whole_files_only(stage: Stage) -> None:
    stage.first.ranges = False
    digest = Digest("sha256:" + blob_of(stage, "file").rpartition("/")[2])
    with pytest.raises(RangesUnsupported):
        next(stage.registry().stream(digest, "it", 5))
    assert stage.warnings == []


def test_a_mirror_may_be_a_folder(stage: Stage) -> None:
    stage.first.url = stage.first.folder.as_uri()
    assert stage.read() == TEXT
    assert stage.second.seen == []


def test_offline_contacts_no_mirror(stage: Stage) -> None:
    registry = stage.registry()
    record = registry.record(registry.line("m", "1.0"))
    before = stage.asked()
    offline = stage.registry(offline=True)
    assert offline.record(offline.line("m", "1.0")) == record
    assert stage.asked() == before


def test_many_threads_warn_of_a_mirror_once(stage: Stage) -> None:
    registry = stage.registry()
    line = registry.line("m", "1.0")
    path = blob_path(Digest(line.release))
    fail_on_blobs(stage)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda: b"".join(registry.source.stream(path))) for _ in range(16)]
    assert len({job.result() for job in jobs}) == 1
    assert len(stage.warnings) == 1
