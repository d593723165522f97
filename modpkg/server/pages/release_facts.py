"""What pages say of a release, out of its record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Struct

from modpkg.core.digests import Digest
from modpkg.core.records import IndexLine, Provenance, ReleaseRecord, TensorEntry
from modpkg.core.tensors import byte_length
from modpkg.registry.module_lines import task_kind
from modpkg.server.pages.readme import readme_path

_MOST = 50
"""Files, tests or steps that are kept to be shown; a release may have many thousands."""


class ShownTest(Struct, frozen=True):
    """A test that a release promises to pass."""

    name: str
    promise: str
    """Its metric and limit: ``rouge_l ≥ 0.3``."""


class ShownFile(Struct, frozen=True):
    """A file of a release."""

    path: str
    size: int


class ShownStep(Struct, frozen=True):
    """A step of a composition."""

    operator: str
    modules: tuple[str, ...]


class MadeFrom(Struct, frozen=True):
    """A release that another was built against or made from."""

    name: str
    version: str
    release: str
    relation: str
    """In words: ``built against``, ``forked from`` …"""


class ReleaseFacts(Struct, frozen=True, kw_only=True):
    """What pages say of a release without reading its record again; it never changes."""

    name: str
    version: str
    kind: str
    summary: str
    license: str
    task: str
    requires: tuple[str, ...]
    extras: dict[str, tuple[str, ...]]
    requires_modpkg: str
    """A specifier; empty for any version."""
    base: str
    """What it is composed on, or acts on; empty if neither."""
    steps: tuple[ShownStep, ...]
    """What is composed on it, in order."""
    tests: tuple[ShownTest, ...]
    tests_left: int
    """How many tests are left out of these."""
    tensors: int
    parameters: int
    dtypes: tuple[tuple[str, int], ...]
    """With how many tensors have it, the commonest first."""
    files: tuple[ShownFile, ...]
    files_left: int
    has_readme: bool
    size: int
    """Bytes of its packs and files: what installing it fetches where nothing of it is there."""
    made_from: tuple[MadeFrom, ...]
    built_with: str
    breaking: str
    tags: tuple[str, ...]
    """Its card's tags and languages."""


_RELATIONS = {
    "built": "built against",
    "merged": "merged from",
    "trained": "trained from",
    "forked": "forked from",
    "patched": "patched from",
}


def facts_of(record: ReleaseRecord) -> ReleaseFacts:
    """Return what pages say of a release."""
    base, steps = _composition(record.manifest)
    if not base and record.expects:
        base = next(iter(record.expects))
    tests = _tests(record.manifest)
    paths = sorted(record.files)
    dtypes = Counter(entry.dtype for entry in record.tensors.values())
    made = record.provenance
    return ReleaseFacts(
        name=record.name,
        version=record.version,
        kind=record.kind,
        summary=record.summary,
        license=record.license,
        task=task_kind(record),
        requires=tuple(record.requires),
        extras={name: tuple(of) for name, of in record.extras.items()},
        requires_modpkg="" if record.requires_modpkg is UNSET else record.requires_modpkg,
        base=base,
        steps=steps,
        tests=tuple(tests[:_MOST]),
        tests_left=max(0, len(tests) - _MOST),
        tensors=len(record.tensors),
        parameters=sum(math.prod(entry.shape) for entry in record.tensors.values()),
        dtypes=tuple(dtypes.most_common(6)),
        files=tuple(ShownFile(path, record.files[path].size) for path in paths[:_MOST]),
        files_left=max(0, len(paths) - _MOST),
        has_readme=readme_path(record) is not None,
        size=sum(record.packs.values()) + sum(entry.size for entry in record.files.values()),
        made_from=tuple(
            MadeFrom(one.name, one.version, one.release, _RELATIONS[one.relation or "built"])
            for one in made.built_from[:_MOST]
        ),
        built_with=made.built_with,
        breaking="" if made.breaking is UNSET else made.breaking,
        tags=_tags(record.manifest),
    )


def facts_of_removed(line: IndexLine) -> ReleaseFacts:
    """Return what pages say of a release that was removed: what its index line has."""
    provenance = Provenance(built_with="")
    kept = ReleaseRecord(
        name=line.name,
        version=line.version,
        kind=line.kind,
        license="",
        requires=line.requires,
        extras=line.extras,
        manifest={},
        provenance=provenance,
    )
    return facts_of(kept)


def update_bytes(before: ReleaseRecord, after: ReleaseRecord) -> int:
    """Return how many bytes an update from one release to another fetches.

    Tensors and files that the earlier release has, by digest, are there already; a tensor that is
    encoded on one of them needs its payload, and its chain's down to what is there.
    """
    here = {entry.digest for entry in before.tensors.values()}
    files = {entry.digest for entry in before.files.values()}
    entries: dict[str, TensorEntry] = {entry.digest: entry for entry in after.tensors.values()}
    sources = {} if after.sources is UNSET else after.sources
    total = sum({e.digest: e.size for e in after.files.values() if e.digest not in files}.values())
    pending, seen = list(entries), set(here)
    while pending:
        digest = pending.pop()
        entry = entries.get(digest) or sources.get(Digest(digest))
        if digest in seen or entry is None:
            continue
        seen.add(digest)
        total += entry.length
        if entry.encoding is not None and entry.encoding.base is not None:
            pending.append(entry.encoding.base)
    return total


def changed_share(entry: TensorEntry) -> float | None:
    """Return how much of its bytes an encoded tensor takes, above 0 and below 1; None if plain."""
    if entry.encoding is None or not (plain := byte_length(entry)):
        return None
    return entry.length / plain


def _composition(manifest: Mapping[str, Any]) -> tuple[str, tuple[ShownStep, ...]]:
    compose = manifest.get("compose")
    if not isinstance(compose, dict):
        return "", ()
    base, steps = compose.get("base"), compose.get("steps")
    shown = []
    for step in steps[:_MOST] if isinstance(steps, list) else []:
        if isinstance(step, dict):
            modules = step.get("modules", [step.get("module")])
            listed = [*modules][:_MOST] if isinstance(modules, (list, dict)) else []
            named = [one for one in listed if isinstance(one, str)]
            shown.append(ShownStep(str(step.get("op", "merge"))[:100], tuple(named)))
    return base if isinstance(base, str) else "", tuple(shown)


def _tests(manifest: Mapping[str, Any]) -> list[ShownTest]:
    tests = manifest.get("tests")
    found = []
    for test in tests if isinstance(tests, list) else []:
        if not isinstance(test, dict) or not isinstance(name := test.get("name"), str):
            continue
        promise = str(test.get("metric", ""))
        for key, sign in (("at_least", "≥"), ("at_most", "≤")):
            if key in test:
                promise += f" {sign} {test[key]}"
        found.append(ShownTest(name[:200], promise[:200]))
    return found


def _tags(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    card = manifest.get("card")
    if not isinstance(card, dict):
        return ()
    lists = (card.get("tags"), card.get("languages"))
    texts = [one for tags in lists if isinstance(tags, list) for one in tags]
    return tuple(one[:60] for one in texts if isinstance(one, str))[:20]
