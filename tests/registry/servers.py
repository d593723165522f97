"""Real servers on this machine, for a registry's files: with ranges, faults and a memory."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")


class Seen(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""


class Server:
    """A server of the files in a folder; what it does with a request can be set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Seen] = []
        self.ranges = True
        self.etag = False
        self.fault: Callable[[Handler, int], bool] = lambda handler, number: False
        """Called with each request and how many came before; True when it has answered."""
        self.url = ""

    def paths(self) -> list[str]:
        return [seen.path for seen in self.seen]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer with this status and body; an underscore in a header's name is a hyphen."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def cut(self, body: bytes, after: int) -> None:
        """Promise ``body``, send so many bytes of it, and close the connection."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:after])
        self.wfile.flush()
        self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True

    def file(self) -> bytes | None:
        try:
            return (self.server.state.folder / self.path.lstrip("/")).read_bytes()
        except OSError:
            return None

    def do_GET(self) -> None:
        state: Server = self.server.state
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            number = len(state.seen)
            state.seen.append(Seen(self.command, self.path, headers))
        try:
            if not state.fault(self, number):
                self.give(state)
        except (BrokenPipeError, ConnectionResetError):
            self.hang_up()  # the other side had enough

    def give(self, state: Server) -> None:
        data = self.file()
        if data is None:
            self.answer(404)
            return
        more = {"ETag": '"1"'} if state.etag else {}
        asked = _RANGE.fullmatch(self.headers.get("Range", "")) if state.ranges else None
        if asked is None:
            self.answer(200, data, **more)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if first > last:
            self.answer(416, Content_Range=f"bytes */{len(data)}")
            return
        span = f"bytes {first}-{last}/{len(data)}"
        self.answer(206, data[first : last + 1], Content_Range=span, **more)


@contextmanager
def serve(folder: Path, handler: type[Handler] = Handler) -> Iterator[Server]:
    """Serve a folder on a free port of the loopback device, until the block ends."""
    state = Server(folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        running.state = state  # type: ignore[attr-defined]
        running.lock = threading.Lock()  # type: ignore[attr-defined]
        state.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield state
        finally:
            running.shutdown()


def failing(times: int, status: int) -> Callable[[Handler, int], bool]:
    """Return a fault: the first requests are answered with a status."""

    def fault(handler: Handler, number: int) -> bool:
        if number < times:
            handler.answer(status)
            return True
        return False

    return fault


def hanging(seconds: float) -> Callable[[Handler, int], bool]:
    """Return a fault: no request is answered."""

    def fault(handler: Handler, number: int) -> bool:
        time.sleep(seconds)
        handler.hang_up()
        return True

    return fault
