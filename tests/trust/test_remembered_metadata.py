"""What is remembered of metadata by commands that run at the same time goes back behind nothing."""

from __future__ import annotations

from pathlib import Path

from modpkg.trust.remembered_metadata import RememberedMetadata
from tests.raising import raises
from tests.trust.signed_registry import HostileSource, SignedRegistry, read

STAMP = "timestamp.json"


def stamp(version: int, mark: str = "") -> bytes:
    return b'{"signed":{"mark":"%s","version":%d}}' % (mark.encode(), version)


def test_a_slower_command_replaces_only_what_it_has_refused(tmp_path: Path) -> None:
    memory = RememberedMetadata(tmp_path)
    memory.keep({STAMP: stamp(500)})
    memory.keep({STAMP: stamp(2)})
    assert memory.read(STAMP) == stamp(500)
    memory.keep({STAMP: stamp(2)}, refused=stamp(500))
    assert memory.read(STAMP) == stamp(2)
    memory.keep({STAMP: stamp(1)}, refused=stamp(500))  # another one, which was quicker, kept 2
    assert memory.read(STAMP) == stamp(2)
    memory.keep({STAMP: stamp(3)}, refused=stamp(500))
    assert memory.read(STAMP) == stamp(3)


def test_what_keys_of_an_earlier_root_have_signed_replaces_nothing(tmp_path: Path) -> None:
    memory = RememberedMetadata(tmp_path)
    memory.keep({"1.root.json": stamp(1), "2.root.json": stamp(2)})
    memory.keep({STAMP: stamp(1)}, root=2)
    memory.keep({STAMP: stamp(500)}, root=1)
    assert memory.read(STAMP) == stamp(1)
    memory.keep({STAMP: stamp(2)}, root=2)
    assert memory.read(STAMP) == stamp(2)


def test_the_first_root_that_is_remembered_stays(tmp_path: Path) -> None:
    memory = RememberedMetadata(tmp_path)
    memory.keep({"1.root.json": stamp(1, "hers")})
    memory.keep({"1.root.json": stamp(1, "his")})
    assert memory.read("1.root.json") == stamp(1, "hers")


def test_two_commands_that_are_shown_two_first_roots_at_once(tmp_path: Path) -> None:
    hers, his = SignedRegistry(tmp_path / "hers"), SignedRegistry(tmp_path / "his", online=8)
    shown = HostileSource(his.folder)

    def ada_first(path: str) -> None:
        if path == "tuf/1.root.json":
            shown.before_read = lambda path: None
            assert read(HostileSource(hers.folder), hers.clock) == b""

    shown.before_read = ada_first
    with raises("M567", match="another command"):
        read(shown, his.clock)
    assert read(HostileSource(hers.folder), hers.clock) == b""
    with raises("M567", match="this machine"):
        read(shown, his.clock)
