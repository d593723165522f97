"""Files of private modules: for those alone who may know of them, and missing for all others.

They lie in a tree of their own, ``private`` in the storage, so that whatever serves the public one
without asking the server (a CDN, nginx) serves none of them. The server looks there when a request
says who asks and the public tree has no such file; of ``modules.jsonl`` it adds their lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http.cookies import CookieError, SimpleCookie

import msgspec
from msgspec import Struct
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from modpkg.core.digests import digest_bytes
from modpkg.core.errors import AccessRefused
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.server.callers import Caller, caller_by
from modpkg.server.reading import (
    FileAnswer,
    FileFinder,
    HeaderOf,
    StoredVersion,
    answer_file,
)
from modpkg.server.rights import visible, visible_private
from modpkg.server.state import Server
from modpkg.server.tables import Module, PrivateBlob

_IN_QUERY = 500
"""Digests in one query; SQLite takes some thousand values."""


class _NamedLine(Struct):
    """A line of ``modules.jsonl``, of which only the name matters here."""

    name: str


_LINE = msgspec.json.Decoder(_NamedLine)


def answer_known(
    server: Server, path: str, method: str, header: HeaderOf, public: FileAnswer
) -> FileAnswer:
    """Return the answer to who may be somebody: the public one, or a private file.

    A token that is not valid is refused for what is not public.
    """
    if not may_differ(server, path, header, public):
        return public
    try:
        caller = caller_by(server, header("authorization"), _cookie_of(server, header))
    except AccessRefused:
        refused = [("www-authenticate", "Bearer"), ("content-length", "0")]
        return FileAnswer(401, refused)
    if not caller.is_known:
        return public
    found = answer_file(PrivateFiles(server, caller), path, method, header)
    if found is None or found.status == 404:
        return public
    return FileAnswer(found.status, [*map(_private, found.headers)], found.body)


def may_differ(server: Server, path: str, header: HeaderOf, public: FileAnswer) -> bool:
    """Return whether who asks may be answered otherwise than anybody."""
    if public.status != 404 and path != f"/{REGISTRY_MODULES}":
        return False
    if header("authorization") is not None:
        return True
    return server.cookie in (header("cookie") or "")


def _cookie_of(server: Server, header: HeaderOf) -> str | None:
    try:
        found = SimpleCookie(header("cookie") or "").get(server.cookie)
    except CookieError:
        return None
    return None if found is None else found.value


def _private(header: tuple[str, str]) -> tuple[str, str]:
    """Return a header such that nobody between keeps the file for others."""
    name, value = header
    if name == "cache-control":
        value = value.replace("public", "private") if "public" in value else f"private, {value}"
    return name, value


class PrivateFiles:
    """What a caller may read beyond the public files."""

    waits = True

    def __init__(self, server: Server, caller: Caller) -> None:
        self._server = server
        self._caller = caller

    def find(self, path: str, *, is_blob: bool) -> StoredVersion | None:
        """Return a file by its path in the registry; None if there is none that he may read."""
        files = self._server.private_files
        if files is None:
            return None
        if path == REGISTRY_MODULES:
            return self._modules(files)
        folder, _, rest = path.partition("/")
        with self._server.database.begin() as db:
            if is_blob or folder == "signatures":
                digest = f"sha256:{path.removesuffix('.jsonl')[-64:]}"
                readable = bool(readable_blobs(db, self._caller, [digest]))
            else:
                name = rest.partition("/")[0].removesuffix(".jsonl")
                module = db.get(Module, name)
                is_private = module is not None and module.is_private
                readable = folder in ("index", "candidates", "successors") and is_private
                readable = readable and visible(db, self._caller, name)
        return files.find(path, is_blob=is_blob) if readable else None

    def _modules(self, files: FileFinder) -> StoredVersion | None:
        """Return ``modules.jsonl`` with the lines of private modules that he may know of."""
        with self._server.database.begin() as db:
            names = {*visible_private(db, self._caller)}
        own = files.find(REGISTRY_MODULES, is_blob=False) if names else None
        public = self._server.files.find(REGISTRY_MODULES, is_blob=False)
        lines = [*_lines_of(own, names)]
        if not lines:
            return None
        before = (public.data or b"").splitlines() if public is not None else []
        data = b"\n".join([*before, *lines, b""])

        def chunks(start: int, stop: int) -> Iterator[bytes]:
            yield data[start:stop]

        return StoredVersion(f'"{digest_bytes(data)[7:39]}"', len(data), data, chunks)


def _lines_of(file: StoredVersion | None, names: set[str]) -> Iterator[bytes]:
    if file is None or file.data is None:
        return
    for raw in file.data.splitlines():
        try:
            if _LINE.decode(raw).name in names:
                yield raw
        except (msgspec.MsgspecError, UnicodeDecodeError):  # noqa: PERF203
            continue


def readable_blobs(db: Session, caller: Caller, digests: Iterable[str]) -> set[str]:
    """Return those of some blobs that private modules have which a caller may know of."""
    names = visible_private(db, caller)
    wanted, found = [*digests], set[str]()
    for at in range(0, len(wanted), _IN_QUERY):
        query = select(PrivateBlob.digest, PrivateBlob.module).where(
            PrivateBlob.digest.in_(wanted[at : at + _IN_QUERY])
        )
        found |= {digest for digest, module in db.execute(query) if module in names}
    return found


def note_private_blobs(db: Session, module: str, digests: Iterable[str]) -> None:
    """Note that a private module has blobs, so that those who may know of it may read them."""
    wanted = {*digests}
    for at in range(0, len(wanted), _IN_QUERY):
        part = sorted(wanted)[at : at + _IN_QUERY]
        query = select(PrivateBlob.digest).where(
            PrivateBlob.module == module, PrivateBlob.digest.in_(part)
        )
        there = {*db.scalars(query)}
        db.add_all(PrivateBlob(digest=one, module=module) for one in part if one not in there)
    db.flush()


def forget_private_blobs(db: Session, module: str) -> None:
    """Forget all blobs of a module, before they are noted again."""
    db.execute(delete(PrivateBlob).where(PrivateBlob.module == module))
