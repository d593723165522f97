"""Packs of the store: safetensors files whose tensors are named by their digests.

A pack is named by the sha256 of its header, so that its name identifies the tensors in it, and
packs of the same tensors have the same name on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.core.errors import PackError
from modpkg.core.files import sync_folder
from modpkg.core.packs import PackTensor, pack_header, parse_pack_header, read_header

_HEX = re.compile(r"[0-9a-f]{64}")


class PackLayout(Struct, frozen=True):
    """The name, header and tensor offsets of a pack, before it has any data."""

    name: str
    """64 hex digits."""
    header: bytes
    places: dict[str, PackTensor]
    """By digest of the tensor."""
    size: int
    """Bytes of the whole file."""


def lay_out(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> PackLayout:
    """Return the layout of a pack of tensors, given their dtypes and shapes by digest."""
    header, places = pack_header({digest[7:]: kind for digest, kind in tensors.items()})
    return PackLayout(
        name=hashlib.sha256(header).hexdigest(),
        header=header,
        places={f"sha256:{name}": place for name, place in places.items()},
        size=len(header) + sum(place.length for place in places.values()),
    )


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
        """Return the tensors of a pack, by digest.

        Raises:
            PackError: The file is missing, truncated or malformed, or its header has another
                digest than its name.
        """
        path = self.path(name)
        try:
            header, size = read_header(path)
        except FileNotFoundError:
            raise PackError("M201", path=path, reason="it does not exist") from None
        if hashlib.sha256(header).hexdigest() != name:
            raise PackError("M201", path=path, reason="its header does not match its name")
        places = parse_pack_header(header[8:], size - len(header), path)
        if not all(_HEX.fullmatch(tensor) for tensor in places):
            raise PackError("M201", path=path, reason="its tensors are not named by digests")
        return {f"sha256:{tensor}": place for tensor, place in places.items()}

    def adopt(self, staged: Path, name: str) -> None:
        """Move a finished file, whose tensors were all verified, to its place."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(0o444)
        staged.replace(target)
        sync_folder(target.parent)

    def remove(self, name: str) -> None:
        """Remove a pack; environments that hard-link it keep their copy."""
        self.path(name).unlink(missing_ok=True)
