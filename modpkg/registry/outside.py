"""A file on a server that is no registry's: which hosts are asked, and how it is read.

The address comes from a registry, so it is hostile until checked: only hosts that the user allows,
only https, no address of a private network, and at most a few redirects, each checked the same
way. A connection is made to the very address that was checked.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.digests import Digest
from modpkg.core.elsewhere import ASK_PUBLISHER
from modpkg.core.errors import IntegrityError, ModpkgError, RegistryError, RegistryUnreachable
from modpkg.core.home import config_path
from modpkg.core.hub_address import (
    UNKNOWN_LOGIN,
    HubAddress,
    hub_endpoint,
    hub_token,
    parse_hub_address,
)
from modpkg.core.version import __version__
from modpkg.manifest.normal_address import origin
from modpkg.registry.attempts import jittered, retry_after
from modpkg.registry.connection import IpAddress, failure_of, open_connection
from modpkg.registry.object_source import ARRIVAL
from modpkg.registry.object_store import is_private
from modpkg.registry.pace import Pace
from modpkg.registry.public_address import is_public
from modpkg.registry.requests import Abandoned, wait_for
from modpkg.registry.source import RangesUnsupported

T = TypeVar("T")

RETRIES = 5
"""How often a request is tried again, and how often an answer may break off."""
_REDIRECTS = (301, 302, 303, 307, 308)
_PAUSE = 0.25


class Hosts(Struct, frozen=True):
    """The hosts that places may be on: the hub's own, and those that the user names."""

    named: frozenset[str] = frozenset()

    def allow(self, url: str) -> bool:
        """Return whether the user allows a place at this address."""
        return urlsplit(url).hostname in self.named or origin(url) == origin(hub_endpoint())

    def trust(self, host: str) -> bool:
        """Return whether what is redirected to this host may be in a private network."""
        return host in self.named or host == urlsplit(hub_endpoint()).hostname


class _Broken(Exception):
    """A request failed such that another may succeed."""

    def __init__(self, reason: str, after: float = 0) -> None:
        self.reason = reason
        self.after = after
        """Seconds to wait before it."""


class _Reply:
    """A server's answer, with the connection that it comes over."""

    connection: http.client.HTTPConnection | None = None
    response: http.client.HTTPResponse

    def __enter__(self) -> http.client.HTTPResponse:
        return self.response

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            if hasattr(self, "response"):
                self.response.close()


