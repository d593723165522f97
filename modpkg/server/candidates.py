"""Candidates by the API: what is said about them, and who decides.

Anybody who may submit may comment. Whoever has a role for the module may approve what others have
submitted; he and whoever submitted the candidate may attach what `check` and `vet` say. Maintainers
accept and reject, and whoever submitted it may withdraw it. The storage is changed outside of
transactions, which must not wait for it.
"""

from __future__ import annotations

import anyio
import anyio.to_thread
from litestar import post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy import select
from sqlalchemy.orm import Session

from modpkg.community.review.acceptance import check_acceptance
from modpkg.community.semver.version_check import check_version
from modpkg.core.candidates import (
    CandidateLine,
    CandidateReport,
    CandidateStatus,
    EntryKind,
    ThreadEntry,
)
from modpkg.core.errors import AccessRefused, PublishError
from modpkg.manifest.cutoff import moment_text
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import check_open, read_candidate, read_thread
from modpkg.registry.place import registry_at
from modpkg.registry.review_records import CommentRequest, DecisionRequest, ReportRequest
from modpkg.server.callers import Caller, check_known
from modpkg.server.clock import now
from modpkg.server.events import log_event
from modpkg.server.owners import found_module
from modpkg.server.release_standing import place_of
from modpkg.server.rights import may
from modpkg.server.state import Server
from modpkg.server.tables import Account, Membership, Module, Role


def say(
    server: Server,
    caller: Caller,
    name: str,
    number: int,
    kind: EntryKind,
    text: str,
    report: CandidateReport | None = None,
) -> ThreadEntry:
    """Add a comment, an approval or a report to a candidate's thread.

    Raises:
        NotFound: There is no such module or candidate, or none that the caller may know of.
        AccessRefused: He may not say this.
        PublishError: It is decided already, which only comments may follow, or he approves what he
            has submitted himself.
        RecordError: It cannot be said.
    """
    with server.database.begin() as db:
        module = found_module(db, caller, name, "review" if kind == "approval" else "read")
        reviews = may(db, caller, "review", module.name)
        speaks = reviews or may(db, caller, "submit", module.name)
        check_known(caller, kind, module.name)
    if not speaks:
        raise AccessRefused("M432", name=caller.name, action="submit", module=module.name)
    writer = CandidateWriter(place_of(server, module))
    if kind == "approval":
        one = read_candidate(registry_at(writer.place), module.name, number)
        if one.by == caller.name:
            raise PublishError("M449", reason=f"{one.label} is yours, for others to approve")
    if kind == "report" and not reviews:
        one = read_candidate(registry_at(writer.place), module.name, number)
        _check_own(caller, one, "report on")
    entry = ThreadEntry(kind=kind, by=caller.name, at=moment_text(now()), text=text, report=report)
    said = writer.say(module.name, number, entry)
    _log(server, caller, f"candidate.{kind}", module, number)
    return said


def accept(
    server: Server, caller: Caller, name: str, number: int, reason: str = "", anyway: bool = False
) -> CandidateLine:
    """Publish a candidate as it was reviewed.

    Raises:
        NotFound: There is no such module or candidate, or none that the caller may know of.
        AccessRefused: He does not maintain the module.
        PublishError: The candidate is decided already, a report fails, no reviewer has approved
            it, its version is published or too low by now, or the module is archived.
        IntegrityError: A blob of it is missing.
    """
    with server.database.begin() as db:
        module = found_module(db, caller, name, "publish", "accept candidates of")
        reviewers = reviewers_of(db, module.name)
        archived = module.archived
    if archived is not None:
        raise PublishError("M453", module=module.name, reason=archived or "no reason given")
    place = place_of(server, module)
    registry = registry_at(place)
    thread = read_thread(registry, module.name, number)

    def check(one: CandidateLine) -> None:
        check_acceptance(one, thread, anyway=anyway, reason=reason, reviewers=reviewers)

    one = read_candidate(registry, module.name, number)
    check_open(one)
    check(one)
    check_version(place, registry, one.line)
    decided = CandidateWriter(place).accept(
        module.name, number, by=caller.name, reason=reason, now=now(), check=check
    )
    _log(server, caller, "candidate.accept", module, number, decided.line.version)
    if not module.is_private:
        server.changed.add(module.name)
    return decided


