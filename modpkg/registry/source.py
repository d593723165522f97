"""Sources of a registry's files: a folder, an HTTP server or an object store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from modpkg.core import bounds, system
from modpkg.core.digests import file_chunks
from modpkg.core.errors import ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.files import denied, human_bytes
from modpkg.core.home import config_path
from modpkg.core.regular_file import IrregularFile, OversizedFile, read_file
from modpkg.manifest.config import Login
from modpkg.manifest.limits import DEFAULTS
from modpkg.registry.address import check_address
from modpkg.registry.allowance import Allowance
from modpkg.registry.credentials import missing_credentials, store_options
from modpkg.registry.http_errors import request_error
from modpkg.registry.pace import Pace
from modpkg.registry.requests import Abandoned, wait_for
from modpkg.registry.validator import FetchedFile, Validator, validator_of

ARRIVAL = 1 << 18
"""Bytes after which a chunk is yielded."""
INDEX = "index/"
PROMPT = 0.5
"""Seconds after which what has come is yielded, so that progress shows on a slow connection."""


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


class _NotModified(Exception):
    """A file is as it was when it was read before."""


class _Interrupted(Exception):
    """The connection was lost in the middle of a file."""

    def __init__(self, error: RegistryUnreachable) -> None:
        self.error = error


class _Answer:
    """The body of an answer, as far as it has come."""

    def __init__(self, parts: Iterator[Any], meta: Mapping[str, Any]) -> None:
        self._parts = parts
        self.meta = meta
        """What the server says about the file."""
        self.data = b""
        self.ended = False
        self.failure: Exception | None = None
        """What broke it off, after ``data``."""

    def collect(self) -> None:
        """Wait for the next bytes: until there are many, or some and a moment has passed."""
        chunks: list[Any] = []
        size, began = 0, time.monotonic()
        while size < ARRIVAL and time.monotonic() - began < PROMPT:
            try:
                chunk = next(self._parts, None)
            except Exception as error:
                self.failure = error
                break
            if chunk is None:
                self.ended = True
                break
            chunks.append(chunk)
            size += len(chunk)
        self.data = b"".join(chunks)


class ObjectSource:
    """A registry behind HTTP or in an object store, through obstore.

    A request that fails with a status of 5xx, 408 or 429, with a connection that is refused or
    reset, or with silence is tried again, each time after a longer wait; an answer that breaks off
    is gone on with where it broke off. A server may be slow, but not endlessly: an answer has to
    begin in time, then not pause, and not be slower than `bounds.SLOWEST_BYTES_PER_SECOND`.
    """

    RETRIES = 5
    """How often a request is tried again, and how often an answer may break off."""

    def __init__(
        self,
        url: str,
        login: Login | None = None,
        *,
        allowance: Allowance | None = None,
        patience: timedelta = timedelta(seconds=bounds.SILENCE_SECONDS),
    ) -> None:
        """``patience`` is how long a server may be silent; ``login`` is sent to ``url`` only.

        It is also the time over which the rate of an answer is measured. Small files are counted in
        ``allowance`` while they come: many are read at the same time.
        """
        self.url = url.rstrip("/")
        self._login = login
        self._echoes: tuple[bytes, ...] = ()
        self._allowance = allowance or Allowance(url, DEFAULTS)
        self._patience = patience

    @cached_property
    def _store(self) -> Any:
        from_url = _obstore().store.from_url
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=bounds.CONNECT_SECONDS),
            "read_timeout": self._patience,
            "timeout": timedelta(days=7),  # of a whole file: packs are large
            "allow_http": _plain_http(self.url),
        }
        if self._login is not None:
            if not _is_private(self.url):
                raise RegistryError("M315", url=self.url, config=config_path())
            # reqwest drops this header when it follows a redirect to another origin
            client["default_headers"] = {"Authorization": self._login.authorization()}
            self._echoes = self._login.echoes()
        retries = {"max_retries": self.RETRIES, "retry_timeout": self._patience}
        options = store_options(self.url) | {"client_options": client, "retry_config": retries}
        try:
            return from_url(self.url, **options)
        except Exception as error:
            if "Account must be specified" in str(error):
                raise missing_credentials(self.url) from None
            reason = str(error).splitlines()[0]
            raise RegistryUnreachable("M302", url=self.url, reason=reason) from None

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        return self._whole(path, {}, most).data

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        try:
            return self._whole(path, {} if known is None else known.condition(self.url), most)
        except _NotModified:
            return None

    def _whole(self, path: str, options: dict[str, Any], most: int) -> FetchedFile:
        """Return a small file.

        Raises:
            _NotModified: It is as ``options`` say that it was.
        """
        pace = Pace(self.url, path, self._patience, whole=bounds.SMALL_FILE_SECONDS)
        kind = "index-bytes" if path.startswith(INDEX) else "file-bytes"
        meta: dict[str, Any] = {}
        for left in reversed(range(self.RETRIES + 1)):
            whole = bytearray()
            try:
                self._allowance.spend("requests", 1, path)
                for chunk in self._chunks(path, options, pace, most, meta):
                    self._allowance.spend(kind, len(chunk), path, counter=f"arrived {kind}")
                    whole += chunk
                    if len(whole) > most:
                        raise too_large(self.url, path, most)
                break
            except _Interrupted as interrupted:  # start again: the file may have changed
                if not left:
                    raise interrupted.error from None
        return FetchedFile(bytes(whole), validator_of(self.url, meta))

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        at, tries = start, 0
        pace = Pace(self.url, path, self._patience)
        interrupted: _Interrupted | None = None
        while stop is None or at < stop:  # obstore has no empty ranges
            tries += 1
            try:
                for chunk in self._chunks(path, _part(at, stop), pace):
                    at += len(chunk)
                    yield chunk
                return
            except _Interrupted as error:
                interrupted = error
                if tries > self.RETRIES:
                    raise error.error from None
            except RangesUnsupported:
                if interrupted is None:
                    raise
                raise interrupted.error from None

    def _chunks(
        self,
        path: str,
        options: dict[str, Any],
        pace: Pace,
        most: int | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Iterator[bytes]:
        """Yield a file's bytes; ``meta`` gets what the server tells about it."""
        unsupported = _obstore().exceptions.NotSupportedError
        store = self._store

        def begin() -> _Answer:
            result = store.get(path, options=options or None)
            if most is not None and result.meta["size"] > most:
                raise too_large(self.url, path, most)
            answer = _Answer(result.stream(min_chunk_size=1), result.meta)
            answer.collect()
            return answer

        pace.begin()
        try:
            answer = pace.timed(begin, bounds.ANSWER_SECONDS)
        except FileNotFoundError:
            raise FileMissing(path) from None
        except unsupported:
            raise RangesUnsupported(path) from None
        except (ModpkgError, Abandoned):
            raise
        except Exception as error:  # obstore raises many kinds
            if _is_conditional(options) and isinstance(
                error, _obstore().exceptions.NotModifiedError
            ):
                raise _NotModified from None
            raise self._request_error(error, path) from None
        overlap, tail = max(map(len, self._echoes), default=1) - 1, b""
        if meta is not None:
            meta.update(answer.meta)
        while True:
            if answer.failure is None:
                pace.arrived(len(answer.data))
            if answer.data:
                if self._echoes:
                    seen = tail + answer.data
                    if any(secret in seen for secret in self._echoes):
                        raise RegistryError("M897", url=self.url, path=path, config=config_path())
                    tail = seen[len(seen) - overlap :]
                yield answer.data
            if answer.failure is not None:
                failure = self._request_error(answer.failure, path, begun=True)
                raise _Interrupted(failure) from None
            if answer.ended:
                return
            pace.timed(answer.collect)

    def names(self, folder: str) -> list[str] | None:
        if urlsplit(self.url).scheme in ("http", "https"):
            return None
        store = self._store
        try:
            listing = wait_for(lambda: store.list_with_delimiter(folder))
        except Exception as error:
            raise self._request_error(error, folder) from None
        return sorted(entry["path"].rsplit("/", 1)[-1] for entry in listing["objects"])

    def _request_error(
        self, error: Exception, path: str, *, begun: bool = False
    ) -> RegistryUnreachable:
        return request_error(
            error,
            self.url,
            path,
            logged_in=self._login is not None,
            silence=self._patience.total_seconds(),
            begun=begun,
        )


