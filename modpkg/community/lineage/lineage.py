"""Lineage: the releases that each release of a module was made from, back to the first."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from modpkg.core.errors import ModpkgError
from modpkg.core.names import parse_version
from modpkg.core.records import BuiltFrom, IndexLine, Relation
from modpkg.registry.reader import Registry
from modpkg.release.verify import check_record

RELATIONS: dict[Relation, str] = {
    "built": "built on",
    "merged": "merged from",
    "trained": "trained from",
    "forked": "forked from",
    "patched": "patched from",
}
"""Relations in words."""
MOST_RELEASES = 2000
"""Most releases read for one lineage; a hostile registry could have an endless one."""


class Parent(Struct, frozen=True):
    """One release that another was made from."""

    release: str
    """Its digest."""
    relation: Relation


class Ancestor(Struct, frozen=True, kw_only=True):
    """One release of a lineage."""

    name: str
    version: str
    release: str
    kind: str = ""
    license: str = ""
    published: str = ""
    yanked: str | None = None
    breaking: str = ""
    """Why it was published although its version should have been higher."""
    parents: tuple[Parent, ...] = ()
    missing: str = ""
    """Why it could not be read, as a clause; empty if it was read."""

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


class Lineage(Struct, frozen=True):
    """The releases of a module, and all that they were made from."""

    name: str
    releases: tuple[str, ...]
    """Digests of the module's own releases, newest first."""
    ancestors: dict[str, Ancestor]
    """By digest: these, and all that they were made from."""
    cut: bool
    """Whether releases beyond `MOST_RELEASES` were left out."""


def read_lineage(name: str, registry_of: Callable[[str], Registry]) -> Lineage:
    """Read the lineage of all releases of a module; see `read_ancestors`.

    Raises:
        What reading the module's own index can raise.
    """
    lines = sorted(registry_of(name).index(name), key=lambda line: parse_version(line.version))
    lines.reverse()
    ancestors, cut = read_ancestors(
        (BuiltFrom(line.name, line.version, line.release) for line in lines), registry_of
    )
    own = tuple(line.release for line in lines if line.release in ancestors)
    return Lineage(name, own, ancestors, cut=cut)


def read_ancestors(
    origins: Iterable[BuiltFrom], registry_of: Callable[[str], Registry]
) -> tuple[dict[str, Ancestor], bool]:
    """Return releases and all that they were made from, by digest, and whether some are left out.

    Releases name each other by digest, so no circle is possible. One that the registry lacks, or
    that cannot be read, is included with the reason.
    """
    ancestors: dict[str, Ancestor] = {}
    pending = deque(origins)
    while pending and len(ancestors) < MOST_RELEASES:
        origin = pending.popleft()
        if origin.release in ancestors:
            continue
        ancestors[origin.release], more = _read(origin, registry_of)
        pending += more
    left = {origin.release: origin for origin in pending if origin.release not in ancestors}
    for release, origin in itertools.islice(left.items(), MOST_RELEASES):
        ancestors[release] = _missing(origin, "too many releases")
    return ancestors, bool(left)


def _read(
    origin: BuiltFrom, registry_of: Callable[[str], Registry]
) -> tuple[Ancestor, list[BuiltFrom]]:
    """Return one release and what it was made from."""
    try:
        registry = registry_of(origin.name)
        line = _line(registry.index(origin.name), origin)
        if isinstance(line, str):
            return _missing(origin, f"{line} {registry.url}"), []
        record = registry.record(line)
        check_record(record)
    except ModpkgError as error:
        return _missing(origin, f"cannot be read: {error}"), []
    made = record.provenance.built_from
    ancestor = Ancestor(
        name=record.name,
        version=record.version,
        release=origin.release,
        kind=record.kind,
        license=record.license,
        published=line.published,
        yanked=line.yanked,
        breaking=record.provenance.breaking or "",
        parents=tuple(Parent(one.release, one.relation or "built") for one in made),
    )
    return ancestor, made


def _line(lines: Iterable[IndexLine], origin: BuiltFrom) -> IndexLine | str:
    """Return the index line of a release, or why there is none."""
    for line in lines:
        if line.release == origin.release:
            return line
    wanted = parse_version(origin.version)
    if any(parse_version(line.version) == wanted for line in lines):
        return "another release has this version in"
    return "not in"


def _missing(origin: BuiltFrom, reason: str) -> Ancestor:
    return Ancestor(
        name=origin.name, version=origin.version, release=origin.release, missing=reason
    )


def in_order(ancestors: Mapping[str, Ancestor]) -> list[str]:
    """Return digests in topological order: each after its parents, else oldest first.

    A circle, which only wrong digests can make, comes last.
    """
    left = {
        digest: len({parent.release for parent in node.parents} & ancestors.keys())
        for digest, node in ancestors.items()
    }
    children: dict[str, set[str]] = {}
    for digest, node in ancestors.items():
        for parent in node.parents:
            children.setdefault(parent.release, set()).add(digest)

    def rank(digest: str) -> tuple[str, str, str, str]:
        node = ancestors[digest]
        return node.published, node.name, node.version, digest

    ready = [rank(digest) for digest, count in left.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        digest = heapq.heappop(ready)[-1]
        order.append(digest)
        for child in children.get(digest, ()):
            left[child] -= 1
            if not left[child]:
                heapq.heappush(ready, rank(child))
    return [*order, *sorted(ancestors.keys() - set(order))]


class TreeLine(Struct, frozen=True):
    """One line of a lineage's tree."""

    depth: int
    last: tuple[bool, ...]
    """For each level above and its own, whether it is the last of its siblings."""
    ancestor: Ancestor
    relation: Relation | None
    """None for the module's own releases."""
    repeated: bool
    """Whether its ancestors are left out because another line has them."""


def tree_lines(lineage: Lineage) -> list[TreeLine]:
    """Return the tree of a lineage, line by line; the ancestors of each release are listed once."""
    shown: set[str] = set()
    lines: list[TreeLine] = []
    own = set(lineage.releases)
    for root in lineage.releases:
        pending: list[tuple[str, Relation | None, tuple[bool, ...]]] = [(root, None, ())]
        while pending:
            digest, relation, last = pending.pop()
            node = lineage.ancestors[digest]
            repeated = bool(node.parents) and (
                digest in shown or (relation is not None and digest in own)
            )
            lines.append(TreeLine(len(last), last, node, relation, repeated))
            if repeated:
                continue
            shown.add(digest)
            below = [
                (parent.release, parent.relation, (*last, number == len(node.parents) - 1))
                for number, parent in enumerate(node.parents)
                if parent.release in lineage.ancestors
            ]
            pending += reversed(below)
    return lines
