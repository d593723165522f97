"""What an index takes back is reported, once."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from modpkg.core.records import IndexLine
from modpkg.core.tree import BlobTree
from modpkg.registry.index_history import taken_back
from modpkg.registry.names import new_name, plain_name
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.resolve.catalog import Catalog
from modpkg.resolve.need import root_needs
from modpkg.resolve.resolve import resolve
from tests.cli.test_everywhere import run
from tests.modules import publish_collection
from tests.raising import raises
from tests.registry.servers import serve

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def line(version: str, release: str = ONE, yanked: str | None = None) -> IndexLine:
    return IndexLine(name="a", version=version, kind="base", release=release, yanked=yanked)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ([line("1")], [line("1.0"), line("2")], []),
        ([line("1")], [line("1", yanked="bad")], []),
        ([line("1"), line("2"), line("3")], [line("1")], ["had a 2, 3 and does not have it"]),
        ([line("1")], [line("1.0", TWO)], ["another release as a 1 than"]),
        ([line("1", yanked="bad")], [line("1")], ["taken back the yank of a 1 (bad)"]),
        ([line(str(n)) for n in range(9)], [], ["0, 1, 2, 3, 4 and 4 more"]),
        ([line("1.10"), line("1.9")], [], ["had a 1.9, 1.10 and"]),
    ],
)
def test_each_kind(before: list[IndexLine], now: list[IndexLine], told: list[str]) -> None:
    found = list(taken_back("a", "r", before, now))
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found, strict=True))


def change(index: Path, **values: Any) -> None:
    lines = [json.loads(text) | values for text in index.read_text().splitlines()]
    index.write_text("".join(json.dumps(item) + "\n" for item in lines))


def test_over_http_it_is_told_once(tmp_path: Path) -> None:
    publish_collection(tmp_path / "registry", "lib", "1.0")
    publish_collection(tmp_path / "registry", "lib", "1.1")
    warnings: list[str] = []
    with serve(tmp_path / "registry") as server:

        def read() -> int:
            cache = BlobTree(tmp_path / "store")
            return len(Registry(server.url, cache=cache, warn=warnings.append).index("lib"))

        assert read() == 2
        index = tmp_path / "registry" / "index" / "lib.jsonl"
        index.write_text(index.read_text().splitlines()[0] + "\n")
        RegistryWriter(tmp_path / "registry").describe_all()
        assert read() == 1
        assert read() == 1
    (warning,) = warnings
    assert "had lib 1.1 and does not have it any more" in warning


def test_of_a_module_that_is_gone_one_sentence_says_so(tmp_path: Path) -> None:
    publish_collection(tmp_path / "registry", "lib", "1.0")
    publish_collection(tmp_path / "registry", "other", "1.0")
    warnings: list[str] = []
    with serve(tmp_path / "registry") as server:

        def opened() -> Registry:
            cache = BlobTree(tmp_path / "store")
            return Registry(server.url, cache=cache, warn=warnings.append)

        assert len(opened().index("lib")) == 1
        (tmp_path / "registry" / "index" / "lib.jsonl").unlink()
        RegistryWriter(tmp_path / "registry").describe_all()
        for _ in range(2):  # its copy stays
            with raises("M304", match="any more: it had 1.0 when it was read before"):
                opened().line("lib", "1.0")
        registry = opened()
        with raises("M304", match="any more: it had 1.0"):
            resolve(root_needs("lib", (), SpecifierSet(), ""), Catalog(registry))
        assert registry.index("other")
        assert not warnings
        assert opened().index("lib") == []
        resolve(root_needs("other", (), SpecifierSet(), ""), catalog := Catalog(opened()))
        assert not catalog.releases("lib")  # as of a dependency that versions can do without
        resolve(root_needs("other", (), SpecifierSet(), ""), catalog)
    assert len(warnings) == 2
    assert all("had lib 1.0 and does not have it any more" in text for text in warnings)


def test_of_a_folder_it_is_told_by_what_was_locked(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "lib", "1.0")
    publish_collection(home / "registry", "lib", "1.1")
    writer = RegistryWriter(home / "registry")
    writer.yank("lib", "1.1", "bad")
    Path("modpkg.toml").write_text("[app]\nname = 'app'\n[dependencies]\nlib = '*'\n")
    assert run(capfd, "lock")[0] == 0
    writer.yank("lib", "1.1", None)
    err = run(capfd, "lock", "--upgrade")[2]
    assert "has taken back the yank of lib 1.1 (bad)" in err
    assert "taken back" not in run(capfd, "lock")[2]


def test_an_installed_version_that_vanished_or_changed_is_told_and_stays(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "lib", "1.0")
    Path("modpkg.toml").write_text("[app]\nname = 'app'\n[dependencies]\nlib = '*'\n")
    assert run(capfd, "install")[0] == 0
    index = home / "registry" / "index" / "lib.jsonl"
    before = index.read_text()
    change(index, release=TWO)
    assert (
        "now has another release as lib 1.0 than the locked one, which stays"
        in run(capfd, "install")[2]
    )
    index.write_text(before.replace('"1.0"', '"1.1"'))
    status, _, err = run(capfd, "install")
    assert status == 0
    assert "lib 1.0 is locked, and the registry" in err


def test_a_release_from_the_future_is_told(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    publish_collection(home / "registry", "lib", "1.0")
    change(home / "registry" / "index" / "lib.jsonl", published="2999-01-01T00:00:00Z")
    Path("modpkg.toml").write_text("[app]\nname = 'app'\n[dependencies]\nlib = '*'\n")
    assert "published 2999-01-01T00:00:00Z, which is in the future" in run(capfd, "lock")[2]
    assert "future" not in run(capfd, "lock")[2]
    change(home / "registry" / "index" / "lib.jsonl", published="")
    err = run(capfd, "lock", "--upgrade", "--exclude-newer", "7 days")[2]
    assert "has no publication time" in err


def test_two_folders_of_one_name_are_two_registries(tmp_path: Path) -> None:
    folders = [tmp_path / part / "registry" for part in "ab"]
    for folder in folders:
        RegistryWriter(folder).prepare()
    names = {Registry(str(folder)).name for folder in folders}
    assert len(names) == 2
    assert "registry" not in names
    assert {plain_name(name) for name in names} == {"registry"}
    assert len(new_name("x" * 200)) < 100


def test_an_index_that_is_as_it_was_is_parsed_once_and_not_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_collection(tmp_path / "registry", "lib", "1.0")
    parsed, kept = [], []
    for module, calls, name in (
        ("modpkg.registry.reader", parsed, "parse_index"),
        ("modpkg.registry.index_history", parsed, "parse_index"),
        ("modpkg.registry.index_history", kept, "write_changed"),
    ):
        monkeypatch.setattr(f"{module}.{name}", _counted(calls, module, name))
    for number in range(3):
        parsed.clear()
        kept.clear()
        warn: Any = [].append
        reader = Registry(str(tmp_path / "registry"), cache=BlobTree(tmp_path / "store"), warn=warn)
        assert len(reader.index("lib")) == 1
        reader.keep_seen(["lib"])
        assert (len(parsed), len(kept)) == (1, 1 if number == 0 else 0)


def test_a_copy_is_read_only_of_an_index_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_collection(tmp_path / "registry", "lib", "1.0")
    publish_collection(tmp_path / "registry", "lib", "1.1")
    index = tmp_path / "registry" / "index" / "lib.jsonl"
    whole = index.read_text()
    read: list[str] = []
    module = "modpkg.registry.index_history"
    monkeypatch.setattr(f"{module}.read_file", _counted(read, module, "read_file"))

    def told() -> list[str]:
        read.clear()
        warnings: list[str] = []
        store = BlobTree(tmp_path / "store")
        reader = Registry(str(tmp_path / "registry"), cache=store, warn=warnings.append)
        reader.index("lib")
        reader.keep_seen(["lib"])
        return warnings

    (summary,) = [told()] and list(tmp_path.glob("store/index-cache/*/seen.json"))
    assert told() == []
    assert len(read) == 1  # the file of digests
    index.write_text(whole.splitlines(keepends=True)[0])
    assert "had lib 1.1 and does not have it any more" in told()[0]
    assert told() == []
    index.write_text(whole)
    assert told() == []
    for damaged in (b"", b"\xff", summary.read_bytes().replace(b'"lib":"', b'"lib":"0', 1)):
        summary.write_bytes(damaged)
        index.write_text(whole.splitlines(keepends=True)[0])
        assert "had lib 1.1" in told()[0]
        index.write_text(whole)
        assert told() == []


def _counted(calls: list[str], module: str, name: str) -> Any:
    original = getattr(importlib.import_module(module), name)

    def call(*args: Any) -> Any:
        calls.append(module)
        return original(*args)

    return call
