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
import threading
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import urlencode, urlsplit

from modpkg.core import bounds
from modpkg.core.errors import RegistryUnreachable
from modpkg.core.oci_address import OciAddress
from modpkg.manifest.normal_address import origin
from modpkg.registry.attempts import retry_after
from modpkg.registry.checked_requests import (
    CheckedRequests,
    RequestBody,
    WholeAnswer,
    read_answer,
)
from modpkg.registry.object_store import is_private
from modpkg.registry.oci_challenge import challenge_in, token_in
from modpkg.registry.oci_login import OciLogin, login_of
from modpkg.registry.request_tries import PassingFailure

_REDIRECTS = (301, 302, 303, 307, 308)
_ERROR_CODE = re.compile(rb'"code" ?: ?"([A-Z_]{1,60})"')


class OciRequests(CheckedRequests):
    """Requests about one repository. Thread-safe."""

    CLEAR = "oci+http://…"

    def __init__(
        self, address: OciAddress, *, writes: bool, silence: float = bounds.SILENCE_SECONDS
    ) -> None:
        """``writes`` is whether something will be pushed; ``silence`` is in seconds."""
        super().__init__(address.origin, silence=silence)
        self._address = address
        self._writes = writes
        self._lock = threading.Lock()
        self._authorization: str | None = None
        self._login: OciLogin | None = None
        self._looked_up = False
        self._sources: tuple[str, ...] = ()

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

    def refused(self, answer: WholeAnswer) -> RegistryUnreachable:
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
            method, body = "POST", RequestBody(len(data), lambda: iter((data,)))
        else:
            values += [("scope", scope) for scope in scopes]
            url += ("&" if urlsplit(realm).query else "?") + urlencode(values)
            if login is not None:
                headers["Authorization"] = login.basic()
        with self._sent(method, url, headers, body, None) as answer:
            data = read_answer(answer, bounds.OCI_ANSWER_BYTES)
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
