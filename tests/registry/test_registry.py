"""Registries: publish, read, yank; and everything that can be wrong with one."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

import modpkg.registry.reader as reader_module
from modpkg.core.digests import digest_file, parse_digest
from modpkg.core.system_folders import OpenFolder
from modpkg.core.tree import BlobTree
from modpkg.manifest.read import read_manifest
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import build
from tests.conftest import safetensors_bytes
from tests.modules import publish, publish_collection, write_module
from tests.raising import raises
from tests.registry.servers import LoopbackHttpServer, serve


def edit_line(registry: Path, name: str, **fields: object) -> None:
    path = registry / "index" / f"{name}.jsonl"
    line = json.loads(path.read_text())
    path.write_text(json.dumps(line | fields) + "\n")


def test_a_published_release_can_be_read(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    folder = write_module(tmp_path / "m", "m", files={"README.md": b"# m\n"})
    published = publish(folder, registry)
    reader = Registry(str(registry))
    line = reader.line("m", "1.0")
    assert line == published
    record = reader.record(line)
    assert record.license == "MIT"
    assert reader.blob(record.files["README.md"].digest, "it") == b"# m\n"  # type: ignore[arg-type]
    assert reader.names() == ["m"]
    assert reader.name == "registry"


def test_publishing_again_changes_nothing_and_other_content_is_refused(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    folder = write_module(tmp_path / "m", "m", files={"README.md": b"one"})
    first = publish(folder, registry)
    before = (registry / "index" / "m.jsonl").read_bytes()
    assert publish(folder, registry) == first
    assert (registry / "index" / "m.jsonl").read_bytes() == before
    (folder / "README.md").write_bytes(b"two")
    with raises("M307", match=r"m 1\.0 is already published"):
        publish(folder, registry)
    (folder / "modpkg.toml").write_text(
        (folder / "modpkg.toml").read_text().replace('"1.0"', '"1.0.0"')
    )
    with raises("M307"):  # 1.0.0 is 1.0 by PEP 440
        publish(folder, registry)


def test_building_is_deterministic(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    lines = []
    for number in range(2):
        folder = write_module(
            tmp_path / str(number) / "m", "m", files={"b.txt": b"b", "a.txt": b"a"}
        )
        lines.append(publish(folder, tmp_path / f"registry{number}").release)
    assert lines[0] == lines[1]
    assert not registry.exists()


@pytest.mark.parametrize("linked", [True, False])
def test_publishing_does_not_copy_a_build_and_no_edit_reaches_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    if not linked:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "")))
    weights = safetensors_bytes({"w": ("U8", [3], b"abc")})
    folder = write_module(
        tmp_path / "m", "m", kind="base", files={"w.safetensors": weights, "README.md": b"one"}
    )
    line = publish(folder, tmp_path / "registry")
    record = Registry(str(tmp_path / "registry")).record(line)
    published, built = BlobTree(tmp_path / "registry"), BlobTree(folder / "dist")
    for digest in (parse_digest(next(iter(record.packs))), parse_digest(line.release)):
        status = published.path(digest).stat()
        assert status.st_nlink == (2 if linked else 1)
        assert status.st_mode & 0o777 == 0o444
        assert published.path(digest).read_bytes() == built.path(digest).read_bytes()
    (folder / "w.safetensors").write_bytes(weights.replace(b"abc", b"xyz"))  # in place
    (folder / "README.md").write_bytes(b"two")
    shutil.rmtree(folder / "dist")
    publish_collection(tmp_path / "registry", "other")
    for digest in record.packs:
        assert digest_file(published.path(parse_digest(digest))) == digest


def test_a_build_that_was_damaged_is_not_published(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m", files={"README.md": b"one"})
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    line = build(manifest, manifest.module, folder / "dist").line
    built = Registry(str(folder / "dist"))
    digest = parse_digest(built.record(line).files["README.md"].digest)
    path = BlobTree(folder / "dist").path(digest)
    path.chmod(0o644)
    path.write_bytes(b"two")
    writer, blobs = RegistryWriter(tmp_path / "registry"), BlobTree(tmp_path / "registry")
    with raises("M305"):
        writer.publish(built, line)
    with raises("M305"):
        blobs.add_shared(BlobTree(folder / "dist"), digest, "README.md")
    path.unlink()
    with raises("M306"):
        blobs.add_shared(BlobTree(folder / "dist"), digest, "README.md")
    assert not blobs.has(digest)


def test_what_cannot_be_published_makes_no_registry(tmp_path: Path) -> None:
    weights = safetensors_bytes({"w": ("U8", [3], b"abc")})
    folder = write_module(tmp_path / "m", "m", kind="base", files={"w.safetensors": weights})
    manifest = read_manifest(folder / "modpkg.toml")
    assert manifest.module is not None
    line = build(manifest, manifest.module, folder / "dist").line
    built = Registry(str(folder / "dist"))
    (pack,) = built.record(line).packs
    path = BlobTree(folder / "dist").path(parse_digest(pack))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with raises("M305"):
        RegistryWriter(tmp_path / "registry").publish(built, line)
    path.unlink()
    with raises("M317"):
        RegistryWriter(tmp_path / "registry").publish(built, line)
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("name", ["a" * 101, "a\nb", "a\n", "\x1b[31ma", " a", "", "\udcff"])
def test_a_name_that_no_registry_can_have(tmp_path: Path, name: str) -> None:
    with raises("M901", match="a name for a registry"):
        RegistryWriter(tmp_path / "registry", name).prepare()
    assert not (tmp_path / "registry").exists()


def test_a_yank_is_a_mark_with_a_reason(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "m", "1.0")
    publish_collection(registry, "m", "2.0")
    writer = RegistryWriter(registry)
    writer.yank("m", "2.0", "wrong labels")
    assert [line.yanked for line in Registry(str(registry)).index("m")] == [None, "wrong labels"]
    writer.yank("m", "2.0", None)
    assert [line.yanked for line in Registry(str(registry)).index("m")] == [None, None]
    with raises("M312", match=r"it has 1\.0, 2\.0"):
        writer.yank("m", "3.0", "")


def test_a_bad_line_is_skipped_with_a_warning_that_names_it(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "m", "1.0")
    with open(registry / "index" / "m.jsonl", "a") as file:
        file.write("{broken\n")
        file.write('{"spec": 9, "new": true}\n')
        file.write('{"name": "other", "version": "3", "kind": "base", "release": "sha256:')
        file.write("0" * 64 + '"}\n\n')
    warnings: list[str] = []
    lines = Registry(str(registry), warn=warnings.append).index("m")
    assert [line.version for line in lines] == ["1.0"]
    (warning,) = warnings
    assert "m.jsonl:2: skipped, JSON is malformed" in warning
    assert warning.endswith("; 2 other lines of the file skipped too")


def test_lines_of_a_newer_spec_leave_the_others_usable(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "m", "1.0")
    path = registry / "index" / "m.jsonl"
    newer = path.read_bytes().replace(b'"1.0"', b'"2.0"').replace(b'"spec":1', b'"spec":2')
    path.write_bytes(path.read_bytes() + newer)
    warnings: list[str] = []
    lines = Registry(str(registry), warn=warnings.append).index("m")
    assert [line.version for line in lines] == ["1.0"]
    (warning,) = warnings
    assert warning.endswith(
        "m.jsonl:2: skipped, it follows spec version 2, newer than 1: update modpkg to use it"
    )
    publish_collection(registry, "m", "1.1")
    assert newer in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b'"1.1"', b'"1.1",') + b"{half\n")
    assert [line.version for line in Registry(str(registry)).index("m")] == ["1.0"]
    publish_collection(registry, "m", "1.2")
    RegistryWriter(registry).yank("m", "1.2", "bad")
    lines = Registry(str(registry)).index("m")
    assert [line.version for line in lines] == ["1.0", "1.2"]
    assert path.read_bytes().count(b"\n") == 5
    assert newer in path.read_bytes()


def test_two_lines_of_one_version_are_an_error_that_names_both(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "m", "1.0")
    path = registry / "index" / "m.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().replace(b'"1.0"', b'"1.0.0"'))
    with raises("M209", match=r"lines 1 and 2 are both of version 1\.0"):
        Registry(str(registry)).index("m")


def test_an_index_line_that_contradicts_its_record_is_caught(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "lib", "1.0")
    publish_collection(registry, "m", "1.0", {"lib": "<2"})
    edit_line(registry, "m", requires=[])
    reader = Registry(str(registry))
    with raises("M310", match="the release was not used"):
        reader.record(reader.index("m")[0])


def test_an_index_line_with_a_false_digest_is_caught(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "m", "1.0")
    edit_line(registry, "m", release="sha256:" + "0" * 64)
    reader = Registry(str(registry))
    with raises("M306", match="the release record of m 1.0"):
        reader.record(reader.index("m")[0])


def test_a_tampered_record_is_caught(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    line = publish_collection(registry, "m", "1.0")
    path = BlobTree(registry).path(line.release)  # type: ignore[arg-type]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"MIT", b"GPL"))
    with raises("M305", match="tampered"):
        Registry(str(registry)).record(line)


def test_a_missing_registry_and_a_missing_name_are_different_errors(tmp_path: Path) -> None:
    publish_collection(tmp_path / "registry", "m")
    assert Registry(str(tmp_path / "registry")).index("other") == []
    with raises("M301", match="no registry at"):
        Registry(str(tmp_path / "nowhere")).index("other")


def test_a_registry_of_a_newer_spec_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text('{"spec": 2, "name": "x"}')
    with raises("M303", match="update modpkg"):
        _ = Registry(str(tmp_path)).info


def test_publishing_to_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = write_module(tmp_path / "m", "m")
    with raises("M309", match="Cannot publish to"):
        publish(folder, tmp_path / "file" / "registry")


def test_a_killed_publisher_leaves_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever write fails, readers see the old state and publishing again completes it."""
    registry = tmp_path / "registry"
    publish_collection(registry, "m", "1.0")
    folder = write_module(tmp_path / "m2", "m", "2.0", files={"a.txt": b"a", "b.txt": b"b"})
    rename = OpenFolder.rename
    for failing in range(1, 12):
        left = failing

        def failing_rename(self: OpenFolder, *arguments: Any, **options: Any) -> None:
            nonlocal left
            if self.path.is_relative_to(registry):
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            rename(self, *arguments, **options)

        monkeypatch.setattr(OpenFolder, "rename", failing_rename)
        try:
            publish(folder, registry)
        except KeyboardInterrupt:
            monkeypatch.setattr(OpenFolder, "rename", rename)
            assert [line.version for line in Registry(str(registry)).index("m")] == ["1.0"]
            continue
        break
    monkeypatch.setattr(OpenFolder, "rename", rename)
    assert failing > 3
    publish(folder, registry)
    reader = Registry(str(registry))
    assert [line.version for line in reader.index("m")] == ["1.0", "2.0"]
    reader.record(reader.line("m", "2.0"))


