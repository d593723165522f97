"""Speaking to a hub of models through `huggingface_hub`, where the user names one.

What a hub answers is bounded in size, time and count, and its errors become sentences. The hub
stays off for everything else in the process, as `modpkg.core.hub` has it: the client of
`huggingface_hub` is ours only within `open_hub`.
"""

from __future__ import annotations

import contextlib
import email.utils
import importlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError, NotFound, RegistryUnreachable
from modpkg.core.extras import import_extra
from modpkg.core.files import human_bytes
from modpkg.core.hub_address import (
    UNKNOWN_LOGIN,
    HubAddress,
    environment_token,
    hub_endpoint,
    hub_token,
    token_file,
)
from modpkg.core.progress import Progress
from modpkg.registry.hub_http import http_library, trusted
from modpkg.registry.hub_listing import HubListing, listing_of
from modpkg.registry.object_store import is_private
from modpkg.registry.pace import Pace

T = TypeVar("T")

RETRIES = 5
"""How often a request is tried again that a hub or the network fails."""
_LATER = (408, 429, 500, 502, 503, 504)
_LIMIT = re.compile(r'"\w+"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})')
_DOWNLOAD = "modpkg-download"
"""Marks a request whose body is a file of the repository, and not an answer of the hub's API."""


class HubClient:
    """A hub, while `open_hub` has it open."""

    def __init__(self, hub: Any, http: Any, endpoint: str, progress: Progress | None) -> None:
        self.hub = hub
        """The package `huggingface_hub`."""
        self.endpoint = endpoint
        self.token = _token(hub) if is_private(endpoint) else None
        self.api = hub.HfApi(endpoint=endpoint, token=self.token or False)
        self._http = http
        self._progress = progress or Progress()

    def listing(self, address: HubAddress) -> HubListing:
        """Return the files of a repository, at the commit that its revision is now.

        Raises:
            NotFound: There is no such repository or revision, or it is hidden.
            RegistryUnreachable: The hub does not tell, or its answer is malformed.
        """

        def ask() -> Any:
            return self.api.model_info(
                address.repository,
                revision=address.revision,
                files_metadata=True,
                timeout=bounds.SILENCE_SECONDS,
            )

        info = self.patiently(ask, address)
        try:
            return listing_of(address, info.sha, info.siblings, info.last_modified)
        except (AttributeError, TypeError, ValueError) as error:
            raise self.malformed(address, str(error)) from None

    def head(self, address: HubAddress) -> str:
        """Return the commit that a branch is at now.

        Raises:
            NotFound, RegistryUnreachable: As for `listing`.
        """

        def ask() -> Any:
            return self.api.model_info(
                address.repository, revision=address.revision, timeout=bounds.SILENCE_SECONDS
            )

        sha = self.patiently(ask, address).sha
        if not isinstance(sha, str) or not address.at(sha).pinned:
            raise self.malformed(address, "it names no commit")
        return sha

    def stream(self, address: HubAddress, start: int = 0) -> Iterator[bytes]:
        """Yield a file's bytes from ``start``; an answer that breaks off is gone on with.

        Raises:
            NotFound: The hub has no such file.
            RegistryUnreachable: It cannot be read.
        """
        failures = (self._http.RequestError, self.hub.errors.HfHubHTTPError)
        at, tries, waited = start, 0, 0.0
        pace = Pace(self.endpoint, str(address), timedelta(seconds=bounds.SILENCE_SECONDS))
        while True:
            tries += 1
            try:
                pace.begin()
                for chunk in self._body(address, at, pace):
                    at += len(chunk)
                    tries = 1
                    yield chunk
                return
            except failures as error:
                waited = self._pause(error, address, tries, waited)

    def _body(self, address: HubAddress, start: int, pace: Pace) -> Iterator[bytes]:
        headers = self.hub.utils.build_hf_headers(token=self.token or False)
        if start:
            headers["Range"] = f"bytes={start}-"
        session = self.hub.get_session()
        request = session.build_request(
            "GET", address.https(self.endpoint), headers=headers, extensions={_DOWNLOAD: True}
        )
        response = pace.timed(
            lambda: session.send(request, stream=True, follow_redirects=True),
            bounds.ANSWER_SECONDS,
        )
        try:
            if response.status_code == 416:  # nothing is left of it
                return
            self.hub.utils.hf_raise_for_status(response)
            skip = 0
            if start and response.status_code != 206:
                skip = start
            elif start and not response.headers.get("Content-Range", "").startswith(
                f"bytes {start}-"
            ):
                raise self.malformed(address, "it sent another part than was asked for")
            chunks = response.iter_raw()
            while (chunk := pace.timed(lambda: next(chunks, None))) is not None:
                pace.arrived(len(chunk))
                kept, skip = chunk[skip:], max(skip - len(chunk), 0)
                if kept:
                    yield kept
        finally:
            response.close()

    def patiently(self, ask: Callable[[], T], address: HubAddress) -> T:
        """Return what a request returns; it is tried again where that may help.

        Raises:
            NotFound, RegistryUnreachable: It fails.
        """
        failures = (self._http.RequestError, self.hub.errors.HfHubHTTPError)
        tries, waited = 0, 0.0
        try:
            while True:
                tries += 1
                try:
                    return ask()
                except failures as error:
                    waited = self._pause(error, address, tries, waited)
        except ModpkgError:
            raise
        except RecursionError:
            raise self.malformed(address, "it is nested too deeply") from None
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise self.malformed(address, f"{type(error).__name__}: {error}") from None

    def _pause(self, error: Exception, address: HubAddress, tries: int, waited: float) -> float:
        """Wait before the next attempt; return how long was waited in all.

        Raises:
            NotFound, RegistryUnreachable: Another attempt would not help, or there were enough.
        """
        response = getattr(error, "response", None)
        if not self.is_passing(error) or tries > RETRIES:
            raise self.refusal(error, address)
        asked = None if response is None else _asked_to_wait(response.headers)
        pause = asked if asked is not None else min(0.1 * 2**tries, 2.0)
        if waited + pause > bounds.HUB_WAIT_SECONDS:
            raise self.refusal(error, address)
        if pause >= 1:
            self._progress.detail(f"The hub asks to wait for {pause:.0f} seconds")
        time.sleep(pause)
        return waited + pause

    def cause_of(self, error: BaseException) -> BaseException:
        """Return what a hub or the network did, of an error that `huggingface_hub` has wrapped."""
        own = (self._http.RequestError, self.hub.errors.HfHubHTTPError, ModpkgError)
        while not isinstance(error, own) and error.__cause__ is not None:
            error = error.__cause__
        return error

    def is_passing(self, error: BaseException) -> bool:
        """Return whether the same request may succeed later."""
        lost = isinstance(error, self._http.TransportError)
        lost = lost and not isinstance(error, self._http.UnsupportedProtocol)
        return lost or status_of(error) in _LATER

    def wait_after(self, error: Exception, address: HubAddress) -> None:
        """Wait as long as the hub asks for, where it does.

        Raises:
            RegistryUnreachable: That is too long.
        """
        self._pause(error, address, 1, 0.0)

    def refusal(self, error: Exception, address: HubAddress) -> ModpkgError:
        """Return the error to raise for what a request raised."""
        errors = self.hub.errors
        page = f"{self.endpoint}/{address.repository}"
        response = getattr(error, "response", None)
        status = None if response is None else response.status_code
        login = "run 'hf auth login', or set HF_TOKEN"
        if self.token is not None:
            login = f"{login} to another token"
        if isinstance(error, errors.GatedRepoError):
            if self.token is None:
                reason = "its owner decides who may read it, and no token was found"
                remedy = f"ask for access at {page}, then {login}"
            else:
                reason = "its owner has not given your account access to it"
                remedy = f"ask for access at {page} (or {login}), and run the command again then"
            return RegistryUnreachable("M861", address=address, reason=reason, remedy=remedy)
        if isinstance(error, errors.RevisionNotFoundError):
            reason = f"the repository has no branch, tag or commit {address.revision or 'main'!r}"
            return NotFound("M862", address=address, reason=reason, remedy=f"see {page}")
        if isinstance(error, errors.EntryNotFoundError):
            reason = "the repository has no such file"
            return NotFound("M862", address=address, reason=reason, remedy=f"see {page}")
        wrong = "nvalid credentials" in str(getattr(error, "server_message", None) or error)
        if status == 401 and self.token is not None and wrong:
            return RegistryUnreachable("M861", address=address, reason=UNKNOWN_LOGIN, remedy=login)
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
            reason = "the hub has no such model, or it is a private one"
            remedy = f"correct the name; for a private one, {login}"
            return NotFound("M862", address=address, reason=reason, remedy=remedy)
        if status == 403:
            reason = "the hub forbids it to your account"
            return RegistryUnreachable("M861", address=address, reason=reason, remedy=login)
        if status == 429 and response is not None:
            asked = _asked_to_wait(response.headers)
            return limited(self.endpoint, asked)
        if status is not None:
            return self.unusable(f"it answered with status {status} about {address}")
        return self.unusable(_of_the_network(error, self._http))

    def malformed(self, address: HubAddress, reason: str) -> RegistryUnreachable:
        """Return the error for an answer that no hub gives."""
        return self.unusable(f"its answer about {address} is not one of a hub ({reason[:300]})")

    def unusable(self, reason: str) -> RegistryUnreachable:
        """Return the error for a hub that cannot be used."""
        return unusable(self.endpoint, reason)


