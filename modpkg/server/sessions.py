"""Publishing sessions over HTTP: declare, upload, commit; `registry_spec/server.md` tells more."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import anyio
import anyio.to_thread
from litestar import Request, Response, delete, get, head, post, put
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.params import FromPath, HeaderParameter, JSONBody
from sqlalchemy import select

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import NotFound, PublishError
from modpkg.registry.session_records import (
    OFFSET,
    CommitAnswer,
    SessionAnswer,
    SessionRequest,
    Uploaded,
)
from modpkg.server.callers import Caller
from modpkg.server.committing import commit
from modpkg.server.declaring import answer_of, declare, own_session
from modpkg.server.spool import spool_of
from modpkg.server.state import Server
from modpkg.server.sweeping import remove_session
from modpkg.server.tables import SessionBlob

SILENCE_SECONDS = 60
"""How long an upload may pause before what is there is kept, and the connection closed."""
_PIECE = 1 << 20


@post("/api/1/sessions", sync_to_thread=True, status_code=200)
def declare_release(
    data: JSONBody[SessionRequest], server: NamedDependency[Server], caller: NamedDependency[Caller]
) -> SessionAnswer:
    """Declare a release; of one that is declared already, return its session."""
    return declare(server, caller, data)


@get("/api/1/sessions/{session:str}", sync_to_thread=True)
def show_session(
    session: FromPath[str], server: NamedDependency[Server], caller: NamedDependency[Caller]
) -> SessionAnswer:
    """Return a session as it is now."""
    return answer_of(server, caller, session)


@delete("/api/1/sessions/{session:str}", sync_to_thread=True)
def give_up_session(
    session: FromPath[str], server: NamedDependency[Server], caller: NamedDependency[Caller]
) -> None:
    """Give a session up, with what was uploaded."""
    with server.database.begin() as db:
        row = own_session(db, caller, session)
        if row.state != "open":
            raise NotFound("M450", id=session)
    remove_session(server, session)


def declared_size(server: Server, caller: Caller, session: str, digest: str) -> int:
    """Return the size of a blob that a session has declared.

    Raises:
        NotFound: The caller has no such session, or it no such blob.
    """
    parse_digest(digest)
    with server.database.begin() as db:
        row = own_session(db, caller, session)
        blob = db.scalar(
            select(SessionBlob).where(
                SessionBlob.session_id == session, SessionBlob.digest == digest
            )
        )
        if blob is None or row.state != "open":
            raise NotFound("M450", id=f"{session} with the blob {digest}")
        return blob.size


@head("/api/1/sessions/{session:str}/blobs/{digest:str}")
async def show_upload(
    session: FromPath[str],
    digest: FromPath[str],
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
) -> Response[None]:
    """Return how much of a blob is there, as a header."""
    size = await in_thread(declared_size, server, caller, session, digest)
    there = await in_thread(spool_of(server.place, session).size, Digest(digest))
    headers = {OFFSET: str(there), "Upload-Length": str(size), "Cache-Control": "no-store"}
    return Response(None, headers=headers)


@put(
    "/api/1/sessions/{session:str}/blobs/{digest:str}",
    request_max_body_size=None,
)
async def upload_blob(
    request: Request[Any, Any, Any],
    session: FromPath[str],
    digest: FromPath[str],
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    offset: Annotated[int, HeaderParameter(name=OFFSET, ge=0)] = 0,
) -> Response[Uploaded]:
    """Take the bytes of a blob from an offset on."""
    size = await in_thread(declared_size, server, caller, session, digest)
    spool = spool_of(server.place, session)
    entered = spool.upload(Digest(digest), size, offset)
    upload = await in_thread(entered.__enter__)
    try:
        try:
            await _receive(request, upload, digest, size)
        finally:
            with anyio.CancelScope(shield=True):
                await in_thread(upload.close)
    finally:
        with anyio.CancelScope(shield=True):
            await in_thread(entered.__exit__, None, None, None)
    done = Uploaded(upload.offset, complete=upload.offset == size)
    return Response(done, status_code=200, headers={OFFSET: str(upload.offset)})


async def _receive(request: Request[Any, Any, Any], upload: Any, digest: str, size: int) -> None:
    held = bytearray()
    chunks = request.stream().__aiter__()
    while True:
        try:
            with anyio.fail_after(SILENCE_SECONDS):
                chunk = await chunks.__anext__()
        except StopAsyncIteration:
            break
        except HTTPException:  # the caller has gone, or is too slow; the rest may come later
            if held:
                await in_thread(upload.write, bytes(held))
            raise
        if upload.offset + len(held) + len(chunk) > size:
            raise PublishError("M458", digest=digest, size=size)
        held += chunk
        if len(held) >= _PIECE:
            await in_thread(upload.write, bytes(held))
            held.clear()
    if held:
        await in_thread(upload.write, bytes(held))


@post("/api/1/sessions/{session:str}/commit", status_code=200)
async def commit_session(
    session: FromPath[str], server: NamedDependency[Server], caller: NamedDependency[Caller]
) -> CommitAnswer:
    """Publish the release of a session."""
    return await anyio.to_thread.run_sync(commit, server, caller, session, limiter=server.commits)


async def in_thread(function: Any, *args: Any) -> Any:
    """Return what a function returns that may wait for disk or database.

    The server cancels what a client that has gone had asked for. The function ends before that goes
    on: it would write to a file that is closed meanwhile, or is another by then.
    """
    work = asyncio.ensure_future(anyio.to_thread.run_sync(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


ROUTES = [
    declare_release,
    show_session,
    give_up_session,
    show_upload,
    upload_blob,
    commit_session,
]
