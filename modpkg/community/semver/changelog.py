"""``modpkg changelog``: the changes between two releases or two locks, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct, structs

from modpkg.community.diff.tensors import TensorDiff, WeightsDiff, diff_tensors
from modpkg.community.evaluate.report import loss
from modpkg.community.modules.view import ModuleView, view_of_release
from modpkg.community.semver.check import Check, check
from modpkg.community.semver.levels import LEVELS, Fact
from modpkg.community.semver.releases import published_versions
from modpkg.core.progress import Progress
from modpkg.core.records import IndexLine
from modpkg.core.report import TestResult
from modpkg.core.tensors import identity_of
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.resolve.lock import Lock, LockedModule

_HEADINGS = {
    "major": "Breaking",
    "minor": "New",
    "patch": "Changed",
    "none": "Also",
}
_MOST = 40
"""Most rows of a table; further ones are only counted."""


class LayerChange(Struct, frozen=True, kw_only=True):
    """The tensors of one layer that changed."""

    layer: int | None
    """None for tensors outside of layers."""
    tensors: int
    changed: int
    """Changed values, in tensors that both versions have in one shape."""
    values: int
    relative: float | None
    """‖B − A‖ / ‖A‖ of the tensors that changed; None if no tensor is in both."""


class Figure(Struct, frozen=True, kw_only=True):
    """A test's value before and after."""

    suite: str
    test: str
    metric: str
    before: float | None
    after: float | None
    verdict: Literal["better", "worse", "same", "new", "gone", "another test"]


class ReleaseChanges(Struct, frozen=True, kw_only=True):
    """What changed from one release of a module to another."""

    check: Check
    layers: tuple[LayerChange, ...]
    figures: tuple[Figure, ...]
    licenses: tuple[str, str]
    yanked: str | None = None
    """Why the later release was yanked; None if it was not."""
    breaking: str = ""
    """The reason given for publishing a breaking change without a breaking version."""


class LockChange(Struct, frozen=True, kw_only=True):
    """A module of an app's lock that was changed, added or removed."""

    name: str
    before: str | None
    after: str | None
    changes: ReleaseChanges | None = None
    """Between two versions of it; None otherwise."""


class LockChanges(Struct, frozen=True):
    """What changed from one lock of an app to another."""

    modules: tuple[LockChange, ...]


def layer_changes(
    before: ModuleView, after: ModuleView, progress: Progress
) -> tuple[LayerChange, ...]:
    """Compare the tensors that differ, and return them by layer, those outside of layers first.

    Raises:
        What fetching either release can raise.
    """
    names = [
        name
        for name in before.tensors.keys() | after.tensors.keys()
        if name not in before.tensors
        or name not in after.tensors
        or identity_of(before.tensors[name]) != identity_of(after.tensors[name])
    ]
    if not names:
        return ()
    old = before.locate([name for name in names if name in before.tensors])
    new = after.locate([name for name in names if name in after.tensors])
    diff = diff_tensors(old, new, progress.advance)
    groups: dict[int | None, list[TensorDiff]] = {}
    for tensor in diff.tensors:
        groups.setdefault(tensor.layer, []).append(tensor)
    return tuple(_layer(layer, tensors) for layer, tensors in groups.items())


def _layer(layer: int | None, tensors: Sequence[TensorDiff]) -> LayerChange:
    whole = WeightsDiff(tuple(tensors))
    relative = whole.relative if whole.elements else None
    return LayerChange(
        layer=layer,
        tensors=len(tensors),
        changed=whole.changed,
        values=whole.elements,
        relative=relative if relative is None or relative < float("inf") else None,
    )


def figures(before: ModuleView, after: ModuleView) -> tuple[Figure, ...]:
    """Return the values of tests in the reports of two releases, as far as they have reports.

    Raises:
        TestError: A report is malformed.
    """
    old, new = before.report(), after.report()
    one = {(r.suite, r.test): r for r in old.results} if old is not None else {}
    two = {(r.suite, r.test): r for r in new.results} if new is not None else {}
    return tuple(_figure(one.get(key), two.get(key)) for key in dict.fromkeys([*one, *two]))


def _figure(old: TestResult | None, new: TestResult | None) -> Figure:
    known = old or new
    if known is None:
        raise AssertionError("a figure is of some result")
    verdict: Literal["better", "worse", "same", "new", "gone", "another test"]
    if old is None:
        verdict = "new"
    elif new is None:
        verdict = "gone"
    elif old.digest != new.digest:
        verdict = "another test"
    else:
        lost = loss(old, new)
        verdict = "same" if not lost else "worse" if lost > 0 else "better"
    return Figure(
        suite=known.suite,
        test=known.test,
        metric=known.metric,
        before=None if old is None else old.value,
        after=None if new is None else new.value,
        verdict=verdict,
    )


def lock_changes(
    before: Lock, after: Lock
) -> list[tuple[str, LockedModule | None, LockedModule | None]]:
    """Return the modules that differ between two locks, in the order of the later one."""
    names = dict.fromkeys(module.name for lock in (after, before) for module in lock.module)
    pairs = [(name, before.find(name), after.find(name)) for name in names]
    return [
        (name, one, two)
        for name, one, two in pairs
        if one is None or two is None or one.release != two.release
    ]