def status_of(error: BaseException) -> int | None:
    """Return the status of the answer that an error is about; None if there was no answer."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def unusable(endpoint: str, reason: str) -> RegistryUnreachable:
    """Return the error for a hub that cannot be used."""
    return RegistryUnreachable("M863", url=endpoint, reason=reason)


def limited(endpoint: str, seconds: float | None) -> RegistryUnreachable:
    """Return the error for a hub that wants fewer requests."""
    when = "later" if seconds is None else f"in {seconds:.0f} seconds"
    reason = f"it limits the rate of requests; run the command again {when}"
    if hub_token() is None:
        reason += ", or with a token (hf auth login), with which more are allowed"
    return unusable(endpoint, reason)


def _of_the_network(error: Exception, http: Any) -> str:
    if isinstance(error, http.ConnectError):
        return "no connection to it could be made"
    if isinstance(error, http.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, http.TooManyRedirects):
        return "it redirects in a circle"
    if isinstance(error, http.RemoteProtocolError | http.NetworkError):
        return "it closed the connection before its answer was complete"
    return f"the request failed ({type(error).__name__})"


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds after which a server wants the next request; None if it does not tell."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    if text:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            then = email.utils.parsedate_to_datetime(text)
            now = email.utils.parsedate_to_datetime(headers["Date"])  # not by this machine's clock
            return max((then - now).total_seconds(), 0.0)
    found = _LIMIT.search(headers.get("RateLimit", ""))
    return float(found[1]) + 1 if found else None


def _token(hub: Any) -> str | None:
    """Return the token to send; one of a login in a browser is renewed where it has to be."""
    own = hub_token()
    if own is None or own == environment_token():
        return own
    if str(token_file()) != str(hub.constants.HF_TOKEN_PATH):
        return own
    try:
        return hub.get_token() or own
    except Exception:  # a renewal that fails; the hub will refuse the old one
        return own


@contextlib.contextmanager
def open_hub(what: str, progress: Progress | None = None) -> Iterator[HubClient]:
    """Let `huggingface_hub` speak to the hub in this block.

    Args:
        what: What needs it, as the subject of a sentence.
        progress: Shows waits.

    Raises:
        MissingExtra: `huggingface_hub` is not installed.
        RegistryError: ``HF_ENDPOINT`` is no address.
    """
    endpoint = hub_endpoint()
    hub = import_extra("huggingface_hub", what=what, extra="hub")
    for part in ("errors", "utils", "constants"):
        importlib.import_module(f"huggingface_hub.{part}")
    with _LOCK:
        http = http_library(hub)
        if not _open:
            _take(hub, http, endpoint)
        _open.append(endpoint)
    try:
        yield HubClient(hub, http, endpoint, progress)
    finally:
        with _LOCK:
            _open.remove(endpoint)
            if not _open:
                _give_back(hub)


_LOCK = threading.RLock()
_open: list[str] = []
"""The hubs that are open, in all threads."""
_before: list[Any] = []
"""Whether bars of progress were off before, what was logged, whether Xet and telemetry were off."""


def _take(hub: Any, http: Any, endpoint: str) -> None:
    """Let the requests of `huggingface_hub` be made by a client of ours."""

    def answered(response: Any) -> None:
        _check_answer(endpoint, http, response)

    def asked(request: Any) -> None:
        request.headers["Accept-Encoding"] = "identity"
        if urlsplit(endpoint).scheme == "https" and request.url.scheme != "https":
            raise unusable(endpoint, "it redirects to an address without TLS")

    def made() -> Any:
        limits = {"connect": bounds.CONNECT_SECONDS, "pool": None}
        silence = {"read": bounds.SILENCE_SECONDS, "write": bounds.SILENCE_SECONDS}
        return http.Client(
            event_hooks={"request": [asked], "response": [answered]},
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=http.Timeout(**limits, **silence),
            verify=trusted(http),
        )

    _before[:] = [
        hub.utils.are_progress_bars_disabled(),
        hub.utils.logging.get_verbosity(),
        hub.constants.HF_HUB_DISABLE_XET,
        hub.constants.HF_HUB_DISABLE_TELEMETRY,
    ]
    hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    hub.constants.HF_HUB_DISABLE_XET = True  # its own client has none of these bounds
    hub.utils.disable_progress_bars()
    hub.utils.logging.set_verbosity_error()
    hub.set_client_factory(made)


def _give_back(hub: Any) -> None:
    """Undo `_take`."""
    own = importlib.import_module("huggingface_hub.utils._http").default_client_factory
    hub.set_client_factory(own)
    hub.utils.logging.set_verbosity(_before[1])
    hub.constants.HF_HUB_DISABLE_XET = _before[2]
    hub.constants.HF_HUB_DISABLE_TELEMETRY = _before[3]
    if not _before[0]:
        hub.utils.enable_progress_bars()


def _check_answer(endpoint: str, http: Any, response: Any) -> None:
    """Bound an answer before anything of its body is read.

    Raises:
        RegistryUnreachable: It is packed, or asks to wait for very long.
    """
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise unusable(endpoint, "its answer is compressed, which was not asked for")
    if response.status_code in _LATER:
        seconds = _asked_to_wait(response.headers)
        if seconds is not None and seconds > bounds.HUB_WAIT_SECONDS:
            raise limited(endpoint, seconds)
    if _DOWNLOAD in response.request.extensions and response.is_success:
        return
    response.stream = _bounded(endpoint, http, response.stream)


def _bounded(endpoint: str, http: Any, body: Any) -> Any:
    """Return the stream of an answer's body that ends with an error where it is too large."""

    class Bounded(http.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            size = values = 0
            began = time.monotonic()
            for chunk in body:
                size += len(chunk)
                values += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{")
                if size > bounds.HUB_ANSWER_BYTES:
                    raise unusable(endpoint, f"it answers with {_over(bounds.HUB_ANSWER_BYTES)}")
                if values > bounds.HUB_ANSWER_VALUES:
                    most = f"{bounds.HUB_ANSWER_VALUES:,}"
                    raise unusable(endpoint, f"it answers with over {most} values")
                if time.monotonic() - began > bounds.HUB_ANSWER_SECONDS:
                    most = f"{bounds.HUB_ANSWER_SECONDS} seconds"
                    raise unusable(endpoint, f"it took over {most} to answer")
                yield chunk

        def close(self) -> None:
            body.close()

    return Bounded()


def _over(count: int) -> str:
    return f"over {human_bytes(count)}"
