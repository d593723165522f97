"""A web server for one folder that counts what it sends."""

from __future__ import annotations

import re
import threading
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, cast

RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class CountingServer:
    """Serves a folder over HTTP with ranges and ETags, as nginx would, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent: Counter[str] = Counter()
        """Bytes of bodies that were sent, by path."""
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def count(self, path: str, more: int) -> None:
        """Add to the bytes that were sent of a path."""
        with self._lock:
            self.sent[path] += more

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server: CountingServer, *rest: object) -> None:
        self.counting = server
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Send a file or a part of it."""
        path = self.counting.folder / self.path.lstrip("/")
        if not path.is_file():
            self._head(404, 0)
            return
        status = path.stat()
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        if self.headers.get("If-None-Match") == tag:
            self._head(304, 0, {"ETag": tag})
            return
        start, stop, extra = 0, status.st_size, {"ETag": tag, "Accept-Ranges": "bytes"}
        asked = RANGE.fullmatch(self.headers.get("Range", ""))
        if asked:
            first, last = asked.groups()
            start = int(first) if first else max(0, status.st_size - int(last))
            stop = min(status.st_size, int(last) + 1) if first and last else status.st_size
            if start >= stop:
                self._head(416, 0)
                return
            extra["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        self._head(206 if asked else 200, stop - start, extra)
        if self.command == "GET":
            with open(path, "rb") as file:
                file.seek(start)
                _copy(file, cast(BinaryIO, self.wfile), stop - start)
            self.counting.count(self.path, stop - start)

    do_HEAD = do_GET  # noqa: N815

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    while length and (chunk := source.read(min(length, 1 << 20))):
        target.write(chunk)
        length -= len(chunk)
