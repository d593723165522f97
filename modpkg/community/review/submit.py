"""Submitting a module project's build as a candidate."""

from __future__ import annotations

from msgspec import Struct

from modpkg.community.review.desk import desk_at
from modpkg.community.semver.check import Check
from modpkg.community.semver.releases import (
    damage_of_build,
    prepare_release,
    signature_of,
    warn_of_signer,
)
from modpkg.core.candidates import CandidateLine, CandidateReport
from modpkg.core.errors import PublishError
from modpkg.core.filenames import MANIFEST
from modpkg.core.names import ModuleName
from modpkg.core.printable import one_line
from modpkg.core.records import IndexLine
from modpkg.core.this_machine import machine_line, user_name
from modpkg.environment.workspace import Workspace
from modpkg.registry.candidate_writer import CandidateWriter
from modpkg.registry.candidates import read_candidates, read_thread
from modpkg.registry.place import registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.server_writer import ServerWriter
from modpkg.trust.bundle import Signer, StatementSigner, verify_bundle

_MOST = 2000


class Submission(Struct, frozen=True):
    """A release that was submitted."""

    line: IndexLine
    number: int
    registry: str
    """Its address."""
    before: CandidateLine | None = None
    """The open candidate that the release was already; None if it is a new one."""


def submit_project(
    project: Workspace,
    message: str,
    reason: str | None = None,
    signer: Signer | StatementSigner | None = None,
) -> Submission:
    """Submit what `modpkg build` wrote for a module project, with what `check` says of it.

    Args:
        project: Its workspace.
        message: What the candidate is for.
        reason: Why a breaking change has no breaking version.
        signer: What signs the release; None if nothing does.

    A release that is an open candidate already stays that one, with its message.

    Raises:
        What `publish_project` raises.
    """
    with damage_of_build(project):
        prepared = prepare_release(project, reason)
        line, place = prepared.line, prepared.place
        if prepared.already:
            names = {"name": line.name, "version": line.version}
            raise PublishError("M470", registry=place.url, manifest=MANIFEST, **names)
        before = _open_candidate(registry_at(place), line)
        project.progress.stage(f"Submitting {line.name}")
        project.progress.total(line.size)
        advance = project.progress.advance
        bundle = None if signer is None else signature_of(prepared.built, line, signer)
        warn_of_signer(
            project,
            place,
            line,
            lambda: None if bundle is None else verify_bundle(bundle).signer,
        )
        if isinstance(prepared.writer, ServerWriter):
            session = prepared.writer.submit(prepared.built, line, message, advance, bundle)
            submitted, number = session.line, session.candidate
        else:
            one = CandidateWriter(place).submit(
                prepared.built,
                line,
                by=user_name(),
                message=message,
                progress=advance,
                elsewhere=prepared.elsewhere,
                bundle=bundle,
            )
            submitted, number = one.line, one.number
    if number is None:
        raise AssertionError("a session of a candidate has its number")
    name = ModuleName(line.name)
    is_new = not read_thread(registry_at(place), name, number)  # it may have been submitted before
    if is_new and prepared.result is not None:
        desk_at(place).say(name, number, "report", "", report_of_check(prepared.result))
    return Submission(submitted, number, place.url, before)


def _open_candidate(registry: Registry, line: IndexLine) -> CandidateLine | None:
    """Return the open candidate that a release is, or None."""
    for one in read_candidates(registry, line.name):
        if one.status == "open" and one.line.release == line.release:
            return one
    return None


def report_of_check(result: Check) -> CandidateReport:
    """Return what comparing a candidate with the release before says, for its thread."""
    return CandidateReport(
        tool="check",
        verdict="accept" if result.legal else "needs-a-person",
        reason=one_line(result.sentence)[:_MOST],
        machine=machine_line(),
        against=f"{result.name} {result.against}" if result.against else "",
    )
