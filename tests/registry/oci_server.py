"""A small OCI registry whose answers tests choose, and which remembers what it was asked."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from modpkg.core.digests import Digest
from tests.registry.servers import LoopbackHttpServer

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


def digest_of(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


@dataclass
class Asked:
    """A request."""

    method: str
    path: str
    headers: Message
    body: bytes = b""


@dataclass
class FakeRegistry:
    """What is served: for a method and a path, what answers; and all requests so far."""

    port: int
    answers: dict[tuple[str, str], Callable[[Asked], Reply | None]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    take: Callable[[str, Any], bytes | None] = lambda path, read: None
    """Reads the body of a PATCH in place of the server; None reads all of it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"oci://127.0.0.1:{self.port}/team/model:1"

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """Give these answers one after the other, and the last one from then on."""
        left = list(replies)

        def next_reply(asked: Asked) -> Reply:
            return left.pop(0) if len(left) > 1 else left[0]

        self.answers[method, path] = next_reply

    def serve(self, data: bytes, *, kind: str = "blobs") -> Digest:
        """Serve bytes as a blob or a manifest."""
        digest = digest_of(data)
        names = [digest] if kind == "blobs" else [digest, "1"]
        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        for name in names:
            self.on("GET", f"/v2/team/model/{kind}/{name}", (200, headers, data))
        return digest

    def count(self, method: str, path: str = "") -> int:
        return sum(one.method == method and path in one.path for one in self.asked)


@contextmanager
def fake_registry() -> Iterator[FakeRegistry]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            length = int(self.headers.get("Content-Length") or 0)
            asked = Asked(self.command, self.path, self.headers)
            registry.asked.append(asked)
            part = registry.take(path, self.rfile.read) if self.command == "PATCH" else None
            if part is not None:
                asked.body = part
                self.close_connection = True
                return
            asked.body = self.rfile.read(length)
            found = registry.answers.get((self.command, path))
            reply = None if found is None else found(asked)
            status, headers, body = reply or (404, {}, b"")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = LoopbackHttpServer(("127.0.0.1", 0), Handler)
    registry = FakeRegistry(server.server_address[1])
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


def manifest_of(layers: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the manifest of a model with an empty config."""
    config = {"mediaType": "application/vnd.cncf.model.config.v1+json", "size": 2}
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": config | {"digest": digest_of(b"{}")},
        "layers": layers,
        **more,
    }


def layer_of(path: str | None, data: bytes, kind: str = "weight.config.v1.raw") -> dict[str, Any]:
    annotations = {} if path is None else {"org.cncf.model.filepath": path}
    return {
        "mediaType": f"application/vnd.cncf.model.{kind}",
        "digest": digest_of(data),
        "size": len(data),
        "annotations": annotations,
    }


def as_bytes(manifest: Any) -> bytes:
    return json.dumps(manifest).encode()
