"""Tiles: their paths, and that a tree read from them is the tree."""

from __future__ import annotations

import pytest

from modpkg.trust.log.merkle import GrowingTree, leaf_hash, nodes_between, subtree_hash
from modpkg.trust.log.tiles import (
    Tile,
    TileHashes,
    bundle_of,
    edge_tiles,
    entries_in,
    entry_bundles,
    grown_tiles,
    hash_tiles,
    hashes_in,
    is_tile_path,
    tile_of,
)
from tests.raising import raises


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "log/tile/0/000"),
        (Tile(0, 0, 255), "log/tile/0/000.p/255"),
        (Tile(1, 1000), "log/tile/1/x001/000"),
        (Tile(2, 1234067, 3), "log/tile/2/x001/x234/067.p/3"),
        (Tile(None, 70), "log/tile/entries/070"),
    ],
)
def test_paths(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert is_tile_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "log/tile/0/000.p/256",
        "log/tile/0/000.p/0",
        "log/tile/6/000",
        "log/tile/0/../000",
        "log/tile/0/0000",
        "log/tile/0/000.p",
        "log/tile/0/x001/1",
    ],
)
def test_no_paths_of_tiles(path: str) -> None:
    assert not is_tile_path(path)


def test_a_tree_that_is_appended_to_is_in_its_tiles() -> None:
    """Steps of all lengths, over the ends of tiles, up to the third level."""
    tree = GrowingTree()
    tiles: dict[Tile, list[bytes]] = {}
    size = 0
    for step in (1, 2, 252, 1, 1, 255, 256, 257, 7, 511, 65_000, 300):
        leaves = [leaf_hash(str(size + number).encode()) for number in range(step)]
        edge = {tile: tiles[tile] for tile in edge_tiles(size) if tile.level is not None}
        new = grown_tiles(size, edge, leaves)
        assert not any(tile.width == 256 and tile in tiles for tile in new)
        tiles |= new
        for leaf in leaves:
            tree.add(leaf)
        size += step
        assert {*hash_tiles(size)} <= tiles.keys()
        hashes = TileHashes(size, tiles)
        assert subtree_hash(0, size, hashes) == tree.root
        assert {tile_of(node, size) for node in nodes_between(0, size)} <= {*hash_tiles(size)}
    assert max(tile.level or 0 for tile in tiles) == 2
    assert [len(entry_bundles(count)) for count in (0, 1, 256, 257)] == [0, 1, 1, 2]


def test_files_of_tiles() -> None:
    entries = [b"", b"one", b"x" * 500]
    data = bundle_of(entries)
    assert entries_in(Tile(None, 0, 3), data, "models") == entries
    assert entries_in(Tile(None, 0, 2), data, "models") == entries[:2]
    for wrong in (data[:-1], data[:1], b"", b"\xff\xff" + bytes(70_000)):
        with raises("M555", match="entry"):
            entries_in(Tile(None, 0, 3), wrong, "models")
    hashes = [leaf_hash(entry) for entry in entries]
    assert hashes_in(Tile(0, 0, 2), b"".join(hashes), "models") == hashes[:2]
    for wrong in (b"", hashes[0], b"".join(hashes) + b"x"):
        with raises("M555", match="hashes"):
            hashes_in(Tile(0, 0, 2), wrong, "models")
