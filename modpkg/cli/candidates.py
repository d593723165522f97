"""``candidates``: what is proposed of a module, and what is said about it."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.module_names import known_names
from modpkg.cli.options import project_options, with_workspace
from modpkg.cli.output import bad, counted, faint, good, print_json, say, strong, table, tell
from modpkg.community.modules.reference import parse_reference
from modpkg.community.review.acceptance import approvers, report_clause
from modpkg.community.review.overlap import CandidateConflict, base_of_candidate, overlaps_of
from modpkg.core.candidates import CandidateLine, ThreadEntry
from modpkg.core.errors import UsageError
from modpkg.core.files import human_bytes
from modpkg.core.names import ModuleName
from modpkg.core.printable import printable
from modpkg.environment.workspace import Workspace
from modpkg.registry.candidates import (
    decision_of,
    no_such_candidate,
    read_candidates,
    read_thread,
)
from modpkg.registry.missing import no_such_module


class CandidatesDocument(Struct, frozen=True, kw_only=True):
    """The candidates of a module."""

    name: str
    registry: str
    """Its address."""
    candidates: list[CandidateLine]
    """By number."""


class CandidateDocument(Struct, frozen=True, kw_only=True):
    """One candidate, and what was said about it."""

    candidate: CandidateLine
    against: str | None
    """The version of the release that it is compared with; null for a first one."""
    approved_by: list[str]
    conflicts: list[CandidateConflict]
    """What it and other open candidates change differently."""
    thread: list[ThreadEntry]
    """Comments, approvals and reports, the first first."""


@click.command("candidates")
@click.argument("name", metavar="NAME[#N]", shell_complete=known_names)
@project_options
@with_workspace
def candidates_command(workspace: Workspace, name: str, as_json: bool) -> None:
    """List the release candidates of a module, or show one: NAME#7.

    What is shown of one is what it is for, what was reported, said and decided, and where it and
    other open candidates change the same weights differently; these are fetched to be compared.
    """
    reference = parse_reference(name)
    if reference.version is not None or reference.generation is not None:
        raise UsageError("M901", message=f"Name a module, or a candidate as NAME#7, not {name!r}.")
    if reference.candidate is None:
        _list(workspace, reference.name, as_json)
    else:
        _show(workspace, reference.name, reference.candidate, as_json)


def _list(workspace: Workspace, name: ModuleName, as_json: bool) -> None:
    registry = workspace.registries.of(name)
    found = read_candidates(registry, name)
    if not found and not registry.known_index(name):
        raise no_such_module(name, registry)
    if as_json:
        print_json(CandidatesDocument(name=name, registry=registry.url, candidates=found))
        return
    if not found:
        tell(f"{strong(name)} has no candidates; 'modpkg submit' proposes one.")
        return
    rows = [
        [
            f"#{one.number}",
            one.line.version,
            one.status,
            one.by,
            one.at[:10],
            _first_line(one.message),
        ]
        for one in found
    ]
    table(rows, ["", "Version", "Status", "By", "On", "For"])
    say(faint(f"\nOne of them: modpkg candidates {name}#{found[-1].number}"))


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 60 else line[:59] + "…"


def _show(workspace: Workspace, name: ModuleName, number: int, as_json: bool) -> None:
    registry = workspace.registries.of(name)
    found = read_candidates(registry, name)
    one = next((each for each in found if each.number == number), None)
    if one is None:
        raise no_such_candidate(name, number, registry.shown, found)
    thread = read_thread(registry, name, number)
    base = base_of_candidate(registry.index(name), one)
    conflicts: list[CandidateConflict] = []
    if overlaps := overlaps_of(registry, one, found):
        from modpkg.community.review.measured_overlap import measured

        conflicts = measured(workspace, one, found, overlaps)
    document = CandidateDocument(
        candidate=one,
        against=None if base is None else base.version,
        approved_by=approvers(thread),
        conflicts=conflicts,
        thread=thread,
    )
    if as_json:
        print_json(document)
    else:
        _print(document)


def _print(document: CandidateDocument) -> None:
    one = document.candidate
    say(f"{strong(one.label)} {one.line.name} {one.line.version} ({one.line.kind}): {one.status}")
    say(f"  submitted by {one.by} on {one.at[:10]}, {human_bytes(one.line.size)} new")
    if one.status != "open":
        say(f"  {decision_of(one)}")
    _quote(one.message)
    if document.conflicts:
        say()
    for conflict in document.conflicts:
        tensors = counted(len(conflict.tensors), "tensor")
        what = f"both add, remove or reshape {tensors}"
        if conflict.values:
            what = (
                f"{counted(conflict.values, 'value')} of {tensors} changed differently, "
                f"{conflict.opposite} in opposite directions"
            )
        say(f"{bad('conflicts')} with {conflict.other}: {what}")
    for entry in document.thread:
        _entry(entry)
    if one.status == "open":
        against = f" {one.line.name}=={document.against}" if document.against else ""
        steps = [f"Compare: modpkg diff{against} '{one.label}'"] if against else []
        steps += [f"Try: modpkg install --candidate '{one.label}'"]
        steps += [f"Test: modpkg vet '{one.label}' --report"]
        say(faint("\n" + "\n".join(steps)))


def _entry(entry: ThreadEntry) -> None:
    when = faint(entry.at[:16].replace("T", " "))
    if entry.report is not None:
        colour = good if entry.report.verdict == "accept" else bad
        say(f"\n{colour(report_clause(strong(entry.by), entry.report))}  {when}")
        say(faint(f"  on {entry.report.machine}" if entry.report.machine else ""))
    elif entry.kind == "approval":
        say(f"\n{strong(entry.by)} {good('approved')} it  {when}")
    else:
        say(f"\n{strong(entry.by)}  {when}")
    _quote(entry.text)


def _quote(text: str) -> None:
    for line in printable(text.strip()).splitlines():
        say(f"  {line}")
