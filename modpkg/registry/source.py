"""Where a registry's files are read from: a folder, an HTTP server or an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from modpkg.digests import CHUNK, file_chunks
from modpkg.errors import RegistryUnreachable
from modpkg.registry.answers import refusal

MAX_SMALL = 256 << 20
"""Longest file in bytes that is read whole into memory (an index, a record, an interface)."""


class NotThere(Exception):
    """The source answered, and says that it has no such file."""


class NoRanges(Exception):
    """The source gives whole files only; read the file without ``start`` and ``stop``."""


class Source(Protocol):
    """The read side of a registry's tree. Paths are relative, with ``/``."""

    url: str

    def read(self, path: str) -> bytes:
        """Return a small file. Raises `NotThere` or `RegistryUnreachable`."""
        ...

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``stop`` of a file, in chunks.

        A file that ends before ``stop`` yields what it has.

        Raises:
            NotThere, RegistryUnreachable.
            NoRanges: a part was asked for, before its first byte.
        """
        ...

    def names(self, folder: str) -> list[str] | None:
        """Return the names in a folder, sorted; None where the source cannot list."""
        ...


class FolderSource:
    """A registry in a folder of this machine, or of a mounted file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        try:
            file = self.root / path
            size = os.stat(file).st_size
            if size > MAX_SMALL:
                raise RegistryUnreachable(url=self.url, reason=f"{path} has {size} bytes")
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotThere(path) from None
        except OSError as error:
            raise RegistryUnreachable(url=self.url, reason=_reason(error, path)) from None

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        try:
            length = None if stop is None else stop - start
            yield from file_chunks(self.root / path, start, length)
        except (FileNotFoundError, NotADirectoryError):
            raise NotThere(path) from None
        except OSError as error:
            raise RegistryUnreachable(url=self.url, reason=_reason(error, path)) from None

    def names(self, folder: str) -> list[str] | None:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / folder))
        except OSError:
            return []


def _reason(error: OSError, path: str) -> str:
    return f"{path}: {error.strerror or error}"


class ObjectSource:
    """A registry behind HTTP or in an object store, through obstore."""

    def __init__(self, url: str) -> None:
        from obstore.store import from_url

        self.url = url.rstrip("/")
        options: dict[str, Any] = {"client_options": {"timeout": "60s", "connect_timeout": "10s"}}
        if urlsplit(url).scheme == "http":
            options["client_options"]["allow_http"] = True
        options["retry_config"] = {"max_retries": 4}
        try:
            self._store = from_url(self.url, **options)
        except Exception as error:
            raise RegistryUnreachable(url=url, reason=str(error).splitlines()[0]) from None

    def read(self, path: str) -> bytes:
        whole = bytearray()
        for chunk in self.stream(path):
            whole += chunk
            if len(whole) > MAX_SMALL:
                raise RegistryUnreachable(url=self.url, reason=f"{path} is over {MAX_SMALL} bytes")
        return bytes(whole)

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        from obstore.exceptions import NotSupportedError

        if stop is not None and stop <= start:
            return  # obstore has no empty ranges
        part: Any = None
        if start or stop is not None:
            part = {"range": {"offset": start} if stop is None else (start, stop)}
        try:
            result = self._store.get(path, options=part)
            for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)
        except FileNotFoundError:
            raise NotThere(path) from None
        except NotSupportedError:
            raise NoRanges(path) from None
        except Exception as error:  # obstore raises many kinds
            raise refusal(error, self.url, path) from None

    def names(self, folder: str) -> list[str] | None:
        if urlsplit(self.url).scheme in ("http", "https"):
            return None
        found = self._store.list_with_delimiter(folder)
        return sorted(entry["path"].rsplit("/", 1)[-1] for entry in found["objects"])


def open_source(url: str, base: Path | None = None) -> Source:
    """Return the source for a registry's address: an URL, or a path relative to ``base``."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderSource(Path(unquote(parts.path)))
    if len(parts.scheme) > 1:
        return ObjectSource(url)
    return FolderSource((base or Path.cwd()) / Path(url).expanduser())
