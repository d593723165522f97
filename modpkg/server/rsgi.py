"""Granian's own interface to the application: files are answered at once, the rest goes by ASGI.

A request by ASGI is a dozen dicts and calls between the server and the application; by granian's
interface it is one call, and a file of the disk is sent without Python.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.to_thread

from modpkg.server.file_answers import ServerApp, next_chunk
from modpkg.server.private_reading import answer_known, may_differ
from modpkg.server.reading import FILES, FileAnswer, FilePart, answer_file


class RsgiApp:
    """The application of a server, for granian."""

    def __init__(self, app: ServerApp) -> None:
        self._app = app
        self._server = app.registry_server
        self._life: asyncio.Task[None] | None = None
        self._ends = asyncio.Event()

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        begun: asyncio.Future[None] = loop.create_future()
        self._life = loop.create_task(self._live(begun))
        loop.run_until_complete(asyncio.wait([begun, self._life], return_when="FIRST_COMPLETED"))
        if self._life.done():
            self._life.result()

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ends.set()
        if self._life is not None:
            loop.run_until_complete(self._life)

    async def _live(self, begun: asyncio.Future[None]) -> None:
        """Begin and end what the application does beside requests, both in one task."""
        async with self._app.lifespan():
            begun.set_result(None)
            await self._ends.wait()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer a request."""
        if scope.proto != "http":
            protocol.close(403)
        elif FILES.fullmatch(scope.path) is not None:
            await self._send_file(scope, protocol)
        else:
            request = _AsgiRequest(protocol)
            await self._app(_asgi_scope(self._app, scope), request.receive, request.send)  # type: ignore[arg-type]

    async def _send_file(self, scope: Any, protocol: Any) -> None:
        server = self._server
        path, method, header = scope.path, scope.method, scope.headers.get
        if server.files.waits:
            answer = await anyio.to_thread.run_sync(answer_file, server.files, path, method, header)
        else:
            answer = answer_file(server.files, path, method, header)
        if answer is None:
            raise AssertionError(f"{path} is not the path of a file")
        if may_differ(server, path, header, answer):
            answer = await anyio.to_thread.run_sync(
                answer_known, server, path, method, header, answer
            )
        if answer.status == 200 and method == "GET":
            server.downloads.note(path)
        server.metrics.file_read(path, answer.status)
        if isinstance(answer.body, FilePart):
            await _send_part(protocol, answer, answer.body)
        elif answer.body:
            protocol.response_bytes(answer.status, answer.headers, answer.body)
        else:
            protocol.response_empty(answer.status, answer.headers)


async def _send_part(protocol: Any, answer: FileAnswer, part: FilePart) -> None:
    if part.path is not None:
        where = str(part.path)
        if answer.status == 200:
            protocol.response_file(answer.status, answer.headers, where)
        else:
            protocol.response_file_range(
                answer.status, answer.headers, where, part.start, part.stop
            )
        return
    transport = protocol.response_stream(answer.status, answer.headers)
    chunks = part.chunks(part.start, part.stop)
    while data := await anyio.to_thread.run_sync(next_chunk, chunks):
        await transport.send_bytes(data)


def _asgi_scope(app: ServerApp, scope: Any) -> dict[str, Any]:
    path: str = scope.path
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": scope.http_version,
        "method": scope.method,
        "scheme": scope.scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": scope.query_string.encode("latin-1"),
        "root_path": "",
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in scope.headers.items()
        ],
        "client": _address(scope.client),
        "server": _address(scope.server),
        "state": {},
        "extensions": {"http.response.pathsend": {}},
        "app": app,
    }


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port) if port.isdigit() else 0


class _AsgiRequest:
    """A request, and the answer to it, as ASGI tells them piece by piece."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._body: Any = None
        self._ended = False
        self._start: tuple[int, list[tuple[str, str]]] | None = None
        self._transport: Any = None

    async def receive(self) -> dict[str, Any]:
        if self._ended:
            await self._protocol.client_disconnect()
            return {"type": "http.disconnect"}
        if self._body is None:
            self._body = self._protocol.__aiter__()
        try:
            body = await self._body.__anext__()
        except StopAsyncIteration:
            self._ended = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.request", "body": body, "more_body": True}

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            headers = [
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                for name, value in message.get("headers", ())
            ]
            self._start = message["status"], headers
        elif kind == "http.response.pathsend" and self._start is not None:
            self._protocol.response_file(*self._start, message["path"])
        elif kind == "http.response.body" and self._start is not None:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._start is None:
            raise AssertionError("a body before its status")
        if self._transport is None and not more:
            self._protocol.response_bytes(*self._start, bytes(body))
            return
        if self._transport is None:
            self._transport = self._protocol.response_stream(*self._start)
        if body:
            await self._transport.send_bytes(bytes(body))
