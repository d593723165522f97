"""What a registry says of a release that it has: whether it was yanked, deprecated or removed.

It is all of an index line that changes after the release was published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from modpkg.core.decoding import check_reason
from modpkg.core.errors import NotFound, PublishError
from modpkg.core.filenames import MANIFEST
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine

NO_REASON = "no reason was given"


class Standing(Struct, frozen=True, kw_only=True):
    """What a registry says of a release; the fields are those of `IndexLine`."""

    yanked: str | None = None
    deprecated: str | UnsetType = UNSET
    successor: str | UnsetType = UNSET
    removed: str | UnsetType = UNSET
    succeeded: bool | UnsetType = UNSET

    def on(self, line: IndexLine) -> IndexLine:
        """Return a line that says this."""
        return replace(
            line,
            yanked=self.yanked,
            deprecated=self.deprecated,
            successor=self.successor,
            removed=self.removed,
            succeeded=self.succeeded,
        )


def check_standing(line: IndexLine) -> None:
    """Check that readers take the reasons of a line as they are.

    Raises:
        InvalidValue: They would not.
    """
    for reason in (line.yanked, line.deprecated, line.removed):
        if isinstance(reason, str):
            check_reason(reason)


def standing_of(line: IndexLine) -> Standing:
    """Return what a line says of its release."""
    return Standing(
        yanked=line.yanked,
        deprecated=line.deprecated,
        successor=line.successor,
        removed=line.removed,
        succeeded=line.succeeded,
    )


def is_removed(line: IndexLine) -> bool:
    """Return whether a line only keeps a version from being used again; it has no blobs."""
    return line.removed is not UNSET


def is_succeeded(lines: Iterable[IndexLine]) -> bool:
    """Return whether an index says that a signer of its module has named the one after it."""
    return any(line.succeeded is True for line in lines)


def without_removed(lines: Iterable[IndexLine]) -> list[IndexLine]:
    """Return the lines whose releases are there."""
    return [line for line in lines if line.removed is UNSET]


def removal(line: IndexLine) -> str | None:
    """Return what became of a removed release, as a clause; None if it is there."""
    if line.removed is UNSET:
        return None
    return f"was removed from its registry: {line.removed or NO_REASON}"


def check_present(line: IndexLine, registry: str) -> None:
    """Check that a release of a registry, as it is shown, was not removed.

    Raises:
        NotFound: It was.
    """
    if line.removed is not UNSET:
        reason = line.removed or NO_REASON
        raise NotFound(
            "M480", name=line.name, version=line.version, registry=registry, reason=reason
        )


def check_free(line: IndexLine, lines: Sequence[IndexLine], registry: str) -> None:
    """Check that the name and the version of a new release were not removed.

    Args:
        line: Of the new release.
        lines: What the registry, as it is shown, has of its name.

    Raises:
        PublishError: The version was, or all that the name had: neither is ever used again.
    """
    version = parse_version(line.version)
    gone = [one for one in lines if one.removed is not UNSET]
    for one in gone:
        if len(gone) == len(lines) or parse_version(one.version) == version:
            whole = len(gone) == len(lines)
            raise PublishError(
                "M481",
                name=line.name,
                version=line.version,
                registry=registry,
                what="all that it had of that name" if whole else "that version",
                reason=one.removed or NO_REASON,
                remedy=f"{'choose another name' if whole else 'raise the version'} in {MANIFEST}",
            )


def deprecation(line: IndexLine) -> str | None:
    """Return why a release should not be used any more, as a clause; None if it may be.

    >>> deprecation(IndexLine(name="a", version="1", kind="suite", release="", deprecated="old"))
    'is deprecated: old'
    """
    if line.deprecated is UNSET:
        return None
    return f"is deprecated{deprecation_note(line.deprecated, line.successor or '')}"


def deprecation_note(reason: str, successor: str) -> str:
    """Return what follows "deprecated": the reason, and what to use instead.

    >>> deprecation_note("old", "words>=2"), deprecation_note("", "words"), deprecation_note("", "")
    (': old; use words>=2 instead', ': use words instead', '')
    """
    parts = [reason] if reason else []
    parts += [f"use {successor} instead"] if successor else []
    return f": {'; '.join(parts)}" if parts else ""
