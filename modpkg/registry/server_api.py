"""The API of a registry that is served: requests with records, answered with records.

A token goes to the origin that it is for, and to nobody else: no redirect is followed, and
``registry.json`` leads to another server only if the user's settings say the same.
"""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import (
    CLASSES,
    AccessRefused,
    ModpkgError,
    RegistryError,
    RegistryUnreachable,
    UsageError,
    reported_error,
)
from modpkg.core.home import config_path
from modpkg.core.redacted import redacted
from modpkg.manifest.config import Settings
from modpkg.manifest.logins import Login
from modpkg.manifest.normal_address import normal_address, origin, origin_text
from modpkg.registry.api_records import ErrorAnswer
from modpkg.registry.attempts import retry_after
from modpkg.registry.checked_requests import (
    CheckedRequests,
    RequestBody,
    WholeAnswer,
    read_answer,
)
from modpkg.registry.object_store import is_private
from modpkg.registry.open_source import open_configured
from modpkg.registry.reader import Registry
from modpkg.registry.request_tries import PassingFailure

Answer = TypeVar("Answer")
_BUSY = (408, 425, 429)
_LIMITS = ("M434", "M484")
"""The errors that say how long to wait."""
_REDIRECTS = (301, 302, 303, 307, 308)


class ServerApi(CheckedRequests):
    """The API of one registry, asked by one user. Thread-safe."""

    CLEAR = "http://…, on this machine"

    def __init__(
        self,
        registry: str,
        address: str,
        login: Login | None = None,
        *,
        silence: float = bounds.SILENCE_SECONDS,
    ) -> None:
        """``address`` is that of the API, and ``registry`` that of the registry, for messages.

        Raises:
            RegistryError: The login would be sent in plain text.
        """
        scheme, netloc = urlsplit(address)[:2]
        super().__init__(f"{scheme}://{netloc}", silence=silence)
        self.registry = redacted(registry)
        self._address = address.rstrip("/")
        if login is not None and not is_private(address):
            raise RegistryError("M315", url=self._origin, config=config_path())
        self._authorization = None if login is None else login.authorization()
        self._echoes = () if login is None else login.echoes()

    @property
    def origin(self) -> str:
        """Return scheme, host and port of the API, for which a login is."""
        return origin_text(self._origin)

    def with_login(self, login: Login | None) -> ServerApi:
        """Return the same API, asked by somebody else.

        Raises:
            RegistryError: The login would be sent in plain text.
        """
        return ServerApi(self.registry, self._address, login, silence=self._silence)

    @property
    def has_login(self) -> bool:
        """Return whether anything is known that says who asks."""
        return self._authorization is not None

    def check_login(self, what: str) -> None:
        """Check that there is a login to send.

        Raises:
            AccessRefused: There is none; ``what`` needs it, as in "publish".
        """
        if not self.has_login:
            raise AccessRefused("M521", what=what, url=self.registry)

    def request(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        record: Struct | None = None,
        *,
        again: bool | None = None,
        silence: float | None = None,
    ) -> Answer:
        """Return the record that is answered.

        Args:
            method: Of HTTP.
            path: Below the API's address; see `api_path`.
            kind: The record that is expected.
            record: What is sent.
            again: Whether the request may be sent twice where no answer came; by default all but
                those that are posted may.
            silence: How long the server may take to answer, in seconds.

        Raises:
            UsageError: The record has a text that is too long, or such that no server takes it.
            ModpkgError: The server refuses it; the code is what the server says.
            RegistryUnreachable: It cannot be asked, or does not answer as servers of modpkg do.
        """
        answer = self._asked(method, path, record, again, silence)
        return self.decoded(answer, kind, path)

    def url(self, path: str) -> str:
        """Return the address of a request."""
        return f"{self._address}/{path}"

    def prepare(self, kind: type[Struct]) -> None:
        """Make ready what reads a record, before threads do."""
        _decoder(kind)
        _decoder(ErrorAnswer)

    def decoded(self, answer: WholeAnswer, kind: type[Answer], path: str) -> Answer:
        """Return the record in an answer.

        Raises:
            RegistryUnreachable: It is not what servers of modpkg answer.
        """
        try:
            decoded: Answer = _decoder(kind).decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self.refusal(
                f"its answer to {path} is not what this version of modpkg understands",
                "update modpkg, or ask its owner to update the server",
            ) from None
        return decoded

    def send(
        self, method: str, path: str, record: Struct | None = None, *, again: bool | None = None
    ) -> None:
        """Send a request whose answer says no more than that it was done; see `request`.

        Raises:
            What `request` raises.
        """
        self._asked(method, path, record, again)

    def _asked(
        self,
        method: str,
        path: str,
        record: Struct | None,
        again: bool | None,
        silence: float | None = None,
    ) -> WholeAnswer:
        body, headers = None, {"Accept": "application/json"}
        if record is not None:
            data = _checked(record)
            body = RequestBody(len(data), lambda: iter((data,)))
            headers["Content-Type"] = "application/json"
        url = self.url(path)
        expected = range(200, 300)
        if again is None:
            again = method != "POST"
        if again:
            answer = self.ask(
                method,
                url,
                expect=expected,
                headers=headers,
                body=body,
                most=bounds.API_ANSWER_BYTES,
                silence=silence,
            )
        else:
            answer = self._asked_once(method, url, headers, body, silence)
        if any(secret in answer.body for secret in self._echoes):
            raise RegistryError("M897", url=self._origin, path=path, config=config_path())
        return answer

    def _asked_once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: RequestBody | None,
        silence: float | None,
    ) -> WholeAnswer:
        try:
            with self.open(method, url, headers=headers, body=body, silence=silence) as answer:
                data = read_answer(answer, bounds.API_ANSWER_BYTES)
                got = WholeAnswer(answer.status, answer.headers, data)
        except PassingFailure as failure:
            raise (failure.error or self.refusal(failure.reason, "try again")) from None
        if got.status not in range(200, 300):
            raise self.refused(got)
        return got

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: RequestBody | None = None,
        silence: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        sent = dict(headers or {})
        if self._authorization is not None and origin(url) == origin(self._origin):
            sent["Authorization"] = self._authorization
        with self.open_signed(method, url, headers=sent, body=body, silence=silence) as answer:
            yield answer

    @contextlib.contextmanager
    def open_signed(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: RequestBody | None = None,
        silence: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request to where the server says, which its address authorises; see `open`."""
        with self._sent(method, url, headers, body, silence) as answer:
            status = answer.status
            if status in _REDIRECTS:
                reason = f"it redirects to another address (status {status})"
                raise self.refusal(reason, "use the address that it redirects to, if it is right")
            if status in _BUSY or (status >= 500 and status != 507):
                after = retry_after(answer.headers.get("Retry-After", "")) or 0.0
                raise PassingFailure(
                    f"it answers with status {status}", after, self._said_when_busy(answer)
                )
            self._check_encoding(answer)
            yield answer

    def _said_when_busy(self, answer: http.client.HTTPResponse) -> ModpkgError | None:
        """Return the error of a server that limits attempts or requests; None if it gives none."""
        if answer.status != 429:
            return None
        data = read_answer(answer, bounds.API_ANSWER_BYTES)
        error = self.refused(WholeAnswer(answer.status, answer.headers, data))
        return error if error.code in _LIMITS else None

    def refused(self, answer: WholeAnswer) -> ModpkgError:
        """Return the error that the server answers with, or one for its status.

        An error of the code that the server gives is of that code's class, whatever it is.
        """
        try:
            given = _decoder(ErrorAnswer).decode(answer.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            given = None
        if given is not None and given.code in CLASSES:
            sentence = f"The server at {self._origin} answers: {given.message}"
            return reported_error(given.code, sentence)
        remedy = "update modpkg, or ask its owner to update the server"
        if given is not None:
            return self.refusal(f"it answers {given.message[:300]!r}", remedy)
        if answer.status in (401, 403):
            remedy = f"log in: run 'modpkg login {self.registry}'"
        elif answer.status == 413:
            remedy = "ask its owner to let more through, or whoever runs a proxy before it"
        return self.refusal(f"it answers with status {answer.status}", remedy)

    def refusal(self, reason: str, remedy: str) -> RegistryUnreachable:
        return RegistryUnreachable("M520", url=self._origin, reason=reason, remedy=remedy)


_decoders: dict[Any, Any] = {}


def _decoder(kind: Any) -> Any:
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind)
    return _decoders[kind]


def _checked(record: Struct) -> bytes:
    """Return a record as it is sent.

    Raises:
        UsageError: No server takes it, as where a text is too long.
    """
    try:
        data = msgspec.json.encode(record)
        _decoder(type(record)).decode(data)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        message = f"This cannot be sent to the server: {decoding_reason(error)}."
        raise UsageError("M901", message=message) from None
    return data


def api_path(*parts: object) -> str:
    """Return the path of a request, whose parts are quoted.

    >>> api_path("modules", "words", "candidates", 7)
    'modules/words/candidates/7'
    """
    return "/".join(quote(str(part), safe="") for part in parts)


def open_api(address: str, settings: Settings) -> ServerApi | None:
    """Return the API of the registry at an address; None if it is none that is served.

    Raises:
        RegistryError: ``registry.json`` names one at another origin, which the settings do not.
        NotFound, RegistryUnreachable: There is no registry, or it cannot be read.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        return None
    registry = settings.of(address)
    api = registry.api
    if api is None:
        source = open_configured(address, None, settings)
        api = Registry(address, source=source).info.api
        if api is None:
            return None
        try:
            same = origin(api) == origin(address)
        except ValueError:  # not a port
            same = False
        if not same:
            url = redacted(normal_address(address))
            raise RegistryError("M522", url=url, api=redacted(api), config=config_path())
    login = registry.login if origin(api) == origin(address) else settings.of(api).login
    return ServerApi(address, api, login)