class OutsideFile:
    """A file that has to have a digest, at an address that a registry or a person names."""

    def __init__(
        self,
        address: str,
        digest: Digest,
        what: str,
        hosts: Hosts,
        *,
        blob_id: str | None = None,
        remedy: str = ASK_PUBLISHER,
        patience: timedelta = timedelta(seconds=bounds.SILENCE_SECONDS),
    ) -> None:
        """``address`` is ``hf://ORG/NAME@COMMIT/FILE``, or one of https.

        ``blob_id`` is what git calls a file with these bytes, if that is known; ``remedy`` is what
        to do if the file has others.

        Raises:
            RegistryError: It is neither, or on a host that is not allowed.
        """
        self.address = address
        self.digest = digest
        self._what = what
        self._blob_id = blob_id
        self._remedy = remedy
        self._differs = False
        self._hosts = hosts
        self._patience = patience
        self._silence = patience.total_seconds()
        self._url, self._token = _request_of(address)
        if not hosts.allow(self._url):
            raise RegistryError(
                "M879",
                what=what,
                address=address,
                host=urlsplit(self._url).hostname,
                config=config_path(),
            )
        self._target: str | None = None
        self._lock = threading.Lock()

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``stop``, in chunks, without verifying them.

        Raises:
            IntegrityError: The file is gone, or the server says that it has another digest.
            RegistryUnreachable: It cannot be read.
            RegistryError: It is redirected to where nothing is fetched from.
            RangesUnsupported: ``start`` or ``stop`` is given; raised before the first byte.
        """
        at, tries = start, 0
        pace = Pace(self.address, self.address, self._patience)
        while stop is None or at < stop:
            begun = at
            try:
                for chunk in self._chunks(at, stop, pace):
                    at += len(chunk)
                    yield chunk
                return
            except _Broken as broken:
                tries = 1 if at - begun >= bounds.PROGRESS_BYTES else tries + 1
                self._wait(tries, broken)

    def has_bytes(self, size: int) -> bool:
        """Return whether the file has the digest, and this size, as the server tells.

        A server that does not tell digests is asked for the whole file, which is hashed.

        Raises:
            What `stream` raises, but for a file with other bytes.
        """
        import hashlib

        try:
            answer, tells = self._tried(lambda: self._open(0, 1))
            with answer as response:
                whole = _whole_size(response)
            if tells or whole not in (None, size):
                return whole == size
            state = hashlib.sha256()
            for chunk in self.stream():
                state.update(chunk)
        except IntegrityError:
            if self._differs:
                return False
            raise
        return f"sha256:{state.hexdigest()}" == self.digest

    def changed(self) -> IntegrityError:
        """Return the error for a file whose bytes are not those that have the digest."""
        self._differs = True
        return self._gone("has other bytes now than those that were released")

    def _tried(self, work: Callable[[], T]) -> T:
        """Return what a request gives that is tried again if it fails."""
        tries = 0
        while True:
            try:
                return wait_for(work, bounds.ANSWER_SECONDS)
            except _Broken as broken:  # noqa: PERF203
                tries += 1
                self._wait(tries, broken)

    def _wait(self, tries: int, broken: _Broken) -> None:
        """Wait before the next try.

        Raises:
            RegistryUnreachable: There were enough, or the server asks for too long a wait.
        """
        if tries > RETRIES or broken.after > bounds.RETRY_AFTER_SECONDS:
            raise self._unreadable(broken.reason) from None
        pause = jittered(_PAUSE * 2**tries)
        wait_for(partial(time.sleep, max(broken.after, pause)))

    def _chunks(self, start: int, stop: int | None, pace: Pace) -> Iterator[bytes]:
        pace.begin()
        answer, _ = pace.timed(lambda: self._open(start, stop), bounds.ANSWER_SECONDS)
        ranged = start > 0 or stop is not None
        with answer as response:
            if ranged and response.status != 206:
                raise RangesUnsupported(self.address)
            while True:
                try:
                    data = pace.timed(lambda: response.read1(ARRIVAL))
                except (ModpkgError, Abandoned):
                    raise
                except (OSError, http.client.HTTPException) as error:
                    raise _Broken(failure_of(error)) from None
                if not data:
                    break
                pace.arrived(len(data))
                yield data
            if response.length:
                raise _Broken("the connection was closed in the middle of it")

    def _open(self, start: int, stop: int | None) -> tuple[_Reply, bool]:
        """Return the answer that has the file, and whether the server said that it is the file.

        What a redirect led to is asked directly the next time, until it refuses.
        """
        with self._lock:
            url, remembered = self._target or self._url, self._target is not None
        tells = remembered
        for _ in range(bounds.REDIRECTS + 1):
            answer = self._request(url, start, stop)
            try:
                response = answer.response
                status = response.status
                if status in (*_REDIRECTS, 200, 206):
                    tells = self._told(response) or tells
                if status in (200, 206):
                    with self._lock:
                        self._target = None if url == self._url else url
                    kept, answer = answer, _Reply()
                    return kept, tells
                if status in _REDIRECTS:
                    location = response.headers.get("Location", "")
                    url = urljoin(url, quote(location, safe="%/:=&?~#+!$,;'@()*[]"))
                elif remembered and 400 <= status < 500 and status != 429:
                    url, remembered, tells = self._url, False, False  # what it led to has expired
                else:
                    self._refused(response)
            finally:
                answer.close()
        raise self._unreadable("it is a redirect loop")

    def _refused(self, response: http.client.HTTPResponse) -> None:
        """Raise the error for an answer that is not the file."""
        status = response.status
        after = retry_after(response.headers.get("Retry-After", "")) or 0.0
        if status == 429 or status >= 500 or status == 408:
            raise _Broken(f"the server answers with status {status}", after)
        if status in (404, 410):
            raise self._gone("is gone")
        if status == 416:
            raise self._gone("is shorter now")
        if status in (401, 403):
            gated = response.headers.get("X-Error-Code") == "GatedRepo"
            hub = origin(self._url) == origin(hub_endpoint())
            how = "log in with 'hf auth login'" if hub else "ask its owner for access"
            if gated:
                how += ", after accepting its terms on its page"
            if status == 401 and self._token is not None and not gated:
                raise self._unreadable(f"{UNKNOWN_LOGIN}: {how}, or set HF_TOKEN to another one")
            raise self._unreadable(f"it needs access that this user has not ({status}): {how}")
        raise self._unreadable(f"the server answers with status {status}")

    def _told(self, response: http.client.HTTPResponse) -> bool:
        """Return whether the server says that the file has the digest.

        Raises:
            IntegrityError: It says that it has another.
        """
        linked = response.headers.get("X-Linked-ETag")
        announced = (linked or response.headers.get("ETag") or "").removeprefix("W/").strip('"')
        if announced == self._blob_id:
            return True
        if linked is None or len(announced) != 64 or set(announced) - set("0123456789abcdef"):
            return False
        if f"sha256:{announced}" != self.digest:
            raise self.changed()
        return True

    def _request(self, url: str, start: int, stop: int | None) -> _Reply:
        parts = self._checked(url)
        headers = {"User-Agent": f"modpkg/{__version__}", "Accept-Encoding": "identity"}
        if start > 0 or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if self._token is not None and origin(url) == origin(self._url):
            headers["Authorization"] = f"Bearer {self._token}"
        answer = _Reply()
        try:
            answer.connection = open_connection(parts, self._silence, self._refuse_private)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            answer.connection.request("GET", target, headers=headers)
            answer.response = answer.connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            answer.close()
            raise _Broken(failure_of(error)) from None
        return answer

    def _checked(self, url: str) -> SplitResult:
        """Return the parts of an address that may be asked, as far as its text tells."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise self._unreadable("it redirects to what is no address") from None
        if not host or parts.username is not None or len(url) > bounds.ADDRESS_CHARACTERS * 4:
            raise self._unreadable("it redirects to what is no address")
        local = self._hosts.trust(host) and is_private(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise self._unreadable(f"{host} would be asked without TLS")
        return parts

    def _refuse_private(self, host: str, addresses: Sequence[IpAddress]) -> None:
        if not self._hosts.trust(host) and not all(map(is_public, addresses)):
            raise RegistryError(
                "M879", what=self._what, address=self.address, host=host, config=config_path()
            )

    def _gone(self, reason: str) -> IntegrityError:
        values = {"what": self._what, "address": self.address, "remedy": self._remedy}
        return IntegrityError("M877", reason=reason, **values)

    def _unreadable(self, reason: str) -> RegistryUnreachable:
        return RegistryUnreachable("M878", what=self._what, address=self.address, reason=reason)


def _request_of(address: str) -> tuple[str, str | None]:
    """Return the https address to ask, and the token to send there."""
    if not address.startswith("https://") and not address.startswith("http://"):
        found: HubAddress = parse_hub_address(address, file=True)
        return found.https(), hub_token()
    return address, None


def _whole_size(response: http.client.HTTPResponse) -> int | None:
    """Return the size of a file of which an answer has a part."""
    if response.status == 200:
        return response.length
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(size) if size.isascii() and size.isdigit() and len(size) < 20 else None