def decline(
    server: Server, caller: Caller, name: str, number: int, reason: str, status: CandidateStatus
) -> CandidateLine:
    """Reject a candidate, which maintainers may, or withdraw one's own.

    Raises:
        NotFound: There is no such module or candidate, or none that the caller may know of.
        AccessRefused: He may not.
        PublishError: It is decided already.
        RecordError: The reason is not valid.
    """
    with server.database.begin() as db:
        rejected, withdrawn = ("publish", "reject"), ("submit", "withdraw")
        right, verb = rejected if status == "rejected" else withdrawn
        module = found_module(db, caller, name, right, f"{verb} candidates of")
    place = place_of(server, module)
    if status == "withdrawn":
        _check_own(caller, read_candidate(registry_at(place), module.name, number), "withdraw")
    writer = CandidateWriter(place)
    decided = writer.reject(
        module.name, number, by=caller.name, reason=reason, status=status, now=now()
    )
    action = "candidate.reject" if status == "rejected" else "candidate.withdraw"
    _log(server, caller, action, module, number, decided.line.version)
    return decided


def reviewers_of(db: Session, module: str) -> list[str]:
    """Return the people who are reviewers of a module, by themselves or by an organisation."""
    holders = select(Role.account_id).where(Role.module == module, Role.role == "reviewer")
    within = select(Membership.person_id).where(Membership.organisation_id.in_(holders))
    people = select(Account.name).where(
        Account.is_organisation.is_(False), Account.id.in_(holders) | Account.id.in_(within)
    )
    return sorted(db.scalars(people))


def _check_own(caller: Caller, one: CandidateLine, action: str) -> None:
    """Check that a caller is who submitted a candidate.

    Raises:
        AccessRefused: He is not.
    """
    if one.by != caller.name:
        raise AccessRefused("M432", name=caller.name, action=action, module=one.label)


def _log(
    server: Server,
    caller: Caller,
    action: str,
    module: Module,
    number: int,
    version: str | None = None,
) -> None:
    with server.database.begin() as db:
        log_event(db, caller.name, action, module.name, version, number=number)


@post("/api/1/modules/{name:str}/candidates/{number:int}/comments", sync_to_thread=True)
def comment(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
    data: JSONBody[CommentRequest],
) -> ThreadEntry:
    """Comment on a candidate."""
    return say(server, caller, name, number, "comment", data.text)


@post("/api/1/modules/{name:str}/candidates/{number:int}/approvals", sync_to_thread=True)
def approve(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
    data: JSONBody[CommentRequest],
) -> ThreadEntry:
    """Approve a candidate; who has a role for the module may."""
    return say(server, caller, name, number, "approval", data.text)


@post("/api/1/modules/{name:str}/candidates/{number:int}/reports", sync_to_thread=True)
def attach_report(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
    data: JSONBody[ReportRequest],
) -> ThreadEntry:
    """Attach what a command said of a candidate."""
    return say(server, caller, name, number, "report", data.text, data.report)


@post("/api/1/modules/{name:str}/candidates/{number:int}/accept", status_code=200)
async def accept_candidate(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
    data: JSONBody[DecisionRequest],
) -> CandidateLine:
    """Publish a candidate; who maintains the module may."""
    return await anyio.to_thread.run_sync(
        accept, server, caller, name, number, data.reason, data.anyway, limiter=server.commits
    )


@post(
    "/api/1/modules/{name:str}/candidates/{number:int}/reject",
    sync_to_thread=True,
    status_code=200,
)
def reject_candidate(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
    data: JSONBody[DecisionRequest],
) -> CandidateLine:
    """Decide that a candidate becomes no release; who maintains the module may."""
    return decline(server, caller, name, number, data.reason, "rejected")


@post(
    "/api/1/modules/{name:str}/candidates/{number:int}/withdraw",
    sync_to_thread=True,
    status_code=200,
)
def withdraw_candidate(
    server: NamedDependency[Server],
    caller: NamedDependency[Caller],
    name: FromPath[str],
    number: FromPath[int],
    data: JSONBody[DecisionRequest],
) -> CandidateLine:
    """Take back a candidate; who submitted it may."""
    return decline(server, caller, name, number, data.reason, "withdrawn")


ROUTES = [comment, approve, attach_report, accept_candidate, reject_candidate, withdraw_candidate]
