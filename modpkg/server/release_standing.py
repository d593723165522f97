"""What becomes of releases: yanked, deprecated, archived with their module, removed; advisories."""

from __future__ import annotations

from typing import Any

from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.orm import Session

from modpkg.core.errors import InvalidValue, NotFound
from modpkg.core.names import module_name, parse_requirement, parse_version, requirement_text
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.registry.advisories import add_advisories
from modpkg.registry.place import Place, registry_at
from modpkg.registry.release_requests import (
    AddedAdvisories,
    AdvisoryRequest,
    ArchiveRequest,
    ChangedLines,
    DeprecateRequest,
    RemovedAnswer,
    RemoveRequest,
    SuccessionRequest,
    YankRequest,
)
from modpkg.registry.removing import remove_release
from modpkg.registry.writer import RegistryWriter
from modpkg.server.account_bytes import count_removed
from modpkg.server.accounts import check_administrator
from modpkg.server.callers import Caller
from modpkg.server.events import log_event
from modpkg.server.owners import found_module
from modpkg.server.sent_bundles import check_bundle, check_succession
from modpkg.server.state import Server
from modpkg.server.tables import Module


def place_of(server: Server, module: Module | None) -> Place:
    """Return where the files of a module lie."""
    return server.place_of(private=module is not None and module.is_private)


def restate(
    server: Server, caller: Caller, name: str, action: str, change: Any, **details: Any
) -> list[IndexLine]:
    """Change what is said of releases of a module, by whoever may yank them, and log it.

    The storage is changed outside of the transaction, which must not wait for it.

    Raises:
        NotFound: There is no such module or release.
        AccessRefused: The caller may not.
        PublishError: The release was removed.
    """
    with server.database.begin() as db:
        module = found_module(db, caller, name, "yank")
    lines: list[IndexLine] = change(RegistryWriter(place_of(server, module)), module.name)
    with server.database.begin() as db:
        for line in lines:
            log_event(db, caller.name, action, module.name, line.version, **details)
    return lines


def normal_version(text: str) -> str:
    """Return a version in its normal spelling.

    Raises:
        InvalidValue: It is none.
    """
    return str(parse_version(text))


@post("/api/1/modules/{name:str}/yank", sync_to_thread=True, status_code=200)
def yank(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[YankRequest],
) -> IndexLine:
    """Yank a release, or undo that; who maintains the module may."""
    version, reason = normal_version(data.version), data.reason
    action = "unyank" if reason is None else "yank"
    details = {} if reason is None else {"reason": reason}

    bundle = None if data.bundle is None else data.bundle.encode()

    def change(writer: RegistryWriter, module: str) -> list[IndexLine]:
        if data.bundle is not None:
            check_bundle(data.bundle, registry_at(writer.place).line(module, version))
        return [writer.yank(module, version, reason, bundle)]

    (line,) = restate(server, caller, name, action, change, **details)
    return line


@post("/api/1/modules/{name:str}/deprecate", sync_to_thread=True, status_code=200)
def deprecate(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[DeprecateRequest],
) -> ChangedLines:
    """Deprecate a release or all that a module has, or undo that; who maintains it may."""
    version = None if data.version is None else normal_version(data.version)
    reason, successor = data.reason, data.successor
    if successor:
        wanted = parse_requirement(successor)
        successor = requirement_text(wanted.name, {*wanted.extras}, wanted.specifier)
    action = "undeprecate" if reason is None else "deprecate"
    details = {} if reason is None else {"reason": reason, "successor": successor}

    def change(writer: RegistryWriter, module: str) -> list[IndexLine]:
        return writer.deprecate(module, version, reason, successor)

    return ChangedLines(restate(server, caller, name, action, change, **details))


@post("/api/1/modules/{name:str}/successors", sync_to_thread=True, status_code=200)
def succeed(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[SuccessionRequest],
) -> ChangedLines:
    """Take what a signer of a module has signed of the one after it; who maintains it may."""

    def change(writer: RegistryWriter, module: str) -> list[IndexLine]:
        check_succession(registry_at(writer.place), module, data.bundle)
        return writer.succeed(module, data.bundle.encode())

    return ChangedLines(restate(server, caller, name, "succeed", change))


@post("/api/1/modules/{name:str}/archive", sync_to_thread=True, status_code=204)
def archive(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[ArchiveRequest],
) -> None:
    """Archive a module: nothing more is published of it; or undo that. Its owners may."""
    with server.database.begin() as db:
        module = found_module(db, caller, name, "manage")
        if module.archived == data.reason:
            return
        module.archived = data.reason
        action = "unarchive" if data.reason is None else "archive"
        log_event(db, caller.name, action, module.name, reason=data.reason or "")


@post("/api/1/modules/{name:str}/remove", sync_to_thread=True, status_code=200)
def remove(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    data: JSONBody[RemoveRequest],
) -> RemovedAnswer:
    """Remove a release for good, or all that a module has; administrators may."""
    check_administrator(caller)
    version = None if data.version is None else normal_version(data.version)
    with server.database.begin() as db:
        module = _known(db, name)
    writer = RegistryWriter(place_of(server, module))
    own = str(module_name(name))
    done = remove_release(writer, own, version, data.reason, Progress())
    with server.database.begin() as db:
        count_removed(db, done)
        for line in done.lines:
            log_event(db, caller.name, "remove", own, line.version, reason=data.reason)
    return RemovedAnswer(done.lines, done.files, done.freed, done.shared)


def _known(db: Session, name: str) -> Module | None:
    """Return what is known of a module, which may be nothing: its files may be older than that."""
    try:
        return db.get(Module, str(module_name(name)))
    except InvalidValue:
        raise NotFound("M439", what="module", name=name) from None


@post("/api/1/advisories", sync_to_thread=True, status_code=200)
def publish_advisories(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    data: JSONBody[AdvisoryRequest],
) -> AddedAdvisories:
    """Publish advisories; administrators may."""
    check_administrator(caller)
    texts = enumerate(data.documents, 1)
    documents = [(f"document {number}", text.encode()) for number, text in texts]
    added = add_advisories(server.place, documents)
    with server.database.begin() as db:
        for one in added:
            log_event(db, caller.name, "advisory", id=one.id)
    return AddedAdvisories([one.id for one in added])


ROUTES = [yank, deprecate, succeed, archive, remove, publish_advisories]