# Over HTTP ---------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    status: int | None = None

    def do_GET(self) -> None:
        if Handler.status == 0:
            self.close_connection = True
            self.connection.close()
        elif Handler.status is not None:
            self.send_error(Handler.status)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A registry folder behind a real HTTP server."""
    publish_collection(tmp_path / "registry", "m", "1.0")
    Handler.status = None
    handler = functools.partial(Handler, directory=str(tmp_path / "registry"))
    with LoopbackHttpServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_registry_is_read_over_http(served: str, tmp_path: Path) -> None:
    reader = Registry(served, cache=BlobTree(tmp_path / "store"))
    assert reader.record(reader.line("m", "1.0")).license == "MIT"
    assert reader.index("other") == []
    assert reader.names() is None


def test_each_file_is_read_and_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "registry"
    for version in ("1.0", "2.0"):
        publish_collection(folder, "m", version)
    parses: list[str] = []
    decodes: list[str] = []
    parse, decode = reader_module.parse_index, reader_module.decode_record
    monkeypatch.setattr(
        reader_module, "parse_index", lambda *args: parses.append(args[1]) or parse(*args)
    )
    monkeypatch.setattr(
        reader_module, "decode_record", lambda *args: decodes.append(args[2]) or decode(*args)
    )
    with serve(folder) as server:
        registry = Registry(server.url)
        for _ in range(3):
            assert [line.version for line in registry.index("m")] == ["1.0", "2.0"]
            assert registry.index("other") == []
            assert registry.newest("m", SpecifierSet()) == registry.line("m", "2.0")
            for line in registry.index("m"):
                assert registry.record(line) is registry.release(line.release, "it")
            assert registry.name == "registry"
        assert sorted(Counter(server.paths()).values()) == [1] * 5
        assert parses == ["m", "other"]
        assert len(decodes) == 3  # two releases and registry.json

        publish_collection(folder, "m", "3.0")
        assert [line.version for line in registry.index("m")] == ["1.0", "2.0"]
        assert Registry(server.url).newest("m", SpecifierSet()).version == "3.0"


def test_offline_uses_cached_files(served: str, tmp_path: Path) -> None:
    cache = BlobTree(tmp_path / "store")
    online = Registry(served, cache=cache)
    online.record(online.line("m", "1.0"))
    offline = Registry(served, cache=cache, offline=True)
    assert offline.record(offline.line("m", "1.0")).version == "1.0"
    with raises("M501", match="Cannot fetch"):
        offline.index("other")


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (401, "M314", "requires credentials for index/m.jsonl (401); put them into"),
        (403, "M314", "forbids reading index/m.jsonl (403); ask its owner"),
        (404, "M301", "it has no registry.json"),
        (410, "M313", "answers 410 Gone to index/m.jsonl: it was removed for good"),
        (418, "M302", "it answered index/m.jsonl with status 418"),
        (500, "M302", "it failed on index/m.jsonl (status 500); try again"),
        (0, "M302", "it closed the connection without an answer"),
    ],
)
def test_each_status_of_a_server_has_its_error(
    served: str, status: int, code: str, sentence: str
) -> None:
    Handler.status = status
    with raises(code) as caught:
        Registry(served).index("m")
    assert sentence in str(caught.value)
    assert "html" not in str(caught.value), "what a server writes is not repeated"


def test_an_unreachable_server_is_an_error() -> None:
    with raises("M302", match="the connection was refused"):
        Registry("http://127.0.0.1:1").index("m")
    with raises("M302", match="host name cannot be resolved"):
        Registry("http://no-such-host.invalid").index("m")


def test_locks_are_not_listed_as_modules(tmp_path: Path) -> None:
    publish_collection(tmp_path / "registry", "m")
    assert os.listdir(tmp_path / "registry" / "index") == ["m.jsonl"]
