"""Reading the tensors of releases from packs on this machine."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from modpkg.core.digests import Digest, digest_bytes, parse_digest
from modpkg.core.errors import IntegrityError, PackError
from modpkg.core.records import TensorEntry
from modpkg.core.regular_file import open_file
from modpkg.core.tensors import TensorIdentity, byte_length
from modpkg.deltas import ComingBlocks, OneBlock, TensorBytes, decode, decoded_blocks
from modpkg.release.places import base_of


class TensorReader:
    """Reads tensors by their entries, decodes them, and verifies their digests.

    ``path_of`` returns the path of a pack, ``find`` the entry of a tensor that an encoded one is
    decoded on. Records were checked before (see `modpkg.release.places`). Plain tensors are
    memory-mapped; an encoded one takes memory for itself and for the tensor it is decoded on.
    """

    def __init__(
        self, path_of: Callable[[Digest], Path], find: Callable[[TensorIdentity], TensorEntry]
    ) -> None:
        self._path_of = path_of
        self._find = find
        self._maps: dict[str, memoryview] = {}

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        """Return the tensor's own bytes.

        Raises:
            IntegrityError: The decoded bytes have another digest; `what` names the tensor.
            ReleaseError: The encoded bytes are malformed.
            PackError: The pack is too short.
        """
        data = self._decoded(entry, what)
        actual = digest_bytes(data)
        if actual != entry.digest:
            raise self._other_digest(entry, what, actual)
        return data

    def _other_digest(self, entry: TensorEntry, what: str, actual: str) -> IntegrityError:
        path = self._path_of(parse_digest(entry.pack))
        return IntegrityError("M305", what=what, expected=entry.digest, actual=actual, source=path)

    def check(self, entry: TensorEntry, what: str) -> None:
        """Check a tensor's digest, with memory for a few blocks of it, whatever its size.

        Raises:
            What `read` raises.
        """
        state = hashlib.sha256()
        for block in self._blocks(entry, what):
            state.update(block)
        if (actual := f"sha256:{state.hexdigest()}") != entry.digest:
            raise self._other_digest(entry, what, actual)

    def _blocks(self, entry: TensorEntry, what: str) -> Iterator[memoryview]:
        """Yield the bytes of an encoded tensor in blocks, each valid until the next one."""
        if entry.encoding is None:
            raise AssertionError(f"{what} is not encoded")
        data, length = self._stored(entry, what), byte_length(entry)
        base: TensorBytes | None = None
        if (key := base_of(entry)) is not None:
            earlier = self._find(key)
            if earlier.encoding is None:
                base = self._stored(earlier, what)
            else:  # blocks have the same size in all of a chain
                base = ComingBlocks(byte_length(earlier), self._blocks(earlier, what))
        method, out = entry.encoding.method, OneBlock(length)
        return decoded_blocks(method, data, base, out, entry.dtype, what)

    def _decoded(self, entry: TensorEntry, what: str) -> memoryview:
        data = self._stored(entry, what)
        if entry.encoding is None:
            return data
        base = None
        if (key := base_of(entry)) is not None:
            base = self._decoded(self._find(key), what)
        out = memoryview(bytearray(byte_length(entry)))
        decode(entry.encoding.method, data, base, out, entry.dtype, what)
        return out.toreadonly()

    def _stored(self, entry: TensorEntry, what: str) -> memoryview:
        """Return the bytes of a tensor as its pack has them."""
        data = self._pack(entry.pack)[entry.offset : entry.offset + entry.length]
        if len(data) != entry.length:
            path = self._path_of(parse_digest(entry.pack))
            raise PackError("M201", path=path, reason=f"it ends before {what}")
        return data

    def _pack(self, pack: str) -> memoryview:
        if pack not in self._maps:
            path = self._path_of(parse_digest(pack))
            try:
                with open_file(path) as file:
                    size = os.fstat(file.fileno()).st_size
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            except FileNotFoundError:
                raise PackError("M201", path=path, reason="it is not there") from None
            self._maps[pack] = memoryview(data)
        return self._maps[pack]
