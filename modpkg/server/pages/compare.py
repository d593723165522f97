"""The page that compares two versions of a module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from modpkg.core.records import IndexLine
from modpkg.server.pages.catalogue import Catalogue, ModuleReleases
from modpkg.server.pages.differences import DrawnComparison
from modpkg.server.pages.release_facts import ReleaseFacts

_MOST = 60
"""Files or requirements that are listed."""


class ChangedText(Struct, frozen=True):
    """What one version says otherwise than the other."""

    what: str
    before: str
    after: str


class ChangedFile(Struct, frozen=True):
    """A file that differs."""

    path: str
    how: str
    """``added``, ``removed`` or ``changed``."""
    size: int
    """Its bytes: afterwards, or before if it was removed."""


class LineDifference(Struct, frozen=True, kw_only=True):
    """How two releases differ."""

    before_facts: ReleaseFacts
    after_facts: ReleaseFacts
    update: int
    """Bytes that an update fetches."""
    texts: tuple[ChangedText, ...]
    files: tuple[ChangedFile, ...]
    files_left: int
    tensors: DrawnComparison


class ComparePage(Struct, frozen=True, kw_only=True):
    """How two versions of a module differ."""

    before: IndexLine
    after: IndexLine
    difference: LineDifference
    versions: tuple[str, ...]
    """The newest versions, to choose others from."""


def compare_page(
    catalogue: Catalogue, releases: ModuleReleases, before: str, after: str
) -> ComparePage:
    """Return how two versions differ.

    Raises:
        NotFound, InvalidValue: There is no such version.
    """
    old, new = releases.find(before), releases.find(after)
    return ComparePage(
        before=old,
        after=new,
        difference=line_difference(catalogue, old, new),
        versions=tuple(line.version for line in releases.lines[:_MOST]),
    )


def line_difference(catalogue: Catalogue, before: IndexLine, after: IndexLine) -> LineDifference:
    """Return how two releases differ.

    Raises:
        NotFound: One of them was removed.
    """
    one, other = catalogue.facts(before), catalogue.facts(after)
    digests = [
        {path: (entry.digest, entry.size) for path, entry in catalogue.record(line).files.items()}
        for line in (before, after)
    ]
    files = [*_files(*digests)]
    return LineDifference(
        before_facts=one,
        after_facts=other,
        update=catalogue.update(before, after),
        texts=tuple(_texts(one, other)),
        files=tuple(files[:_MOST]),
        files_left=max(0, len(files) - _MOST),
        tensors=catalogue.compared(before, after),
    )


def _texts(before: ReleaseFacts, after: ReleaseFacts) -> Iterable[ChangedText]:
    pairs = (
        ("Kind", before.kind, after.kind),
        ("Summary", before.summary, after.summary),
        ("Licence", before.license, after.license),
        ("Task", before.task, after.task),
        ("Needs", _listed(before.requires), _listed(after.requires)),
        ("modpkg", before.requires_modpkg, after.requires_modpkg),
        ("Composed of", _listed(_steps(before)), _listed(_steps(after))),
        ("Tests", _listed(_promises(before)), _listed(_promises(after))),
    )
    for what, old, new in pairs:
        if old != new:
            yield ChangedText(what, old, new)


def _promises(facts: ReleaseFacts) -> list[str]:
    return [f"{test.name} ({test.promise})" for test in facts.tests]


def _steps(facts: ReleaseFacts) -> list[str]:
    return [" ".join([step.operator, *step.modules]) for step in facts.steps]


def _listed(texts: Iterable[str]) -> str:
    shown = [*texts]
    left = f", and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(shown[:_MOST]) + left


def _files(
    before: Mapping[str, tuple[str, int]], after: Mapping[str, tuple[str, int]]
) -> Iterable[ChangedFile]:
    for path in sorted({*before, *after}):
        if path not in after:
            yield ChangedFile(path, "removed", before[path][1])
        elif path not in before:
            yield ChangedFile(path, "added", after[path][1])
        elif before[path][0] != after[path][0]:
            yield ChangedFile(path, "changed", after[path][1])
