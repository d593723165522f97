"""Files of a registry's metadata, some of which are fetched at the same time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from modpkg.core import bounds, system
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ModpkgError, NotFound, TrustError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.records import RegistryInfo, decode_record
from modpkg.registry.signature_files import asked_at_once
from modpkg.registry.source import FileMissing, FolderSource, Source
from modpkg.trust.metadata import BinKeys, version_of
from modpkg.trust.remembered_metadata import FIRST_ROOT
from modpkg.trust.signed_paths import FOLDER

if TYPE_CHECKING:
    from modpkg.trust.trusted_metadata import TrustedMetadata


class FetchedMetadata:
    """The files of metadata at a source, some of which are fetched at the same time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: dict[str, bytes | FileMissing] = {}
        self._bytes = 0

    @property
    def is_remote(self) -> bool:
        """Whether each file takes a request."""
        return not isinstance(self._source, FolderSource)

    def has(self, name: str) -> bool:
        """Return whether a file was fetched."""
        return isinstance(self._found.get(name), bytes)

    def fetch(self, files: Sequence[tuple[str, int]]) -> None:
        """Fetch files, each of so many bytes at most, for `read`, which tells what fails."""
        if self.is_remote:
            asked_at_once([partial(self._fetch, *file) for file in files], is_remote=True)

    def fetch_changed(
        self,
        trusted: TrustedMetadata,
        paths: Collection[str],
        remembered: Callable[[str], bytes | None],
    ) -> None:
        """Fetch the targets role and the bins of files, as far as they have changed.

        How many bins there are is guessed by the snapshot; a wrong guess is a request too many.

        Args:
            trusted: What says which versions are current.
            paths: The files.
            remembered: Returns what is remembered of a file of metadata.
        """
        if trusted.snapshot is None:
            raise AssertionError("the snapshot is not loaded")
        named = trusted.snapshot.meta
        bins = sum(name.startswith("index-") for name in named)
        guess = BinKeys([], 1, max(bins.bit_length() - 1, 1))
        wanted = []
        for role in ("targets", *sorted({guess.name(path) for path in paths})):
            meta, known = named.get(f"{role}.json"), remembered(f"{role}.json")
            if meta is not None and (known is None or version_of(known) != meta.version):
                wanted.append((f"{meta.version}.{role}.json", bounds.TUF_BIN_BYTES))
        if len(wanted) > 1:
            self.fetch(wanted)

    def _fetch(self, name: str, most: int) -> None:
        try:
            data = self._source.read(f"{FOLDER}/{name}", most)
            self._bytes += len(data)
            if self._bytes <= bounds.TUF_AHEAD_BYTES:  # else it is asked for again
                self._found[name] = data
        except FileMissing as missing:
            self._found[name] = missing
        except ModpkgError:
            pass  # it is asked for again

    def read(self, name: str, most: int) -> bytes:
        """Return a file.

        Raises:
            FileMissing, RegistryUnreachable, RegistryError: As for `Source.read`.
        """
        found = self._found.get(name)
        if found is None:
            return self._source.read(f"{FOLDER}/{name}", most)
        if isinstance(found, FileMissing):
            raise found
        return found


_ABSENT = ("M565", "M566", "M567", "M573")
"""What is raised where metadata is missing, or something else is in its place."""
_UNLIKE = ("M560", "M562", "M563")
"""What is raised where metadata does not follow from what is remembered."""


def explained(error: TrustError, source: Source, url: str, first: bytes | None) -> ModpkgError:
    """Return the error of a registry's metadata, or what explains it.

    There may be no registry, or it may have begun again with another root.

    Args:
        error: What was raised.
        source: What reads the registry itself.
        url: Its address, for messages.
        first: The first root as it is remembered.
    """
    try:
        if error.code in _ABSENT:
            data = source.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
            decode_record(data, RegistryInfo, f"{url}/{REGISTRY_INFO}")
        if error.code in _UNLIKE and first is not None:
            found = digest_bytes(source.read(f"{FOLDER}/{FIRST_ROOT}", bounds.TUF_ROOT_BYTES))
            if found != (known := digest_bytes(first)):
                where, word = "the memory of this machine", system.shell_word(url)
                return TrustError("M567", url=url, where=where, found=found, root=known, word=word)
    except FileMissing:
        if error.code in _ABSENT:
            return NotFound("M301", url=url, remedy="check the address")
    except ModpkgError as other:  # it cannot be read now, or something else answers
        return other
    return error
