"""Connections to the server: uvicorn's, which answer reads of small files by themselves.

What readers ask for again and again, index files and records, is answered where the request comes
in, from memory. All else goes by h11 and ASGI to the application, byte for byte as it came: so does
any request whose head is not one plain piece, has a body, or may come from somebody.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from modpkg.server.private_reading import may_differ
from modpkg.server.reading import FileAnswer, FilePart, answer_file, head_of

HEAD_SECONDS = 10
"""For how long a connection may take to send the head of a request."""
HEAD_BYTES = 32 << 10
"""Of the largest head that may come in pieces."""
IDLE_SECONDS = 75
"""For how long a connection is kept after an answer: longer than nginx keeps one to a server."""
_PLAIN = re.compile(
    rb"(GET|HEAD) (/[a-z0-9./-]{1,300}) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[\x20-\x7e]*\r\n)+)\r\n"
)
"""A whole request: its method, its path, and the lines of its headers.

No part of it can be matched in two ways, so that any bytes are judged in one pass.
"""
_LINE = re.compile(r"([^:\r\n]+):([^\r\n]*)\r\n")
_OTHERWISE = {"content-length", "expect", "te", "transfer-encoding", "upgrade"}
"""Headers of requests that are more than a plain read."""


def plain_read(data: bytes) -> tuple[str, str, dict[str, str]] | None:
    r"""Return the method, path and headers of a plain read of a file; None for all else.

    >>> plain_read(b"GET /registry.json HTTP/1.1\r\nHost: a\r\n\r\n")
    ('GET', '/registry.json', {'host': 'a'})
    >>> plain_read(b"GET /registry.json HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    """
    form = _PLAIN.fullmatch(data)
    if form is None:
        return None
    headers: dict[str, str] = {}
    count = 0
    for name, value in _LINE.findall(form[3].decode()):
        headers[name.lower()] = value.strip()
        count += 1
    if len(headers) != count or "host" not in headers or not _OTHERWISE.isdisjoint(headers):
        return None
    if headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    return form[1].decode(), form[2].decode(), headers


class _StrictHttp(h11.Connection):
    """HTTP/1.1 without a request whose end two servers may see at two places."""

    def next_event(self) -> Any:
        """Return what comes next.

        Raises:
            RemoteProtocolError: It is not HTTP, or a request with two lengths.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("a request with a length and in chunks")
        return event


class RegistryConnection(H11Protocol):
    """A connection of somebody who reads, publishes, or looks at pages."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        limit = self.config.h11_max_incomplete_event_size
        self.conn = _StrictHttp(h11.SERVER, limit or HEAD_BYTES)
        self._registry_server = self.app.registry_server
        self._answers_plain = not self._registry_server.files.waits
        self._is_between = True
        """Whether h11 has nothing of a request, and is at none."""
        self._is_idle = False
        """Whether nothing has come since the last answer."""
        self._ends = 0.0
        """When the connection is closed if no whole head has come, by the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._unset_timer()

    def data_received(self, data: bytes) -> None:
        """Answer a plain read at once, and leave all else to h11."""
        if (
            self._is_between
            and self._answers_plain
            and not self.flow.write_paused  # else what is not fetched would pile up
            and (read := plain_read(data)) is not None
            and self._answer(*read)
        ):
            self._rest()
            return
        self._is_between = False
        super().data_received(data)
        if self._is_waiting():
            was_idle = self._is_idle
            self._settle()
            if was_idle and not self._is_idle:
                self._wait(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # one timer is enough
        self._is_idle = False
        self._ends = self.loop.time() + HEAD_SECONDS
        if self._is_waiting():
            self._settle()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, unless an answer is under way, and close the connection."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.close()

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> bool:
        """Answer a read of a small file; return whether that is one, and the same for anybody."""
        server, header = self._registry_server, headers.get
        answer = answer_file(server.files, path, method, header)
        if answer is None or isinstance(answer.body, FilePart):
            return False
        if may_differ(server, path, header, answer):
            return False
        if answer.status == 200 and method == "GET":
            server.downloads.note(path)
        server.metrics.file_read(path, answer.status)
        self._send(answer, answer.body)
        return True

    def _send(self, answer: FileAnswer, body: bytes) -> None:
        own = b"".join([b"%b: %b\r\n" % pair for pair in self.server_state.default_headers])
        self.transport.write(b"%b%b\r\n%b" % (answer.head or head_of(answer), own, body))

    def _is_waiting(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    # Waiting -------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Look at what h11 has when no request is being answered."""
        states = self.conn.our_state, self.conn.their_state
        self._is_between = states == (h11.IDLE, h11.IDLE) and not self.conn.trailing_data[0]
        if self._is_between:
            self._rest()
        else:
            self._is_idle = False

    def _rest(self) -> None:
        """Wait for a request as long as a connection is kept for one."""
        self._is_idle = True
        self._ends = self.loop.time() + IDLE_SECONDS

    def _wait(self, seconds: float) -> None:
        self._unset_timer()
        self._ends = self.loop.time() + seconds
        self._timer = self.loop.call_at(self._ends, self._look)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Close the connection if it is time to; look again when it may be.

        There is one timer a connection, not one a request.
        """
        if self.transport.is_closing():
            return
        if not self._is_waiting():
            self._ends = self.loop.time() + HEAD_SECONDS
        if self.loop.time() < self._ends:
            self._timer = self.loop.call_at(self._ends, self._look)
        elif self._is_idle:
            self.transport.close()
        else:
            self.transport.abort()
