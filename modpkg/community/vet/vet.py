"""Vetting: a candidate beside the release before it, with its tests and its dependants'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from modpkg.community.evaluate.report import Report, parse_report
from modpkg.community.evaluate.subject import (
    Pin,
    Release,
    Runnable,
    built_release,
    release_model,
    trial_registries,
)
from modpkg.community.evaluate.test_runner import Bench, Tried, all_tests
from modpkg.community.vet.change import Change, changes
from modpkg.community.vet.dependants import Dependant, dependants_of
from modpkg.community.vet.verdict import Claim, State, Tested, Vetting, verdict
from modpkg.core.digests import Digest
from modpkg.core.errors import MissingExtra, ModpkgError, TestAborted, TestError
from modpkg.core.filenames import REGISTRY_INFO, REPORT
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import NO_OPTIONS as NO_WISHES
from modpkg.environment.workspace import RegistryOptions as Wishes
from modpkg.manifest.find import find_manifest
from modpkg.manifest.read import read_manifest
from modpkg.manifest.schema import Manifest
from modpkg.registry.reader import Registry
from modpkg.registry.select import earlier_release
from modpkg.store.store import Store

CLOSE = 1e-4
"""How far a value of a report may be from what is measured here: machines round differently."""


class Bureau(msgspec.Struct, frozen=True):
    """What vetting works with."""

    store: Store
    progress: Progress
    bench: Bench
    wishes: Wishes = NO_WISHES


@contextmanager
def candidate_of(text: str, around: Manifest, bureau: Bureau) -> Iterator[Release]:
    """Yield what a person named: a module project, a built release, or ``NAME==VERSION``.

    Raises:
        TestError: it is none of these. What building and reading registries raise.
    """
    path = Path(text)
    if (path / REGISTRY_INFO).is_file():
        yield _built(path.absolute(), around)
    elif path.is_dir():
        found = find_manifest(path.absolute())
        if found is None:
            raise TestError(
                "M721", what=text, reason="there is neither a modpkg.toml nor a release"
            )
        manifest = read_manifest(found)
        with built_release(manifest, bureau.store, bureau.progress, bureau.wishes) as release:
            yield release
    else:
        name, separator, version = text.partition("==")
        if not separator:
            raise TestError(
                "M721", what=text, reason="it is neither a folder nor a release (NAME==VERSION)"
            )
        yield published(module_name(name), version, around, bureau)


def _built(tree: Path, around: Manifest) -> Release:
    registry = Registry(str(tree))
    lines = [line for name in registry.names() or [] for line in registry.index(name)]
    if len(lines) != 1:
        raise TestError("M721", what=tree, reason=f"it holds {len(lines)} releases, and not one")
    pin = Pin(module_name(lines[0].name), lines[0].version, str(tree))
    return Release(pin=pin, record=registry.record(lines[0]), around=around)


def published(name: ModuleName, version: str, around: Manifest, bureau: Bureau) -> Release:
    """Return a release of a registry.

    Raises:
        NotFound. What reading a registry raises.
    """
    registry = _registries(around, (), bureau).of(name)
    line = registry.line(name, str(parse_version(version)))
    return Release(pin=Pin(name, line.version), record=registry.record(line), around=around)


def _registries(around: Manifest, pins: Sequence[Pin], bureau: Bureau) -> Registries:
    return trial_registries(around, pins, bureau.store, bureau.progress, bureau.wishes)


def release_before(candidate: Release, against: str | None, bureau: Bureau) -> Release | None:
    """Return the release to compare a candidate with; None where there is none before it.

    ``against`` is ``NAME==VERSION`` or a version; by default it is `earlier_release`.

    Raises:
        NotFound. What reading a registry raises.
    """
    name = candidate.pin.name
    if against is not None:
        named, separator, version = against.partition("==")
        if separator:
            return published(module_name(named), version, candidate.around, bureau)
        return published(name, against, candidate.around, bureau)
    registry = _registries(candidate.around, (), bureau).of(name)
    line = earlier_release(registry.index(name), parse_version(candidate.pin.version))
    return None if line is None else published(name, line.version, candidate.around, bureau)


def vet(
    candidate: Release, against: Release | None, bureau: Bureau, *, most: int | None = 10
) -> Vetting:
    """Return what the tests say of a candidate and of what depends on it.

    Tests are the candidate's, and those of ``against`` that it lacks or has otherwise: taking a
    test out hides nothing. ``most`` dependants are tested, None for all. Outcomes that the store
    has are not computed again.

    Raises:
        TestAborted, TestError: of its own tests.
        What resolving, fetching and composing raise.
    """
    store, bench = bureau.store, bureau.bench
    with store.used():
        registries = _registries(candidate.around, [candidate.pin], bureau)
        tests = all_tests(candidate.record, registries, store)
        own = {(item.suite, item.test.name, item.digest) for item in tests}
        if against is not None:
            before_registries = _registries(against.around, [against.pin], bureau)
            tests += [
                item
                for item in all_tests(against.record, before_registries, store)
                if (item.suite, item.test.name, item.digest) not in own
            ]
        current = [(item.suite, item.test.name, item.digest) in own for item in tests]
        after = bench.run(_model(candidate, bureau), tests)
        before = after if against is None else bench.run(_model(against, bureau), tests)
        found = changes(bench, tests, before, after, current)
        claim, lie = _claim(candidate, registries, after)
        dependants, count = _dependants(candidate, against, bureau, most)
    word, reason = verdict(
        found, dependants, earlier=against is not None, lie=lie, listed=count is not None
    )
    return Vetting(
        candidate=after.report.subject,
        composition=after.report.composition,
        against=None if against is None else before.report.subject,
        against_composition=None if against is None else before.report.composition,
        engine=after.report.engine,
        verdict=word,
        reason=reason,
        claim=claim,
        changes=found,
        dependants=dependants,
        dependants_found=count,
    )


def _model(release: Release, bureau: Bureau, others: Sequence[Pin] = ()) -> Runnable:
    return release_model(release, bureau.store, bureau.progress, bureau.wishes, others=others)


def _claim(candidate: Release, registries: Registries, after: Tried) -> tuple[Claim, str]:
    """Return whether the candidate's own report holds, and the sentence that says it lies."""
    if (entry := candidate.record.files.get(REPORT)) is None:
        return "none", ""
    what = f"{REPORT} of {candidate.record.name} {candidate.record.version}"
    registry = registries.of(candidate.record.name)
    claimed = parse_report(registry.blob(Digest(entry.digest), what), what)
    if claimed.composition != after.report.composition:
        return "other composition", ""
    lie = _lie(claimed, after.report)
    return ("does not hold", lie) if lie else ("holds", "")