def _is_conditional(options: Mapping[str, Any]) -> bool:
    return "if_none_match" in options or "if_modified_since" in options


def _part(start: int, stop: int | None) -> dict[str, Any]:
    """Return the options of a request for a part of a file; of the whole file, none."""
    if not start and stop is None:
        return {}
    return {"range": {"offset": start} if stop is None else (start, stop)}


_IMPORTING = threading.Lock()


def _obstore() -> Any:
    """Return the package obstore, which is slow to import.

    One thread at a time imports it: a thread that imports ``obstore`` and one that imports
    ``obstore.store`` would each hold the lock that the other waits for.
    """
    with _IMPORTING:
        import obstore.exceptions
        import obstore.store
    return obstore


def _plain_http(url: str) -> bool:
    """Return whether the address, or an object store's variable, allows plain HTTP."""
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return scheme == "http"
    variables = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in variables)


def _is_private(url: str) -> bool:
    """Return whether a request cannot be read in transit: by TLS, or on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http":
        return True
    import ipaddress  # slow to import, like urllib.request below

    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        return False
    from urllib.request import getproxies_environment, proxy_bypass

    proxied = {"http", "all"} & getproxies_environment().keys()
    return not proxied or bool(proxy_bypass(host))


def open_source(
    url: str,
    base: Path | None = None,
    login: Login | None = None,
    allowance: Allowance | None = None,
) -> Source:
    """Return the source of a registry's address: a URL, or a path relative to ``base``.

    Raises:
        RegistryError: It cannot be one.
    """
    check_address(url)
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderSource(system.path_of_url(parts.path))
    if len(parts.scheme) > 1:
        return ObjectSource(url, login, allowance=allowance)
    return FolderSource((base or Path.cwd()) / Path(url).expanduser())
