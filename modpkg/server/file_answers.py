"""Sending files: before all that a page or the API needs, since readers ask for nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio.to_thread
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from modpkg.server.private_reading import answer_known, may_differ
from modpkg.server.reading import FILES, FilePart, HeaderOf, answer_file
from modpkg.server.state import Server

_END = b""


class ServerApp(Litestar):
    """The application of a server, which answers requests for files by itself."""

    registry_server: Server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # type: ignore[override]
        """Answer a request."""
        if scope["type"] != ScopeType.HTTP:
            await super().__call__(scope, receive, send)
        elif FILES.fullmatch(scope["path"]) is not None:
            await send_file(self.registry_server, scope, send)
        else:
            await self.registry_server.traffic.answer(super().__call__, scope, receive, send)


def _header_of(scope: Any) -> HeaderOf:
    headers = scope["headers"]

    def header(name: str) -> str | None:
        wanted = name.encode()
        for key, value in headers:
            if key == wanted:
                text: str = value.decode("latin-1")
                return text
        return None

    return header


async def send_file(server: Server, scope: Any, send: Any) -> None:
    """Answer a request for a file."""
    path, method, files = scope["path"], scope["method"], server.files
    if files.waits:
        answer = await anyio.to_thread.run_sync(answer_file, files, path, method, _header_of(scope))
    else:
        answer = answer_file(files, path, method, _header_of(scope))
    if answer is None:
        raise AssertionError(f"{path} is not the path of a file")
    if may_differ(server, path, _header_of(scope), answer):
        answer = await anyio.to_thread.run_sync(
            answer_known, server, path, method, _header_of(scope), answer
        )
    if answer.status == 200 and method == "GET":
        server.downloads.note(path)
    server.metrics.file_read(path, answer.status)
    headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if not isinstance(answer.body, FilePart):
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})
    else:
        await _send_part(send, answer.body)


async def _send_part(send: Any, part: FilePart) -> None:
    chunks = part.chunks(part.start, part.stop)
    try:
        while data := await anyio.to_thread.run_sync(_next_chunk, chunks):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    finally:
        await anyio.to_thread.run_sync(_close, chunks)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _next_chunk(chunks: Iterator[bytes]) -> bytes:
    return next(chunks, _END)


def _close(chunks: Any) -> None:
    if hasattr(chunks, "close"):
        chunks.close()
