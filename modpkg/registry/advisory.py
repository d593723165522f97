"""Advisories in OSV form: what is wrong with which versions of modules.

The format is that of the Open Source Vulnerability schema (https://ossf.github.io/osv-schema/), and
so is the algorithm that decides which versions are affected. The ecosystem is ``modpkg``, and its
versions are ordered by PEP 440.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from packaging.version import Version

from modpkg.core.errors import ModpkgError, RecordError
from modpkg.core.names import module_name, parse_version

ECOSYSTEM = "modpkg"
ORDERED = ("ECOSYSTEM", "SEMVER")
"""The types of ranges that are of versions; those of commits (``GIT``) say nothing of modules."""

Text = Annotated[str, Meta(max_length=1000)]
Moment = Annotated[
    str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$", max_length=40)
]
_MANY = Meta(max_length=10_000)


class AdvisoryEvent(Struct, frozen=True, omit_defaults=True):
    """Where a range of versions begins or ends; one of the fields is set."""

    introduced: Text | None = None
    """The first affected version; ``0`` for the very first."""
    fixed: Text | None = None
    """The first version that is not affected any more."""
    last_affected: Text | None = None
    limit: Text | None = None
    """The range ends before this version; ``*`` for no end."""


class AdvisoryRange(Struct, frozen=True, kw_only=True):
    """A range of versions."""

    type: Text
    events: Annotated[list[AdvisoryEvent], _MANY]


class AdvisoryPackage(Struct, frozen=True, kw_only=True):
    """What an advisory is about."""

    ecosystem: Text
    name: Text


class AdvisorySeverity(Struct, frozen=True, kw_only=True):
    """How bad it is, such as ``CVSS_V3`` and its vector."""

    type: Text
    score: Text


class AffectedModule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The versions of one module that are affected: those listed, and those in a range."""

    package: AdvisoryPackage | None = None
    ranges: Annotated[list[AdvisoryRange], _MANY] = []
    versions: Annotated[list[Text], _MANY] = []
    severity: Annotated[list[AdvisorySeverity], _MANY] = []


class AdvisoryReference(Struct, frozen=True, kw_only=True):
    """Where more is said."""

    type: Text
    url: Text


class Advisory(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``advisories.jsonl``, an OSV document; what it has more is kept, and not read."""

    schema_version: Text = ""
    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$", max_length=100)]
    modified: Moment
    published: Moment | None = None
    withdrawn: Moment | None = None
    """Since when it does not count any more."""
    aliases: Annotated[list[Text], _MANY] = []
    """What others call it, such as a CVE."""
    summary: Text = ""
    details: Annotated[str, Meta(max_length=100_000)] = ""
    severity: Annotated[list[AdvisorySeverity], _MANY] = []
    affected: Annotated[list[AffectedModule], _MANY] = []
    references: Annotated[list[AdvisoryReference], _MANY] = []
    database_specific: dict[str, Any] = field(default_factory=dict)


class ModuleAdvisory(Struct, frozen=True):
    """What an advisory says of one version of a module."""

    fixed_in: list[str]
    """The versions that it is fixed in, lowest first: of each range that has it, the next."""
    severity: list[AdvisorySeverity]


_DECODER = msgspec.json.Decoder(Advisory)


def parse_advisory(data: bytes) -> Advisory:
    """Return an advisory, checked: which versions it affects can be known.

    Raises:
        ValueError, ModpkgError: It is malformed.
    """
    advisory = _DECODER.decode(data)
    for affected in of_modules(advisory):
        for version in affected.versions:
            parse_version(version)
        for one in affected.ranges:
            if one.type in ORDERED:
                _sorted(one)
    return advisory


def of_modules(advisory: Advisory) -> list[AffectedModule]:
    """Return what an advisory says of modules, and not of packages of other ecosystems.

    Raises:
        InvalidValue: A name is malformed.
    """
    found = []
    for affected in advisory.affected:
        if affected.package is not None and affected.package.ecosystem == ECOSYSTEM:
            module_name(affected.package.name)
            found.append(affected)
    return found


def concerns(advisory: Advisory, name: str, version: str) -> ModuleAdvisory | None:
    """Return what an advisory says of a version of a module; None if that is not affected.

    Args:
        advisory: It was parsed by `parse_advisory`.
        name: The module's, in normal form.
        version: A version.
    """
    if advisory.withdrawn is not None:
        return None
    wanted = parse_version(version)
    fixed: set[Version] = set()
    severity: list[AdvisorySeverity] = []
    found = False
    for affected in of_modules(advisory):
        if affected.package is None or module_name(affected.package.name) != name:
            continue
        ranges = [one for one in affected.ranges if one.type in ORDERED]
        within = [one for one in ranges if _in_range(wanted, one)]
        if not within and wanted not in map(parse_version, affected.versions):
            continue
        found = True
        severity += affected.severity
        for one in within or ranges:
            later = [at for at, event in _sorted(one) if event.fixed is not None and at > wanted]
            fixed |= {*later[:1]}
    if not found:
        return None
    return ModuleAdvisory([str(one) for one in sorted(fixed)], severity or advisory.severity)


_FIRST = Version("0.dev0")
"""What ``introduced: 0`` stands for: lower than any version."""


def _sorted(one: AdvisoryRange) -> list[tuple[Version, AdvisoryEvent]]:
    """Return the events of a range with their versions, lowest first, without limits.

    Raises:
        RecordError: An event has no version, or several.
        InvalidValue: A version is malformed.
    """
    events = []
    for event in one.events:
        texts = [event.introduced, event.fixed, event.last_affected, event.limit]
        given = [text for text in texts if text is not None]
        if len(given) != 1:
            raise RecordError(
                "M209",
                what="an event of a range",
                kind="advisory",
                reason=f"it has {len(given)} versions",
                remedy="give it one of 'introduced', 'fixed', 'last_affected' and 'limit'",
            )
        if event.limit is None:
            first = event.introduced == "0"
            events.append((_FIRST if first else parse_version(given[0]), event))
        elif event.limit != "*":
            parse_version(event.limit)
    return sorted(events, key=lambda pair: pair[0])


def _in_range(version: Version, one: AdvisoryRange) -> bool:
    """Return whether a version is in a range, by the algorithm of the OSV schema."""
    limits = [event.limit for event in one.events if event.limit is not None]
    if limits and not any(limit == "*" or version < parse_version(limit) for limit in limits):
        return False
    affected = False
    for at, event in _sorted(one):
        if event.introduced is not None and version >= at:
            affected = True
        elif (event.fixed is not None and version >= at) or (
            event.last_affected is not None and version > at
        ):
            affected = False
    return affected


def severity_of(advisory: Advisory, concern: ModuleAdvisory) -> str:
    """Return how bad it is, in the words of the advisory: ``HIGH``, or a CVSS vector; or empty."""
    level = advisory.database_specific.get("severity")
    if isinstance(level, str) and 0 < len(level) <= 100:
        return level
    return next((one.score for one in concern.severity), "")


def malformed_reason(error: Exception) -> str:
    """Return why a document is no advisory, as a clause."""
    from modpkg.core.decoding import decoding_reason

    if isinstance(error, ModpkgError):
        return str(error).rstrip(".")
    return decoding_reason(error)
