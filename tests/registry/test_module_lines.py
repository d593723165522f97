"""``modules.jsonl``: what it says, and that it follows what is published."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.records import ModuleLine
from modpkg.registry.module_lines import (
    check_bounds,
    format_module_lines,
    malformed_lines,
    parse_module_lines,
)
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from tests import tiny
from tests.modules import publish_collection
from tests.raising import raises


def described(registry: Path) -> dict[str, ModuleLine]:
    lines = Registry(str(registry)).modules()
    assert lines is not None
    return lines


def test_it_has_the_newest_release_of_each_module(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    tiny.publish_talker(registry, tmp_path / "projects")
    publish_collection(registry, "lib", "2.0")
    publish_collection(registry, "lib", "1.0")
    publish_collection(registry, "lib", "3.0b1")
    lines = described(registry)
    assert sorted(lines) == ["lib", "talker", "tiny", "tiny-lora"]
    assert lines["lib"].version == "2.0"
    assert (lines["tiny-lora"].kind, lines["tiny-lora"].bases) == ("adapter", ["tiny"])
    assert lines["talker"].task == "text-generation"
    assert lines["talker"].license == "MIT"
    text = (registry / REGISTRY_MODULES).read_bytes()
    assert [json.loads(line)["name"] for line in text.splitlines()] == sorted(lines)


def test_a_yank_changes_it(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    for version in ("1.0", "2.0"):
        publish_collection(registry, "lib", version)
    writer = RegistryWriter(registry)
    writer.yank("lib", "2.0", "broken")
    assert (described(registry)["lib"].version, described(registry)["lib"].yanked) == ("1.0", None)
    writer.yank("lib", "1.0", "broken too")
    assert (described(registry)["lib"].version, described(registry)["lib"].yanked) == (
        "2.0",
        "broken",
    )
    writer.yank("lib", "2.0", None)
    assert described(registry)["lib"].yanked is None


def test_a_registry_without_it_gets_all_lines(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "one", "1.0")
    (registry / REGISTRY_MODULES).unlink()
    assert Registry(str(registry)).modules() is None
    publish_collection(registry, "two", "1.0")
    assert sorted(described(registry)) == ["one", "two"]


def test_publishing_again_mends_a_line_that_is_missing(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    publish_collection(registry, "one", "1.0")
    publish_collection(registry, "two", "1.0")
    path = registry / REGISTRY_MODULES
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    publish_collection(registry, "two", "1.0")
    assert sorted(described(registry)) == ["one", "two"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\xff",
        b'{"name":"Two","version":"1.0","kind":"base"}',
        b'{"name":"../two","version":"1.0","kind":"base"}',
        b'{"name":"two","version":"x","kind":"base"}',
        b'{"name":"two","version":"1.0","kind":"robot"}',
        b'{"name":"two","version":"1.0","kind":"base","spec":99}',
        b"[" * 100_000,
    ],
)
def test_lines_that_are_malformed_are_skipped_with_one_warning(line: bytes) -> None:
    good = format_module_lines({"one": ModuleLine(name="one", version="1.0", kind="base")})
    warnings: list[str] = []
    data = b"\n".join([line, good, line, b""])
    assert [*parse_module_lines(data, "here", warnings.append)] == ["one"]
    assert warnings == ["here: skipped 2 lines that are malformed or of a newer version"]


def test_a_file_of_too_many_lines_or_values_is_refused() -> None:
    for data, things in (
        (b"\n" * 400_001, "400,000 lines"),
        (b"," * 6_000_001, "6,000,000 values"),
    ):
        with raises("M327", match=f"modules.jsonl of the registry at r is over .* {things}"):
            check_bounds(data, "r")


def test_a_malformed_line_takes_no_more_memory_than_its_bytes() -> None:
    raw = b'{"name":"words","version":"1.0","x":[' + b"[]," * (1 << 18) + b"0]}\n"
    parse_module_lines(raw, "r")  # what is imported once
    tracemalloc.start()
    try:
        assert (parse_module_lines(raw, "r"), malformed_lines(raw)) == ({}, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(raw)