def changes_between(
    one: IndexLine, two: IndexLine, workspace: Workspace, *, count: bool
) -> ReleaseChanges:
    """Return what changed from one release of a module to another.

    Without ``count``, weights are fetched only if the level depends on how many values changed.

    Raises:
        TestError: A report is malformed. What reading and fetching the releases can raise.
    """
    registries = workspace.registries
    before, after = (view_of_release(line, workspace) for line in (one, two))
    workspace.progress.stage("Comparing")
    with workspace.store.lock():
        result = check(before, after, published=published_versions(registries), count=count)
        layers = layer_changes(before, after, workspace.progress) if count else ()
    record = after.record
    return ReleaseChanges(
        check=result,
        layers=layers,
        figures=figures(before, after),
        licenses=(before.module.license, after.module.license),
        yanked=two.yanked,
        breaking="" if record is None else record.provenance.breaking or "",
    )


def lock_changelog(before: Lock, after: Lock, workspace: Workspace) -> list[LockChange]:
    """Return what changed from one lock of an app to another, module by module.

    Raises:
        What reading the registries can raise.
    """
    changed = []
    for name, one, two in lock_changes(before, after):
        changes = None
        if one is not None and two is not None and one.version != two.version:
            lines = [_locked_line(module, workspace.registries) for module in (one, two)]
            changes = changes_between(lines[0], lines[1], workspace, count=False)
        changed.append(
            LockChange(
                name=name,
                before=None if one is None else one.version,
                after=None if two is None else two.version,
                changes=changes,
            )
        )
    return changed


def _locked_line(module: LockedModule, registries: Registries) -> IndexLine:
    """Return the index line of a locked release: that of its version, with the lock's digest."""
    line = registries.of(module.name).line(module.name, module.version)
    return structs.replace(line, release=module.release)


def release_markdown(changes: ReleaseChanges, *, depth: int = 1) -> str:
    """Return the changes of one module as Markdown, with headings from level ``depth``."""
    check = changes.check
    title = f"{check.name} {check.against} to {check.version}"
    lines = [f"{'#' * depth} {title}", "", f"{_escaped(check.change)}."]
    if changes.yanked is not None:
        lines += ["", f"**{check.version} was yanked**: {changes.yanked or 'no reason given'}"]
    if changes.breaking:
        lines += ["", f"**Published as a breaking change**: {_escaped(changes.breaking)}"]
    if changes.licenses[0] != changes.licenses[1]:
        lines += [
            "",
            f"**The licence changed** from {changes.licenses[0]} to {changes.licenses[1]}.",
        ]
    for level in reversed(LEVELS):
        facts = [fact for fact in check.facts if fact.level == level]
        if facts:
            lines += ["", f"{'#' * (depth + 1)} {_HEADINGS[level]}", "", *map(_item, facts)]
    if changes.layers:
        lines += ["", f"{'#' * (depth + 1)} Weights by layer", "", *_layer_table(changes.layers)]
    lines += ["", f"{'#' * (depth + 1)} Tests", "", *_test_lines(changes)]
    return "\n".join(lines) + "\n"


def _item(fact: Fact) -> str:
    return f"- {_escaped(fact.about)}: {_escaped(fact.text)}"


def _layer_table(layers: Sequence[LayerChange]) -> list[str]:
    rows = [
        [
            "outside" if one.layer is None else str(one.layer),
            str(one.tensors),
            f"{one.changed} of {one.values}" if one.values else "-",
            "-" if one.relative is None else f"{one.relative:.3g}",
        ]
        for one in layers[:_MOST]
    ]
    rest = [f"\n… and {len(layers) - _MOST} more layers."] if len(layers) > _MOST else []
    return [*_table(["Layer", "Tensors", "Values changed", "Relative change"], rows), *rest]


def _test_lines(changes: ReleaseChanges) -> list[str]:
    if not changes.figures:
        note = changes.check.tests.note if changes.check.tests is not None else ""
        return [f"{note[:1].upper()}{note[1:]}" if note else "Neither release has test results."]
    rows = [
        [
            _escaped(f"{one.suite}: {one.test}"),
            one.metric,
            "-" if one.before is None else f"{one.before:.4g}",
            "-" if one.after is None else f"{one.after:.4g}",
            one.verdict,
        ]
        for one in changes.figures
    ]
    return _table(["Test", "Metric", "Before", "After", "Verdict"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _escaped(text: str) -> str:
    """Return untrusted text escaped for Markdown."""
    for mark in "\\`*_{}[]<>|#":
        text = text.replace(mark, "\\" + mark)
    return "".join(char if char.isprintable() else "?" for char in text)


def lock_markdown(changed: Sequence[LockChange]) -> str:
    """Return the changes between two locks as Markdown."""
    if not changed:
        return "# Modules\n\nBoth locks name the same releases.\n"
    rows = [[one.name, one.before or "-", one.after or "-", _change(one)] for one in changed]
    parts = [
        "\n".join(["# Modules", "", *_table(["Module", "Before", "After", "Change"], rows)]) + "\n"
    ]
    parts += [release_markdown(one.changes, depth=2) for one in changed if one.changes is not None]
    return "\n".join(parts)


def _change(one: LockChange) -> str:
    if one.changes is None:
        return "added" if one.before is None else "removed"
    return one.changes.check.level if one.before != one.after else "another release"
