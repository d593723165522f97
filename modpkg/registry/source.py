"""Sources of a registry's files: what each can do, and a folder as one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from modpkg.core import bounds
from modpkg.core.digests import file_chunks
from modpkg.core.errors import ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.files import denied, human_bytes
from modpkg.core.regular_file import IrregularFile, OversizedFile, read_file
from modpkg.registry.validator import FetchedFile, Validator


class FileMissing(Exception):
    """The source has no such file."""


class RangesUnsupported(Exception):
    """The source serves whole files only; read without ``start`` and ``stop``."""


class Source(Protocol):
    """Read access to a registry's files, by paths relative to its root, with ``/``."""

    url: str

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        """Return the content of a small file, which may have ``most`` bytes.

        Raises:
            FileMissing: The source has no such file.
            RegistryUnreachable: The file cannot be read.
            RegistryError: The file is larger.
        """
        ...

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        """Return a small file; None if it is as it was when ``known`` came with it.

        Raises:
            FileMissing, RegistryUnreachable, RegistryError: As for `read`.
        """
        ...

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``stop`` of a file, in chunks.

        A file that ends before ``stop`` yields what it has.

        Raises:
            FileMissing: The source has no such file.
            RegistryUnreachable: The file cannot be read, or reading was interrupted.
            RangesUnsupported: ``start`` or ``stop`` is given; raised before the first byte.
        """
        ...

    def names(self, folder: str) -> list[str] | None:
        """Return the names of the files in a folder, sorted; None if the source cannot list."""
        ...


class FolderSource:
    """A registry in a folder of this machine, or of a mounted file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        try:
            # Thousands of index files are read like this: a text, since paths are slow to join.
            return read_file(f"{self.url}/{path}", most)
        except (FileNotFoundError, NotADirectoryError):
            raise FileMissing(path) from None
        except OversizedFile:
            raise too_large(self.url, path, most) from None
        except OSError as error:
            raise _unreadable(self.url, error, path) from None

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        return FetchedFile(self.read(path, most))

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        try:
            length = None if stop is None else stop - start
            yield from file_chunks(self.root / path, start, length)
        except (FileNotFoundError, NotADirectoryError):
            raise FileMissing(path) from None
        except OSError as error:
            raise _unreadable(self.url, error, path) from None

    def names(self, folder: str) -> list[str] | None:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _unreadable(self.url, error, folder) from None


def _unreadable(url: str, error: OSError, path: str) -> ModpkgError:
    if isinstance(error, IrregularFile):
        return RegistryUnreachable("M841", url=url, what=error.what, path=path)
    reason = f"{path}: {error.strerror or error}"
    return denied(error) or RegistryUnreachable("M302", url=url, reason=reason)


def too_large(url: str, path: str, most: int) -> RegistryError:
    """Return the error for a file that has over ``most`` bytes, which are not read."""
    return RegistryError("M327", url=url, path=path, most=human_bytes(most))
