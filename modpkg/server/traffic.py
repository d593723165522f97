"""What holds for every request that is not for a file: its number, its pace, its line in the log.

Files of the registry are answered before this: they are counted, and neither logged nor limited.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException

from modpkg.core.errors import AccessRefused, ModpkgError
from modpkg.registry.api_records import ErrorAnswer
from modpkg.server.addresses import address_of, is_loopback
from modpkg.server.metrics import Metrics
from modpkg.server.rate_limits import RateLimits
from modpkg.server.request_log import log, log_failure, route_of, shown_path
from modpkg.server.settings import ServerSettings

Inner = Callable[[Any, Any, Any], Awaitable[None]]
UNLIMITED = ("/healthz", "/readyz", "/metrics")
"""Paths that whoever looks after the server asks for."""
PIECE_SECONDS = 30
"""For how long nothing of a body may come."""
SLOW_AFTER = 60
SLOWEST = 1_000
"""Bytes a second that a body has to bring after `SLOW_AFTER` seconds."""
_NUMBER = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_API = "/api/"


class Traffic:
    """The requests of one server, in one process."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        limits = settings.limits
        self._limits = RateLimits(limits.requests_per_second, limits.requests_at_once)
        self.own_headers = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
        ]
        if settings.is_secure:
            self.own_headers.append((b"strict-transport-security", b"max-age=31536000"))

    async def answer(self, app: Inner, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request by the application, and count and log it."""
        exchange = _Exchange(self, scope, receive, send)
        self.metrics.under_way.inc()
        try:
            try:
                self._count(scope, exchange.address)
            except AccessRefused as refusal:
                self.metrics.limited.inc()
                await _send_refusal(exchange.send, refusal)
                return
            await app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.failed(error)
            raise
        finally:
            self.metrics.under_way.dec()
            exchange.ended()

    def note_error(self, error: Exception, scope: Any) -> None:
        """Count an error that a handler ended with, and log it if nobody foresaw it."""
        if isinstance(error, ModpkgError):
            self.metrics.refused(error.code)
        elif not isinstance(error, HTTPException) or error.status_code >= 500:
            self.metrics.failures.inc()
            log_failure(error, request=scope.get("state", {}).get("request_number", "-"))

    def _count(self, scope: Any, address: str) -> None:
        """Count a request for its address and its token.

        This machine has no address that counts: a proxy on it that the settings do not name speaks
        for everybody.
        """
        if scope["path"] in UNLIMITED:
            return
        tokens = [value for name, value in scope["headers"] if name == b"authorization"]
        clients = [hashlib.sha256(token).hexdigest() for token in tokens[:1]]
        self._limits.count(clients if is_loopback(address) else [address, *clients])


class _Exchange:
    """One request and its answer."""

    def __init__(self, traffic: Traffic, scope: Any, receive: Any, send: Any) -> None:
        self._traffic = traffic
        self._scope, self._receive, self._send = scope, receive, send
        self._begun = time.perf_counter()
        self._received = self._sent = self._status = 0
        self._is_whole = False
        connection: ASGIConnection[Any, Any, Any, Any] = ASGIConnection(scope)
        self.address = address_of(traffic.settings, connection)
        self.number = _number_of(scope)
        scope.setdefault("state", {})["request_number"] = self.number

    async def receive(self) -> Any:
        """Receive a piece of the body, unless it comes too slowly.

        Raises:
            HTTPException: It does, or the caller has gone before its end.
        """
        try:
            with anyio.fail_after(None if self._is_whole else PIECE_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException("The request came too slowly.", status_code=408) from None
        if message["type"] == "http.disconnect" and not self._is_whole:
            raise HTTPException("The caller has gone.", status_code=400)
        self._is_whole = not message.get("more_body")
        if body := message.get("body"):
            self._received += len(body)
            seconds = time.perf_counter() - self._begun
            if seconds > SLOW_AFTER and self._received < seconds * SLOWEST and not self._is_whole:
                raise HTTPException("The request came too slowly.", status_code=408)
        return message

    async def send(self, message: Any) -> None:
        """Send a part of the answer, with the headers that all have."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": self._headers(message.get("headers", ()))}
        elif body := message.get("body"):
            self._sent += len(body)
        await self._send(message)

    def _headers(self, given: Any) -> list[tuple[bytes, bytes]]:
        headers = [*given]
        known = {bytes(name).lower() for name, _ in headers}
        own = [*self._traffic.own_headers, (b"x-request-id", self.number.encode())]
        if self._scope["path"].startswith(_API):
            own += [
                (b"cache-control", b"no-store"),
                (b"content-security-policy", b"default-src 'none'"),
            ]
        return [*headers, *(pair for pair in own if pair[0] not in known)]

    def failed(self, error: BaseException) -> None:
        """Note that the application let an error through."""
        self._status = self._status or 500
        if isinstance(error, Exception):
            log_failure(error, request=self.number)

    def ended(self) -> None:
        """Count and log the request."""
        seconds = time.perf_counter() - self._begun
        scope, metrics = self._scope, self._traffic.metrics
        metrics.request_answered(scope["method"], route_of(scope), self._status, seconds)
        metrics.received.inc(self._received)
        metrics.sent.inc(self._sent)
        if scope["path"] in UNLIMITED and self._status == 200:
            return
        caller = scope.get("state", {}).get("caller")
        log(
            "request",
            request=self.number,
            method=scope["method"],
            path=shown_path(scope),
            status=self._status,
            ms=round(seconds * 1000, 1),
            received=self._received,
            sent=self._sent,
            address=self.address,
            account=getattr(caller, "name", "") or "-",
        )


def _number_of(scope: Any) -> str:
    """Return the number of a request: what a proxy has given it, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _NUMBER.fullmatch(value):
            text: str = value.decode()
            return text
    return secrets.token_hex(8)


async def _send_refusal(send: Any, refusal: AccessRefused) -> None:
    body = msgspec.json.encode(ErrorAnswer(refusal.code, str(refusal)))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(refusal.values["seconds"]).encode()),
    ]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
