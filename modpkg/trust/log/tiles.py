"""Tiles: a log's hashes and entries in files of 256, which never change once they are full.

The layout is that of C2SP's tlog-tiles (https://c2sp.org/tlog-tiles). A tile of level L has 256 of
the hashes of nodes of level 8·L; those of the nodes between are made of them. The last tile of a
level may be partial: it is in a file of its own by its width, and goes when the tile is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import TrustError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.trust.log.merkle import Node, node_hash

LOG = "log"
"""The folder of a registry that has its log."""
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
HASH_BYTES = 32
_LENGTH_BYTES = 2
_INDEX = r"(?:x[0-9]{3}/){0,3}[0-9]{3}"
_WIDTH = r"(?:\.p/(?:[1-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?"
TILE_PATHS = rf"{LOG}/tile/(?:[0-5]|entries)/{_INDEX}{_WIDTH}"
"""A regular expression of the paths of all tiles."""
_FORM = lazy_pattern(TILE_PATHS)


class Tile(Struct, frozen=True):
    """A tile of hashes, or, with the level None, a bundle of entries."""

    level: int | None
    index: int
    width: int = TILE_WIDTH
    """How many hashes or entries it has: from 1 to 256."""

    @property
    def path(self) -> str:
        """Its path in the registry.

        >>> Tile(0, 1234067).path, Tile(None, 5, 7).path
        ('log/tile/0/x001/x234/067', 'log/tile/entries/005.p/7')
        """
        kind = "entries" if self.level is None else self.level
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"{self._stem(kind)}{partial}"

    @property
    def full(self) -> Tile:
        """The same tile when it is full."""
        return Tile(self.level, self.index)

    @property
    def partial_folder(self) -> str:
        """The folder of its partial files."""
        kind = "entries" if self.level is None else self.level
        return f"{self._stem(kind)}.p"

    @property
    def most(self) -> int:
        """How many bytes its file may have, be it full."""
        if self.level is None:
            return TILE_WIDTH * (_LENGTH_BYTES + bounds.LOG_ENTRY_BYTES)
        return TILE_WIDTH * HASH_BYTES

    def _stem(self, kind: int | str) -> str:
        parts, rest = [f"{self.index % 1000:03}"], self.index // 1000
        while rest:
            parts.insert(0, f"x{rest % 1000:03}")
            rest //= 1000
        return f"{LOG}/tile/{kind}/{'/'.join(parts)}"


def is_tile_path(path: str) -> bool:
    """Return whether a path is one of a tile."""
    return _FORM.fullmatch(path) is not None


def is_full_tile(path: str) -> bool:
    """Return whether a path is one of a tile that is full, which never changes.

    >>> is_full_tile("log/tile/0/000"), is_full_tile("log/tile/0/000.p/7")
    (True, False)
    """
    return is_tile_path(path) and ".p/" not in path


def tile_of(node: Node, size: int) -> Tile:
    """Return the tile of which a node of a tree is made."""
    level, index = node
    height = level // TILE_HEIGHT
    at = (index << (level % TILE_HEIGHT)) // TILE_WIDTH
    return Tile(height, at, _width(size >> (TILE_HEIGHT * height), at))


def hash_tiles(size: int) -> list[Tile]:
    """Return all tiles of hashes of a tree, the lowest level first."""
    found, level, count = [], 0, size
    while count:
        found += [Tile(level, at, _width(count, at)) for at in range((count - 1) // TILE_WIDTH + 1)]
        level, count = level + 1, count >> TILE_HEIGHT
    return found


def entry_bundles(size: int) -> list[Tile]:
    """Return all bundles of entries of a tree."""
    return [Tile(None, at, _width(size, at)) for at in range((size + 255) // TILE_WIDTH)]


def edge_tiles(size: int) -> list[Tile]:
    """Return the partial tiles of a tree, which the next leaf changes; the bundle is the last."""
    found, level, count = [], 0, size
    while count:
        if count % TILE_WIDTH:
            found.append(Tile(level, count // TILE_WIDTH, count % TILE_WIDTH))
        level, count = level + 1, count >> TILE_HEIGHT
    if size % TILE_WIDTH:
        found.append(Tile(None, size // TILE_WIDTH, size % TILE_WIDTH))
    return found


def _width(count: int, index: int) -> int:
    return min(count - index * TILE_WIDTH, TILE_WIDTH)


def hashes_in(tile: Tile, data: bytes, registry: str) -> list[bytes]:
    """Return the hashes of a tile, by its file, or by that of the tile when it is fuller.

    ``registry`` is its address, for messages.

    Raises:
        TrustError: It has fewer.
    """
    if len(data) < tile.width * HASH_BYTES or len(data) % HASH_BYTES:
        reason = f"it has {len(data)} bytes, and not {tile.width} hashes"
        raise TrustError("M555", registry=registry, path=tile.path, reason=reason)
    return [data[at : at + HASH_BYTES] for at in range(0, tile.width * HASH_BYTES, HASH_BYTES)]


def entries_in(tile: Tile, data: bytes, registry: str) -> list[bytes]:
    """Return the entries of a bundle, by its file, or by that of the bundle when it is fuller.

    ``registry`` is its address, for messages.

    Raises:
        TrustError: It has fewer, or one that is too long.
    """
    found: list[bytes] = []
    at = 0
    while len(found) < tile.width:
        begin = at + _LENGTH_BYTES
        end = begin + int.from_bytes(data[at:begin], "big")
        if len(data) < end or begin > len(data) or end - begin > bounds.LOG_ENTRY_BYTES:
            reason = f"its entry {len(found)} is cut short or too long"
            raise TrustError("M555", registry=registry, path=tile.path, reason=reason)
        found.append(data[begin:end])
        at = end
    return found


def bundle_of(entries: Iterable[bytes]) -> bytes:
    """Return the file of a bundle of entries."""
    return b"".join(len(entry).to_bytes(_LENGTH_BYTES, "big") + entry for entry in entries)


def perfect_hash(hashes: Sequence[bytes]) -> bytes:
    """Return the hash of the node above hashes, whose number is a power of two."""
    row = list(hashes)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


class TileHashes:
    """The hashes of nodes of a tree, from tiles that were read."""

    def __init__(self, size: int, tiles: Mapping[Tile, Sequence[bytes]]) -> None:
        self._size = size
        self._tiles = tiles
        self._known: dict[Node, bytes] = {}
        """Of those between the levels of tiles: proofs of many leaves have them in common."""

    def __call__(self, node: Node) -> bytes:
        """Return the hash of a node, whose tile is one of these."""
        level, index = node
        if level % TILE_HEIGHT == 0:
            tile = tile_of(node, self._size)
            return self._tiles[tile][index - tile.index * TILE_WIDTH]
        if (found := self._known.get(node)) is None:
            found = node_hash(self((level - 1, 2 * index)), self((level - 1, 2 * index + 1)))
            self._known[node] = found
        return found


def grown_tiles(
    size: int, edge: Mapping[Tile, Sequence[bytes]], leaves: Sequence[bytes]
) -> dict[Tile, list[bytes]]:
    """Return the tiles of hashes that change when leaves are added to a tree.

    Args:
        size: How many leaves it has so far.
        edge: Its `edge_tiles` of hashes.
        leaves: The hashes of the new leaves.
    """
    found: dict[Tile, list[bytes]] = {}
    level, count, new = 0, size, list(leaves)
    while new:
        at, width = divmod(count, TILE_WIDTH)
        row = [*edge[Tile(level, at, width)], *new] if width else new
        above = []
        for begin in range(0, len(row), TILE_WIDTH):
            part = row[begin : begin + TILE_WIDTH]
            found[Tile(level, at + begin // TILE_WIDTH, len(part))] = part
            if len(part) == TILE_WIDTH:
                above.append(perfect_hash(part))
        level, count, new = level + 1, count >> TILE_HEIGHT, above
    return found
