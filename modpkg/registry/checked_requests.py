"""Requests of HTTP to one registry: checked, tried again, and bounded.

Whoever names a registry trusts its host; what it answers is hostile until checked. A request goes
to no network that is more private than the registry's own, and never from TLS to none.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from email.message import Message
from functools import partial
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError, RegistryError
from modpkg.core.files import refusal_of
from modpkg.core.oci_address import is_loopback
from modpkg.core.version import __version__
from modpkg.registry.connection import IpAddress, failure_of, open_connection
from modpkg.registry.public_address import privacy_of
from modpkg.registry.request_tries import PassingFailure, RequestTries
from modpkg.registry.requests import Abandoned, TooLate, wait_for

_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class RequestBody(Struct, frozen=True):
    """What is sent with a request."""

    length: int
    chunks: Callable[[], Iterator[bytes]]
    """Returns the bytes; called again where they are sent again."""


class WholeAnswer(Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: Message
    body: bytes


class CheckedRequests:
    """Requests to one registry; those that authorise them are its kinds. Thread-safe."""

    CLEAR = "http://…"
    """How an address is written where plain HTTP is spoken, for a remedy."""

    def __init__(self, origin: str, *, silence: float) -> None:
        """``origin`` is scheme, host and port of the registry; ``silence`` is in seconds."""
        self._origin = origin
        self._host = urlsplit(origin).hostname or ""
        self._silence = silence
        self._reach = 0
        self.stopped = threading.Event()
        """Set when nobody wants an answer any more, since something else failed."""

    def refusal(self, reason: str, remedy: str) -> RegistryError:
        """Return the error for a registry that cannot be used."""
        raise NotImplementedError

    def refused(self, answer: WholeAnswer) -> ModpkgError:
        """Return the error for an answer with a status that was not expected."""
        raise NotImplementedError

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
        silence: float | None = None,
    ) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        """Send a request, with what authorises it, and give the answer; its body is not read.

        Raises:
            PassingFailure: It may succeed later.
            RegistryError: The registry forbids it, or leads to where nothing is asked.
        """
        raise NotImplementedError

    def check_going(self) -> None:
        """Check that answers are still wanted.

        Raises:
            Abandoned: They are not.
        """
        if self.stopped.is_set():
            raise Abandoned

    def tries(self) -> RequestTries:
        """Return what counts the tries of one piece of work."""
        return RequestTries(self.refusal, self.check_going)

    def ask(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
        most: int = bounds.OCI_ANSWER_BYTES,
        silence: float | None = None,
    ) -> WholeAnswer:
        """Return the answer to a request that may be sent again; see `open`.

        Raises:
            RegistryError: Its status is none of ``expect``, or it is over ``most`` bytes.
        """
        tries = self.tries()
        while True:
            try:
                with self.open(method, url, headers=headers, body=body, silence=silence) as answer:
                    data = b"" if method == "HEAD" else read_answer(answer, most + 1)
                    got = WholeAnswer(answer.status, answer.headers, data)
            except PassingFailure as failure:
                tries.wait(failure)
                continue
            if got.status not in expect:
                raise self.refused(got)
            if len(data) > most:
                raise self.refusal(f"it answers with over {most} bytes", "ask its owner")
            return got

    def _joined(self, url: str, location: str) -> str:
        """Return where an answer leads to; its text is that of an address."""
        try:
            joined = urljoin(url, quote(location, safe="%/:=&?~#+!$,;'@()*[]"))
            _ = urlsplit(joined).port
        except ValueError:
            raise self._no_address() from None
        return joined

    def _no_address(self) -> RegistryError:
        return self.refusal("it leads to what is no address", "ask its owner")

    @contextlib.contextmanager
    def _sent(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
        silence: float | None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send one request, and yield the answer."""
        silence = self._silence if silence is None else silence
        connection: http.client.HTTPConnection | None = None
        try:
            connection, answer = self._exchanged(method, url, headers, body, silence)
            with contextlib.closing(answer):
                yield answer
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            remedy = None
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME:
                remedy = "correct the address, or connect to its network"
            elif isinstance(error, ssl.SSLError) and not isinstance(error, _ENDED):
                remedy = (
                    "name a file with its authority in SSL_CERT_FILE, or correct the address "
                    f"(plain HTTP is spoken at {self.CLEAR})"
                )
            if remedy is not None:  # it would be the same again
                raise self.refusal(failure_of(error), remedy) from None
            raise PassingFailure(failure_of(error)) from None
        except TooLate:
            raise PassingFailure("it did not answer in time") from None
        finally:
            if connection is not None:
                connection.close()

    def _exchanged(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
        silence: float,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = self._checked(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        whole = {
            "User-Agent": f"modpkg/{__version__}",
            "Accept-Encoding": "identity",
            **({"Content-Length": str(body.length)} if body is not None else {}),
            **({"Content-Length": "0"} if body is None and method in ("POST", "PUT") else {}),
            **headers,
        }
        patience = max(silence, bounds.ANSWER_SECONDS)

        opened: list[http.client.HTTPConnection] = []
        unwanted = threading.Event()

        def begun() -> http.client.HTTPConnection:
            connection = open_connection(parts, silence, self._check_reach)
            opened.append(connection)
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in whole.items():
                connection.putheader(name, value)
            connection.endheaders()
            if unwanted.is_set():
                connection.close()
            return connection

        try:
            connection = wait_for(begun, patience)
        except BaseException:
            unwanted.set()  # it may be opened only now, in the other thread
            for one in opened:
                one.close()
            raise
        try:
            broken = self._stream(connection, body, patience) if body is not None else None
            try:
                return connection, wait_for(connection.getresponse, patience)
            except (OSError, http.client.HTTPException, TooLate) as error:
                raise broken or error from None
        except BaseException:
            connection.close()
            raise

    def _stream(
        self, connection: http.client.HTTPConnection, body: RequestBody, patience: float
    ) -> OSError | None:
        """Send a body; return what broke off, since the registry may have answered before it.

        Raises:
            InstallError: It cannot be read.
        """
        chunks = body.chunks()
        while True:
            self.check_going()
            try:
                chunk = next(chunks, b"")
            except OSError as error:
                raise refusal_of(error) from error
            if not chunk:
                return None
            try:
                wait_for(partial(connection.send, chunk), patience)
            except OSError as error:
                return error

    def _checked(self, url: str) -> SplitResult:
        """Return the parts of an address that may be asked, as far as its text tells."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not host or parts.username is not None or len(url) > bounds.ADDRESS_CHARACTERS * 4:
            raise self._no_address()
        plain = self._origin.startswith("http://") and (host == self._host or is_loopback(host))
        if parts.scheme != "https" and not (parts.scheme == "http" and plain):
            raise self.refusal(f"{host[:100]} would be asked without TLS", "ask its owner")
        return parts

    def _check_reach(self, host: str, addresses: Sequence[IpAddress]) -> None:
        """Check that a host is in no network that is more private than the registry's own."""
        reach = max(map(privacy_of, addresses), default=0)
        if host == self._host:
            self._reach = reach
        elif reach > self._reach:
            reason = f"it redirects to {host[:100]}, which is in a private network"
            raise self.refusal(reason, "ask its owner")

    def _check_encoding(self, answer: http.client.HTTPResponse) -> None:
        """Check that what comes is the file as it is, as was asked for, and not compressed."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            reason = f"it sends what is compressed ({encoding[:40]}), and was asked for it as it is"
            raise self.refusal(reason, "ask its owner, or whoever runs a proxy before it")


def read_answer(answer: http.client.HTTPResponse, most: int) -> bytes:
    """Return the first bytes of an answer."""
    data = b""
    ends = time.monotonic() + bounds.ANSWER_SECONDS
    while len(data) < most:
        part = wait_for(partial(answer.read1, most - len(data)), bounds.ANSWER_SECONDS)
        if not part:
            break
        data += part
        if time.monotonic() > ends:
            raise TooLate
    if len(data) < most and answer.length:
        raise http.client.IncompleteRead(data)
    return data
