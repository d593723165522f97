"""A proxy in front of a real server, that fails as servers and networks do."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit


class Passed(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    number: int
    """How many came before."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request; nothing by default."""

    status: int | None = None
    """Is answered without asking the server."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0
    """How late the request is passed on."""
    drop: bool = False
    """The connection is closed before the server is asked."""
    lose: bool = False
    """It is closed when the server has done what it was asked."""
    done_then: int | None = None
    """Is answered in place of the server's status, when that has done what it was asked."""
    cut: int | None = None
    """Bytes of the answer after which the connection is closed."""


class FaultyProxy:
    """Passes requests on to a server; ``fault`` decides about each."""

    def __init__(self, target: str) -> None:
        self.target = urlsplit(target).netloc
        self.fault: Callable[[Passed], Fault] = lambda request: Fault()
        self.seen: list[Passed] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def note(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Passed:
        with self._lock:
            passed = Passed(method, path, headers, body, len(self.seen))
            self.seen.append(passed)
            self.times.append(time.monotonic())
        return passed

    def sent(self, method: str = "PUT") -> int:
        """Return the bytes of the bodies that came."""
        return sum(len(passed.body) for passed in self.seen if passed.method == method)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask the server itself."""
        connection = http.client.HTTPConnection(self.target, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        own = {"host": self.target, **(headers or {})}
        for name, value in own.items():
            if name not in ("connection", "content-length", "transfer-encoding"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.headers), data


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: FaultyProxy

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that are killed hang up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _pass_on(self) -> None:
        proxy: FaultyProxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        passed = proxy.note(self.command, self.path, headers, body)
        fault = proxy.fault(passed)
        if fault.seconds:
            time.sleep(fault.seconds)
        if fault.drop:
            return self._hang_up()
        if fault.status is not None:
            return self._answer(fault.status, fault.headers, fault.body)
        status, theirs, data = proxy.request(self.command, self.path, body, headers)
        if fault.lose:
            return self._hang_up()
        if fault.done_then is not None:
            return self._answer(fault.done_then, {}, b"")
        return self._answer(status, theirs, data, fault.cut)

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None
    ) -> None:
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers.items():
            lower = name.lower()
            if lower == "content-length" and self.command == "HEAD":
                length = value
            if lower not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on
