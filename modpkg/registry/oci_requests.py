"""Requests to one repository of an OCI registry: checked, authorised, and tried again.

Whoever names a registry trusts its host; what it answers is hostile until checked. A redirect leads
to no network that is more private than the registry's own, never from TLS to none, and without the
credentials. These go to the registry's own origin, and to the server of tokens that it names there
("Token Authentication", https://distribution.github.io/distribution/spec/auth/token/), over
connections that nobody else can read.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from email.message import Message
from functools import partial
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import RegistryUnreachable
from modpkg.core.files import refusal_of
from modpkg.core.oci_address import OciAddress, is_loopback
from modpkg.core.version import __version__
from modpkg.manifest.config import origin
from modpkg.registry.attempts import retry_after
from modpkg.registry.connection import IpAddress, failure_of, open_connection
from modpkg.registry.object_store import is_private
from modpkg.registry.oci_challenge import challenge_in, token_in
from modpkg.registry.oci_login import OciLogin, login_of
from modpkg.registry.oci_tries import OciTries, PassingFailure
from modpkg.registry.public_address import privacy_of
from modpkg.registry.requests import Abandoned, TooLate, wait_for

_ENDED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_REDIRECTS = (301, 302, 303, 307, 308)
_ERROR_CODE = re.compile(rb'"code" ?: ?"([A-Z_]{1,60})"')


class OciBody(Struct, frozen=True):
    """What is sent with a request."""

    length: int
    chunks: Callable[[], Iterator[bytes]]
    """Returns the bytes; called again where they are sent again."""


class OciAnswer(Struct, frozen=True):
    """A whole answer."""

    status: int
    headers: Message
    body: bytes


class OciRequests:
    """Requests about one repository. Thread-safe."""

    def __init__(
        self, address: OciAddress, *, writes: bool, silence: float = bounds.SILENCE_SECONDS
    ) -> None:
        """``writes`` is whether something will be pushed; ``silence`` is in seconds."""
        self._address = address
        self._origin = address.origin
        self._host = urlsplit(self._origin).hostname or ""
        self._writes = writes
        self._silence = silence
        self._lock = threading.Lock()
        self._authorization: str | None = None
        self._login: OciLogin | None = None
        self._looked_up = False
        self._reach = 0
        self._sources: tuple[str, ...] = ()
        self.stopped = threading.Event()
        """Set when nobody wants an answer any more, since something else failed."""

    def check_going(self) -> None:
        """Check that answers are still wanted.

        Raises:
            Abandoned: They are not.
        """
        if self.stopped.is_set():
            raise Abandoned

    def tries(self) -> OciTries:
        """Return what counts the tries of one piece of work."""
        return OciTries(self.refusal, self.check_going)

    def read_from(self, repositories: Collection[str]) -> None:
        """Ask that other repositories can be read too, in tokens from now on."""
        with self._lock:
            self._sources = tuple(sorted(repositories))
            if self._authorization is not None and self._authorization.startswith("Bearer "):
                self._authorization = None

    def url(self, path: str) -> str:
        """Return the address of what is below the repository, such as ``blobs/sha256:…``."""
        return f"{self._origin}/v2/{self._address.repository}/{path}"

    def within(self, location: str, url: str) -> str:
        """Return where an answer says that an upload goes on.

        Raises:
            RegistryUnreachable: It is not at this registry.
        """
        target = self._joined(url, location)
        if origin(target) != origin(self._origin):
            reason = f"it wants uploads sent to another place, {urlsplit(target).netloc[:100]}"
            raise self.refusal(reason, "ask its owner to correct its own address in its settings")
        return target

    def ask(
        self,
        method: str,
        url: str,
        *,
        expect: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: OciBody | None = None,
        most: int = bounds.OCI_ANSWER_BYTES,
        silence: float | None = None,
    ) -> OciAnswer:
        """Return the answer to a request that may be sent again; see `open`.

        Raises:
            RegistryUnreachable: Its status is none of ``expect``, or it is over ``most`` bytes.
        """
        tries = self.tries()
        while True:
            try:
                with self.open(method, url, headers=headers, body=body, silence=silence) as answer:
                    data = b"" if method == "HEAD" else _read(answer, most + 1)
                    got = OciAnswer(answer.status, answer.headers, data)
            except PassingFailure as failure:
                tries.wait(failure)
                continue
            if got.status not in expect:
                raise self.refused(got)
            if len(data) > most:
                raise self.refusal(f"it answers with over {most} bytes", "ask its owner")
            return got

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: OciBody | None = None,
        silence: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, with what authorises it, and yield the answer; its body is not read.

        Raises:
            PassingFailure: It may succeed later.
            RegistryUnreachable: The registry forbids it, or redirects where nothing is asked.
        """
        authorised = False
        for _ in range(bounds.REDIRECTS + 2):
            own = origin(url) == origin(self._origin)
            with self._lock:
                authorization = self._authorization if own else None
            sent = {
                **(headers or {}),
                **({"Authorization": authorization} if authorization else {}),
            }
            with self._sent(method, url, sent, body, silence) as answer:
                status = answer.status
                if status == 401 and own and not authorised:
                    self._authorise(answer, authorization)
                    authorised = True
                    continue
                if status in _REDIRECTS and method in ("GET", "HEAD"):
                    url = self._joined(url, answer.headers.get("Location", ""))
                    continue
                if status == 507:
                    raise self.refusal("it is full (507)", "make room there, or ask its owner to")
                if status in (408, 425, 429) or status >= 500:
                    after = retry_after(answer.headers.get("Retry-After", "")) or 0.0
                    raise PassingFailure(f"it answers with status {status}", after)
                self._check_encoding(answer)
                yield answer
                return
        raise self.refusal("it is a redirect loop", "ask its owner")

    def _check_encoding(self, answer: http.client.HTTPResponse) -> None:
        """Check that what comes is the file as it is, as was asked for, and not compressed."""
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            reason = f"it sends what is compressed ({encoding[:40]}), and was asked for it as it is"
            raise self.refusal(reason, "ask its owner, or whoever runs a proxy before it")

    def refused(self, answer: OciAnswer) -> RegistryUnreachable:
        """Return the error for an answer with a status that was not expected."""
        match = _ERROR_CODE.search(answer.body[:4096])
        code = f", {match[1].decode()}" if match is not None else ""
        if answer.status in (401, 403):
            what = "push to" if self._writes else "read"
            who = "this login" if self._login is not None else "nobody without a login"
            reason = f"it lets {who} {what} {self._address.repository} ({answer.status}{code})"
            if self._login is not None:
                reason = reason.replace("lets", "does not let")
            return self.refusal(reason, self._how_to_log_in())
        remedy = "ask its owner" if answer.status != 404 else "correct the address"
        if answer.status == 404 and self._writes:
            remedy = "make the repository there first, or correct the address"
        return self.refusal(f"it answers with status {answer.status}{code}", remedy)

    def refusal(self, reason: str, remedy: str) -> RegistryUnreachable:
        """Return the error for a registry that cannot be used."""
        return RegistryUnreachable("M892", host=self._address.host, reason=reason, remedy=remedy)

    def _how_to_log_in(self) -> str:
        return f"log in to an account that may: docker login {self._address.host}"

    def _joined(self, url: str, location: str) -> str:
        """Return where an answer leads to; its text is that of an address."""
        try:
            joined = urljoin(url, quote(location, safe="%/:=&?~#+!$,;'@()*[]"))
            _ = urlsplit(joined).port
        except ValueError:
            raise self._no_address() from None
        return joined

    def _no_address(self) -> RegistryUnreachable:
        return self.refusal("it leads to what is no address", "ask its owner")

    @contextlib.contextmanager
    def _sent(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: OciBody | None,
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
                    "(plain HTTP is spoken at oci+http://…)"
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
        body: OciBody | None,
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
        self, connection: http.client.HTTPConnection, body: OciBody, patience: float
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

    def _authorise(self, answer: http.client.HTTPResponse, used: str | None) -> None:
        """Get what authorises requests, as the registry asks for it."""
        with self._lock:
            if self._authorization != used:
                return  # another thread was faster
            asked = challenge_in(answer.headers.get_all("WWW-Authenticate") or [])
            login = self._found_login()
            if asked is None:
                self._authorization = None
            elif "realm" in asked and asked[""] == "bearer":
                self._authorization = f"Bearer {self._new_token(asked, login)}"
            elif login is not None and asked[""] == "basic":
                if not is_private(self._origin):
                    reason = "a login would be sent to it without TLS"
                    raise self.refusal(reason, "use oci:// with a registry that speaks TLS")
                self._authorization = login.basic()

    def _found_login(self) -> OciLogin | None:
        if not self._looked_up:
            self._login, self._looked_up = login_of(self._address.host), True
        return self._login

    def _new_token(self, asked: Mapping[str, str], login: OciLogin | None) -> str:
        """Return a token for this repository, which the server gives that the registry names.

        What it is for is decided here, and not by the registry.
        """
        actions = "pull,push" if self._writes else "pull"
        scopes = [f"repository:{self._address.repository}:{actions}"]
        scopes += [f"repository:{other}:pull" for other in self._sources]
        values = [("service", service)] if (service := asked.get("service")) else []
        realm = self._joined(self._origin, asked["realm"])
        if login is not None and not is_private(realm):
            reason = "a login would be sent to its server of tokens without TLS"
            raise self.refusal(reason, "ask its owner")
        headers, body, method, url = {}, None, "GET", realm
        if login is not None and login.is_token:
            values += [("scope", " ".join(scopes)), ("client_id", "modpkg")]
            values += [("grant_type", "refresh_token"), ("refresh_token", login.secret)]
            data = urlencode(values).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            method, body = "POST", OciBody(len(data), lambda: iter((data,)))
        else:
            values += [("scope", scope) for scope in scopes]
            url += ("&" if urlsplit(realm).query else "?") + urlencode(values)
            if login is not None:
                headers["Authorization"] = login.basic()
        with self._sent(method, url, headers, body, None) as answer:
            data = _read(answer, bounds.OCI_ANSWER_BYTES)
        if answer.status in (401, 403):
            raise self.refusal("it does not accept this login", self._how_to_log_in())
        if answer.status in (408, 425, 429) or answer.status >= 500:
            after = retry_after(answer.headers.get("Retry-After", "")) or 0.0
            raise PassingFailure(f"its server of tokens answers with {answer.status}", after)
        token = token_in(data)
        if answer.status != 200 or token is None:
            reason = f"its server of tokens gives none (status {answer.status})"
            raise self.refusal(reason, "ask its owner")
        return token


def _read(answer: http.client.HTTPResponse, most: int) -> bytes:
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
