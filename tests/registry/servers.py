"""Real servers on this machine, for a registry's files: with ranges, faults and a memory."""

from __future__ import annotations

import http.client
import http.server
import re
import selectors
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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
    disable_nagle_algorithm = True  # or each body waits 40 ms for the headers' acknowledgement
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(
        self, status: int, body: bytes = b"", cut: int | None = None, **headers: str
    ) -> None:
        """Answer with this status and body; an underscore in a header's name is a hyphen.

        ``cut``: the answer breaks off after so many bytes.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
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

    def give(self, state: Server, *, cut: int | None = None) -> None:
        """Answer with the file, or the requested part; ``cut``: break off after so many bytes."""
        data = self.file()
        if data is None:
            self.answer(404)
            return
        more = {"ETag": '"1"'} if state.etag else {}
        status = 200
        if state.ranges and (asked := _RANGE.fullmatch(self.headers.get("Range", ""))):
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            if first > last:
                self.answer(416, Content_Range=f"bytes */{len(data)}")
                return
            status, more["Content_Range"] = 206, f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        self.answer(status, data, cut, **more)


class Proxy(Handler):
    """A forward proxy: forwards requests, in clear or through a tunnel."""

    def give(self, state: Server) -> None:
        parts = urlsplit(self.path)
        onward = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        onward.request("GET", parts.path, headers=dict(self.headers))
        answer = onward.getresponse()
        span = answer.headers.get("Content-Range")
        self.answer(answer.status, answer.read(), **({"Content_Range": span} if span else {}))
        onward.close()

    def do_CONNECT(self) -> None:
        self.server.state.seen.append(Seen("CONNECT", self.path, {}))
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as onward:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: onward, onward: self.connection}
            with selectors.DefaultSelector() as waiting:  # which has no limit of descriptors
                for end in ends:
                    waiting.register(end, selectors.EVENT_READ)
                while True:
                    for ready, _ in waiting.select(10):
                        data = ready.fileobj.recv(1 << 16)  # type: ignore[union-attr]
                        if not data:
                            self.hang_up()
                            return
                        ends[ready.fileobj].sendall(data)  # type: ignore[index]


class LoopbackHttpServer(http.server.ThreadingHTTPServer):
    """A server that many may ask at once: else who finds no place tries again a second later."""

    request_queue_size = 128


@contextmanager
def serve(
    folder: Path, handler: type[Handler] = Handler, *, certificate: Path | None = None
) -> Iterator[Server]:
    """Serve a folder on a free port of the loopback device, until the block ends.

    ``certificate`` has a key and a certificate for localhost, and makes it an HTTPS server.
    """
    state = Server(folder)
    with LoopbackHttpServer(("127.0.0.1", 0), handler) as running:
        running.state = state  # type: ignore[attr-defined]
        running.lock = threading.Lock()  # type: ignore[attr-defined]
        state.url = f"http://127.0.0.1:{running.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            running.socket = context.wrap_socket(running.socket, server_side=True)
            state.url = f"https://localhost:{running.server_port}"
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield state
        finally:
            running.shutdown()


def make_certificate(path: Path, host: str = "localhost") -> Path:
    """Write a key and a certificate for this machine under a name, signed by itself."""
    key = path.with_suffix(".key")
    names = f"subjectAltName=DNS:{host},IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(path), "-subj", "/CN=localhost", "-addext", names]
    command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def redirecting(to: str) -> Callable[[Handler, int], bool]:
    """Return a fault: every request is sent on to the same path elsewhere."""

    def fault(handler: Handler, number: int) -> bool:
        handler.answer(307, Location=to + handler.path)
        return True

    return fault


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


@contextmanager
def answering(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that answers as it likes, and yield its address.

    ``talk`` is called with each connection, after one request was read from it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                talk(connection)

        def listen() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
