"""Where a registry's files are read from: a folder, an HTTP server or an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from modpkg.core.digests import file_chunks
from modpkg.core.errors import RegistryError, RegistryUnreachable
from modpkg.core.home import config_path
from modpkg.manifest.config import Login
from modpkg.registry.answers import refusal

ARRIVAL = 1 << 18
"""Bytes that are handed on as soon as they came; a slow line still shows that it moves."""
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
            # Thousands of index files are read so: no more system calls than it takes.
            with open(f"{self.url}/{path}", "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_SMALL:
                    raise RegistryUnreachable(
                        "M302", url=self.url, reason=f"{path} has {size} bytes"
                    )
                return file.readall()
        except (FileNotFoundError, NotADirectoryError):
            raise NotThere(path) from None
        except OSError as error:
            raise RegistryUnreachable("M302", url=self.url, reason=_reason(error, path)) from None

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        try:
            length = None if stop is None else stop - start
            yield from file_chunks(self.root / path, start, length)
        except (FileNotFoundError, NotADirectoryError):
            raise NotThere(path) from None
        except OSError as error:
            raise RegistryUnreachable("M302", url=self.url, reason=_reason(error, path)) from None

    def names(self, folder: str) -> list[str] | None:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / folder))
        except OSError:
            return []


def _reason(error: OSError, path: str) -> str:
    return f"{path}: {error.strerror or error}"


class _Cut(Exception):
    """An answer that began broke off."""

    def __init__(self, refused: RegistryUnreachable) -> None:
        self.refused = refused


class ObjectSource:
    """A registry behind HTTP or in an object store, through obstore.

    A request that fails with a status of 5xx, 408 or 429, with a connection that is refused or
    reset, or with silence is tried again, each time after a longer wait; an answer that breaks off
    is gone on with where it broke off.
    """

    RETRIES = 5
    """How often a request is tried again, and how often an answer may break off."""

    def __init__(
        self, url: str, login: Login | None = None, *, patience: timedelta = timedelta(seconds=30)
    ) -> None:
        """``patience``: how long a server may be silent. ``login`` goes to ``url`` only."""
        self.url = url.rstrip("/")
        self._login = login
        self._patience = patience

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": self._patience,
            "timeout": timedelta(days=7),  # of a whole answer: large packs take what they take
            "allow_http": _plain_http(self.url),
        }
        if self._login is not None:
            if not _is_private(self.url):
                raise RegistryError("M315", url=self.url, config=config_path())
            # reqwest leaves this header out when it follows a redirect to another origin
            client["default_headers"] = {"Authorization": self._login.authorization()}
        retries = {"max_retries": self.RETRIES, "retry_timeout": 2 * self._patience}
        options: dict[str, Any] = {"client_options": client, "retry_config": retries}
        try:
            return from_url(self.url, **options)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise RegistryUnreachable("M302", url=self.url, reason=reason) from None

    def read(self, path: str) -> bytes:
        for left in reversed(range(self.RETRIES + 1)):
            whole = bytearray()
            try:
                for chunk in self._chunks(path, 0, None):
                    whole += chunk
                    if len(whole) > MAX_SMALL:
                        reason = f"{path} is over {MAX_SMALL} bytes"
                        raise RegistryUnreachable("M302", url=self.url, reason=reason)
                break
            except _Cut as cut:  # from the beginning: the file may change between two requests
                if not left:
                    raise cut.refused from None
        return bytes(whole)

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        at, tries = start, 0
        cut: _Cut | None = None
        while stop is None or at < stop:  # obstore has no empty ranges
            tries += 1
            try:
                for chunk in self._chunks(path, at, stop):
                    at += len(chunk)
                    yield chunk
                return
            except _Cut as again:
                cut = again
                if tries > self.RETRIES:
                    raise cut.refused from None
            except NoRanges:
                if cut is None:
                    raise
                raise cut.refused from None

    def _chunks(self, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        from obstore.exceptions import NotSupportedError

        part: Any = None
        if start or stop is not None:
            part = {"range": {"offset": start} if stop is None else (start, stop)}
        store = self._store
        try:
            result = store.get(path, options=part)
        except FileNotFoundError:
            raise NotThere(path) from None
        except NotSupportedError:
            raise NoRanges(path) from None
        except Exception as error:  # obstore raises many kinds
            raise self._refusal(error, path) from None
        parts = result.stream(min_chunk_size=ARRIVAL)
        while True:
            try:
                chunk = next(parts, None)
            except Exception as error:
                raise _Cut(self._refusal(error, path)) from None
            if chunk is None:
                return
            yield bytes(chunk)

    def names(self, folder: str) -> list[str] | None:
        if urlsplit(self.url).scheme in ("http", "https"):
            return None
        store = self._store
        try:
            found = store.list_with_delimiter(folder)
        except Exception as error:
            raise self._refusal(error, folder) from None
        return sorted(entry["path"].rsplit("/", 1)[-1] for entry in found["objects"])

    def _refusal(self, error: Exception, path: str) -> RegistryUnreachable:
        return refusal(error, self.url, path, logged_in=self._login is not None)


def _plain_http(url: str) -> bool:
    """Say whether plain HTTP is wanted: by the address, or for an object store by its variable."""
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return scheme == "http"
    variables = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in variables)


def _is_private(url: str) -> bool:
    """Say whether nobody on the way can read what is sent: TLS, or it stays on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http":
        return True
    import ipaddress

    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if not here:
        return False
    from urllib.request import getproxies_environment, proxy_bypass

    proxied = {"http", "all"} & getproxies_environment().keys()
    return not proxied or bool(proxy_bypass(host))


def open_source(url: str, base: Path | None = None, login: Login | None = None) -> Source:
    """Return the source for a registry's address: an URL, or a path relative to ``base``."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderSource(Path(unquote(parts.path)))
    if len(parts.scheme) > 1:
        return ObjectSource(url, login)
    return FolderSource((base or Path.cwd()) / Path(url).expanduser())
