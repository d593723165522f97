"""Packs of the store: safetensors files whose tensors are named by their digests.

A pack is named by the sha256 of its header, which names every tensor by its digest: the name says
all that is in it, and a pack of the same tensors has the same name wherever it is made.
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
    """A pack before it has any data: what it will be called, and where everything goes."""

    name: str
    """64 hex digits."""
    header: bytes
    places: dict[str, PackTensor]
    """By digest of the tensor."""
    size: int
    """Bytes of the whole file."""


def lay_out(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> PackLayout:
    """Return the layout of a pack of these tensors: dtype and shape by digest."""
    header, places = pack_header({digest[7:]: kind for digest, kind in tensors.items()})
    return PackLayout(
        name=hashlib.sha256(header).hexdigest(),
        header=header,
        places={f"sha256:{name}": place for name, place in places.items()},
        size=len(header) + sum(place.length for place in places.values()),
    )


class PackFolder:
    """The packs under ``root``: ``<aa>/<name>``, each whole, read-only and verified."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return where a pack lies, whether or not it is there."""
        return self.root / name[:2] / name

    def has(self, layout: PackLayout) -> bool:
        """Say whether a pack is there, with its length."""
        try:
            return os.stat(self.path(layout.name)).st_size == layout.size
        except FileNotFoundError:
            return False

    def sizes(self) -> dict[str, int]:
        """Return the packs that are there, with the bytes of their files."""
        found = {}
        try:
            folders = [entry.path for entry in os.scandir(self.root) if len(entry.name) == 2]
        except FileNotFoundError:
            return {}
        for folder in folders:
            for entry in os.scandir(folder):
                if _HEX.fullmatch(entry.name):
                    found[entry.name] = entry.stat().st_size
        return found

    def read(self, name: str) -> dict[str, PackTensor]:
        """Return the tensors of a pack, by digest.

        Raises:
            PackError: it is missing, cut, or another file than its name says.
        """
        path = self.path(name)
        try:
            header, size = read_header(path)
        except FileNotFoundError:
            raise PackError("M201", path=path, reason="it is not there") from None
        if hashlib.sha256(header).hexdigest() != name:
            raise PackError(
                "M201", path=path, reason="its header is not the one that its name says"
            )
        places = parse_pack_header(header[8:], size - len(header), path)
        if not all(_HEX.fullmatch(tensor) for tensor in places):
            raise PackError("M201", path=path, reason="its tensors are not named by digests")
        return {f"sha256:{tensor}": place for tensor, place in places.items()}

    def adopt(self, staged: Path, name: str) -> None:
        """Take in a finished file, every tensor of which was verified: one rename."""
        target = self.path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(0o444)
        staged.replace(target)
        sync_folder(target.parent)

    def remove(self, name: str) -> None:
        """Remove a pack; environments that link it keep theirs."""
        self.path(name).unlink(missing_ok=True)
