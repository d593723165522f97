"""A registry behind HTTP or in an object store: its files are read through obstore."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.home import config_path
from modpkg.manifest.config import StoreAccess
from modpkg.manifest.limits import DEFAULTS
from modpkg.manifest.logins import Login, SentToken
from modpkg.manifest.stored_logins import StoredToken
from modpkg.registry.allowance import Allowance
from modpkg.registry.attempts import Attempts, asked_wait, head_of
from modpkg.registry.http_errors import request_error
from modpkg.registry.object_store import library, open_store
from modpkg.registry.pace import Pace
from modpkg.registry.refusals import ELSEWHERE
from modpkg.registry.requests import Abandoned, wait_for
from modpkg.registry.source import FileMissing, RangesUnsupported, too_large
from modpkg.registry.validator import FetchedFile, Validator, validator_of

ARRIVAL = 1 << 18
"""Bytes after which a chunk is yielded."""
INDEX = "index/"
_CONDITIONS = {"if_none_match", "if_modified_since"}
T = TypeVar("T")
PROMPT = 0.5
"""Seconds after which what has come is yielded, so that progress shows on a slow connection."""


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
        access: StoreAccess | None = None,
        patience: timedelta = timedelta(seconds=bounds.SILENCE_SECONDS),
    ) -> None:
        """``patience`` is how long a server may be silent; ``login`` is sent to ``url`` only.

        ``access`` is what the settings say of an object store.

        It is also the time over which the rate of an answer is measured. Small files are counted in
        ``allowance`` while they come: many are read at the same time.
        """
        self.url = url.rstrip("/")
        self._login = login
        self._access = access or StoreAccess()
        self._echoes: tuple[bytes, ...] = ()
        self._allowance = allowance or Allowance(url, DEFAULTS)
        self._patience = patience

    @cached_property
    def store(self) -> Any:
        """What obstore reads from."""
        if self._login is not None:
            self._echoes = self._login.echoes()
        return self.opened(self._patience, 0)

    def opened(self, silence: timedelta, retries: int) -> Any:
        """Return another one; see `open_store`."""
        return open_store(self.url, self._login, self._access, silence=silence, retries=retries)

    def asked_wait(self) -> float | None:
        """Return for how many seconds the server wants to be left alone; None if it is unknown."""
        address = self._head_address()
        return None if address is None else asked_wait(*address)

    def _head_address(self) -> tuple[str, dict[str, str]] | None:
        """Return where a request for the head of a file goes, and its headers."""
        if urlsplit(self.url).scheme in ("http", "https"):
            login = {} if self._login is None else {"Authorization": self._login.authorization()}
            return f"{self.url}/{REGISTRY_INFO}", login
        minute = timedelta(seconds=60)
        try:
            signed = wait_for(
                lambda: library().sign(self.store, "HEAD", REGISTRY_INFO, minute),
                bounds.ANSWER_SECONDS,
            )
        except (ModpkgError, Abandoned):
            raise
        except Exception:  # it cannot be signed with these credentials
            return None
        return signed, {}

    def _region(self) -> str:
        """Return what a bucket elsewhere says of its region, as in the text of a refusal."""
        address = self._head_address()
        head = None if address is None else head_of(*address)
        region = "" if head is None else head[1].get("x-amz-bucket-region", "")
        return f"<Region>{region}</Region>"

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes:
        return self._whole(path, {}, most).data

    def read_versioned(self, path: str, most: int) -> tuple[bytes, dict[str, Any]]:
        """Return a small file, and its version for a condition of obstore's.

        Raises:
            FileMissing, RegistryUnreachable, RegistryError: As for `read`.
        """
        meta: dict[str, Any] = {}
        data = self._whole(path, {}, most, meta).data
        return data, version_in(meta)

    def read_changed(self, path: str, known: Validator | None, most: int) -> FetchedFile | None:
        try:
            return self._whole(path, {} if known is None else known.condition(self.url), most)
        except _NotModified:
            return None

    def _whole(
        self,
        path: str,
        options: dict[str, Any],
        most: int,
        meta: dict[str, Any] | None = None,
    ) -> FetchedFile:
        """Return a small file; ``meta`` gets what the server tells about it.

        Raises:
            _NotModified: It is as ``options`` say that it was.
        """
        pace = Pace(self.url, path, self._patience, whole=bounds.SMALL_FILE_SECONDS)
        kind = "index-bytes" if path.startswith(INDEX) else "file-bytes"
        meta = {} if meta is None else meta
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
        store = self.store

        def begin() -> _Answer:
            result = store.get(path, options=options or None)
            if most is not None and result.meta["size"] > most:
                raise too_large(self.url, path, most)
            answer = _Answer(result.stream(min_chunk_size=1), result.meta)
            answer.collect()
            return answer

        answer = self._answer(path, begin, pace, bool(options.keys() & _CONDITIONS))
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
                failure = self.request_error(answer.failure, path, begun=True)
                raise _Interrupted(failure) from None
            if answer.ended:
                return
            pace.timed(answer.collect)

    def size(self, path: str) -> int | None:
        """Return the bytes of a file; None if it is not there.

        Raises:
            RegistryUnreachable: The server does not say it.
        """
        store, pace = self.store, Pace(self.url, path, self._patience)
        try:
            meta = self._answer(path, lambda: store.head(path), pace, conditional=False)
        except FileMissing:
            return None
        return int(meta["size"])

    def _answer(self, path: str, begin: Callable[[], T], pace: Pace, conditional: bool) -> T:
        """Return the answer to a request, which is tried again where that may help."""
        errors = library().exceptions
        attempts = Attempts(self.RETRIES, self._patience.total_seconds(), self.asked_wait)
        while True:
            pace.begin()
            try:
                return pace.timed(begin, bounds.ANSWER_SECONDS)
            except FileNotFoundError:
                raise FileMissing(path) from None
            except errors.NotSupportedError:
                raise RangesUnsupported(path) from None
            except (ModpkgError, Abandoned):
                raise
            except Exception as error:  # obstore raises many kinds
                if conditional and isinstance(error, errors.NotModifiedError):
                    raise _NotModified from None
                if not attempts.again(str(error)):
                    raise self.request_error(error, path, attempts) from None

    def names(self, folder: str) -> list[str] | None:
        if urlsplit(self.url).scheme in ("http", "https"):
            return None
        store = self.store
        try:
            listing = wait_for(lambda: store.list_with_delimiter(folder))
        except Exception as error:
            raise self.request_error(error, folder) from None
        return sorted(entry["path"].rsplit("/", 1)[-1] for entry in listing["objects"])

    def request_error(
        self,
        error: Exception,
        path: str,
        attempts: Attempts | None = None,
        *,
        begun: bool = False,
    ) -> RegistryUnreachable:
        """Return the error to raise for what obstore raised; see `http_errors.request_error`."""
        text = str(error)
        if ELSEWHERE in text and urlsplit(self.url).scheme == "s3":
            text += self._region()
        return request_error(
            text,
            self.url,
            path,
            logged_in=self._login is not None,
            login_remedy=self._login.remedy
            if isinstance(self._login, StoredToken | SentToken)
            else "",
            silence=self._patience.total_seconds(),
            begun=begun,
            asked=None if attempts is None else attempts.asked,
        )


def version_in(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what obstore needs to replace a file only as it is, from what a store said of it."""
    return {key: answer[key] for key in ("e_tag", "version") if answer.get(key) is not None}


def _part(start: int, stop: int | None) -> dict[str, Any]:
    """Return the options of a request for a part of a file; of the whole file, none."""
    if not start and stop is None:
        return {}
    return {"range": {"offset": start} if stop is None else (start, stop)}