def _lie(claimed: Report, measured: Report) -> str:
    by_digest = {(r.suite, r.test, r.digest): r for r in measured.results}
    for result in claimed.results:
        actual = by_digest.get((result.suite, result.test, result.digest))
        if actual is None:
            return f"Its report has test {result.test!r} of {result.suite}, which is not there."
        if abs(actual.value - result.value) > CLOSE * max(1.0, abs(actual.value)):
            return (
                f"Its report says that {result.test!r} of {result.suite} gives "
                f"{result.metric} {result.value:.4g}, and it gives {actual.value:.4g}."
            )
    return ""


def _dependants(
    candidate: Release, against: Release | None, bureau: Bureau, most: int | None
) -> tuple[list[Tested], int | None]:
    """Return what became of the dependants, and how many there are."""
    name = candidate.pin.name
    registry = _registries(candidate.around, (), bureau).of(name)
    tensors = {key: entry.digest for key, entry in candidate.record.tensors.items()}
    found = dependants_of(name, candidate.pin.version, registry, tensors)
    if found is None:
        return [], None if most != 0 else 0
    tested = []
    left = len(found) if most is None else most
    for dependant in found:
        if not dependant.allows:
            reason = f"it asks for {dependant.asks}"
            tested.append(_told(dependant.line, "not allowed", reason))
        elif left > 0 and against is not None:
            left -= 1
            tested.append(_try_dependant(dependant, candidate, against, bureau))
    return tested, len(found)


def _told(line: IndexLine, state: State, reason: str = "", found: Sequence[Change] = ()) -> Tested:
    return Tested(
        name=line.name,
        version=line.version,
        kind=line.kind,
        state=state,
        reason=reason,
        changes=list(found),
    )


def _try_dependant(
    dependant: Dependant, candidate: Release, against: Release, bureau: Bureau
) -> Tested:
    """Run a dependant's tests with the release before and with the candidate."""
    line = dependant.line
    around = candidate.around
    try:
        release = published(module_name(line.name), line.version, around, bureau)
        registries = _registries(around, (), bureau)
        tests = all_tests(release.record, registries, bureau.store)
        model = _model(release, bureau, [against.pin])
        before = bureau.bench.run(model, tests)
    except ModpkgError as error:
        return _told(line, "not tested", f"before: {_clause(error)}")
    try:
        after = bureau.bench.run(_model(release, bureau, [candidate.pin]), tests)
    except (TestAborted, MissingExtra) as error:
        return _told(line, "not tested", _clause(error))
    except ModpkgError as error:
        return _told(line, "broken", f"cannot run with it ({_clause(error)})")
    if not tests:
        return _told(line, "no tests")
    found = changes(bureau.bench, tests, before, after, [True] * len(tests))
    return _told(line, "tested", "", found)


def _clause(error: ModpkgError) -> str:
    return " ".join(str(error).split()).rstrip(".")
