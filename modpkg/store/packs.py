"""Packs of the store: safetensors files whose headers have the digests of their tensors.

The tensors are named as in the release that they were fetched for, with their digests in the
metadata of the header, so that the file is one that other tools read; or by their digests.
A pack is named by the sha256 of its header, so that its name identifies the tensors in it, and
packs of the same tensors have the same name on every machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core import system
from modpkg.core.errors import PackError
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.packs import (
    METADATA,
    PackTensor,
    header_metadata,
    pack_header,
    parse_pack_header,
    read_header,
)

DIGESTS = "sha256"
"""The key of a header's metadata with the JSON text of the tensors' digests."""
_HEX = lazy_pattern(r"[0-9a-f]{64}")


class PackLayout(Struct, frozen=True):
    """The name, header and tensor offsets of a pack, before it has any data."""

    name: str
    """64 hex digits."""
    header: bytes
    places: dict[str, PackTensor]
    """By digest of the tensor."""
    size: int
    """Bytes of the whole file."""


def lay_out(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], digests: Mapping[str, str] | None = None
) -> PackLayout:
    """Return the layout of a pack of tensors.

    Args:
        tensors: Dtypes and shapes by name; by digest, if there are no ``digests``.
        digests: Digests by name.
    """
    if digests is None or METADATA in tensors:
        named = {(digests or {}).get(name, name)[7:]: kind for name, kind in tensors.items()}
        header, places = pack_header(named)
        places = {f"sha256:{name}": place for name, place in places.items()}
    else:
        own = {name: digests[name][7:] for name in sorted(tensors)}
        header, placed = pack_header(tensors, {DIGESTS: msgspec.json.encode(own).decode()})
        places = {digests[name]: place for name, place in placed.items()}
    return PackLayout(
        name=hashlib.sha256(header).hexdigest(),
        header=header,
        places=places,
        size=max((place.offset + place.length for place in places.values()), default=len(header)),
    )


class NamedTensor(Struct, frozen=True):
    """A tensor of a pack, as its header describes it."""

    digest: str
    place: PackTensor


def read_named(path: Path, name: str) -> dict[str, NamedTensor]:
    """Return the tensors of the pack ``name``, in the store or linked from it, by their names.

    Raises:
        PackError: The file is missing, truncated or malformed, or its header has another digest
            than its name.
    """
    try:
        header, size = read_header(path)
    except FileNotFoundError:
        raise PackError("M201", path=path, reason="it does not exist") from None
    if hashlib.sha256(header).hexdigest() != name:
        raise PackError("M201", path=path, reason="its header does not match its name")
    places = parse_pack_header(header[8:], size - len(header), path)
    digests = {tensor: tensor for tensor in places}
    if (text := header_metadata(header[8:]).get(DIGESTS)) is not None:
        with contextlib.suppress(msgspec.MsgspecError):
            digests = msgspec.json.decode(text, type=dict[str, str])
    if digests.keys() != places.keys() or not all(map(_HEX.fullmatch, digests.values())):
        raise PackError("M201", path=path, reason="its tensors are not named by digests")
    return {
        tensor: NamedTensor(f"sha256:{digests[tensor]}", place) for tensor, place in places.items()
    }


class PackFolder:
    """The packs in ``root``: ``<aa>/<name>``, each complete, read-only and verified."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return the path of a pack, whether or not it exists."""
        return self.root / name[:2] / name

    def has(self, layout: PackLayout) -> bool:
        """Return whether a pack exists and has its length."""
        try:
            return os.stat(self.path(layout.name)).st_size == layout.size
        except FileNotFoundError:
            return False

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each pack that exists, by name."""
        sizes = {}
        try:
            folders = [entry.path for entry in os.scandir(self.root) if len(entry.name) == 2]
        except FileNotFoundError:
            return {}
        for folder in folders:
            for entry in os.scandir(folder):
                if _HEX.fullmatch(entry.name):
                    sizes[entry.name] = entry.stat().st_size
        return sizes

    def read(self, name: str) -> dict[str, PackTensor]:
        """Return the tensors of a pack, by digest; see `read_named`."""
        tensors = read_named(self.path(name), name).values()
        return {tensor.digest: tensor.place for tensor in tensors}

    def adopt(self, staged: Path, name: str) -> None:
        """Move a finished file, whose tensors were all verified, to its place."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        system.set_mode(staged, 0o444)
        system.replace(staged, target)
        system.sync_folder(target.parent)

    def remove(self, name: str) -> None:
        """Remove a pack; environments that hard-link it keep their copy."""
        system.remove_file(self.path(name))
