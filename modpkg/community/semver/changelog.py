"""``modpkg changelog``: what changed between two releases, or two locks, for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from modpkg.community.diff.tensors import TensorDiff, WeightsDiff, diff_tensors
from modpkg.community.evaluate.report import loss
from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.check import Check
from modpkg.community.semver.levels import LEVELS, Fact
from modpkg.core.progress import Progress
from modpkg.core.report import TestResult
from modpkg.core.tensors import identity_of
from modpkg.resolve.lock import Lock, LockedModule

_HEADINGS = {
    "major": "Breaking",
    "minor": "New",
    "patch": "Changed",
    "none": "Also",
}
_MOST = 40
"""Most rows of a table; the rest is counted."""


class LayerChange(Struct, frozen=True, kw_only=True):
    """The tensors of one layer that are not the same."""

    layer: int | None
    """None for tensors outside of layers."""
    tensors: int
    changed: int
    """Values that are others, of those that both editions have in one shape."""
    values: int
    relative: float | None
    """‖B − A‖ / ‖A‖ of the tensors that changed; None where none is in both."""


class Figure(Struct, frozen=True, kw_only=True):
    """What a test gave before and after."""

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
    """Why the later one was yanked."""
    breaking: str = ""
    """The reason that it was published with, although it breaks."""


class LockChange(Struct, frozen=True, kw_only=True):
    """One module of an app's lock that is another, new or gone."""

    name: str
    before: str | None
    after: str | None
    changes: ReleaseChanges | None = None
    """For two versions of a module."""


def layer_changes(
    before: ModuleView, after: ModuleView, progress: Progress
) -> tuple[LayerChange, ...]:
    """Compare the tensors whose digests differ, and return them by layer, the outer ones first.

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
    found = diff_tensors(old, new, progress.advance)
    groups: dict[int | None, list[TensorDiff]] = {}
    for tensor in found.tensors:
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
    """Return what tests gave, by the reports of two releases; those that have none give none.

    Raises:
        TestError: a report is none.
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
    """Return the modules that two locks do not have alike, in the order of the later one."""
    names = dict.fromkeys(module.name for lock in (after, before) for module in lock.module)
    pairs = [(name, before.find(name), after.find(name)) for name in names]
    return [
        (name, one, two)
        for name, one, two in pairs
        if one is None or two is None or one.release != two.release
    ]


def release_markdown(found: ReleaseChanges, *, depth: int = 1) -> str:
    """Return what changed in one module as Markdown; ``depth`` is that of its heading."""
    check = found.check
    title = f"{check.name} {check.against} to {check.version}"
    lines = [f"{'#' * depth} {title}", "", f"{_escaped(check.change)}."]
    if found.yanked is not None:
        lines += ["", f"**{check.version} was yanked**: {found.yanked or 'no reason was given'}"]
    if found.breaking:
        lines += ["", f"**Published although it breaks**: {_escaped(found.breaking)}"]
    if found.licenses[0] != found.licenses[1]:
        lines += ["", f"**The licence changed** from {found.licenses[0]} to {found.licenses[1]}."]
    for level in reversed(LEVELS):
        told = [fact for fact in check.facts if fact.level == level]
        if told:
            lines += ["", f"{'#' * (depth + 1)} {_HEADINGS[level]}", "", *map(_item, told)]
    if found.layers:
        lines += ["", f"{'#' * (depth + 1)} Weights by layer", "", *_layer_table(found.layers)]
    lines += ["", f"{'#' * (depth + 1)} Tests", "", *_test_lines(found)]
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


def _test_lines(found: ReleaseChanges) -> list[str]:
    if not found.figures:
        note = found.check.tests.note if found.check.tests is not None else ""
        return [
            f"{note[:1].upper()}{note[1:]}" if note else "Neither release has results of tests."
        ]
    rows = [
        [
            _escaped(f"{one.suite}: {one.test}"),
            one.metric,
            "-" if one.before is None else f"{one.before:.4g}",
            "-" if one.after is None else f"{one.after:.4g}",
            one.verdict,
        ]
        for one in found.figures
    ]
    return _table(["Test", "Metric", "Before", "After", "Verdict"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _escaped(text: str) -> str:
    """Return text of others as Markdown that shows it, and does nothing else."""
    for mark in "\\`*_{}[]<>|#":
        text = text.replace(mark, "\\" + mark)
    return "".join(char if char.isprintable() else "?" for char in text)


def lock_markdown(changed: Sequence[LockChange]) -> str:
    """Return what changed between two locks as Markdown."""
    if not changed:
        return "# Modules\n\nBoth locks name the same releases.\n"
    rows = [[one.name, one.before or "-", one.after or "-", _change(one)] for one in changed]
    parts = ["\n".join(["# Modules", "", *_table(["Module", "Was", "Is", "Change"], rows)]) + "\n"]
    parts += [release_markdown(one.changes, depth=2) for one in changed if one.changes is not None]
    return "\n".join(parts)


def _change(one: LockChange) -> str:
    if one.changes is None:
        return "new" if one.before is None else "gone"
    return one.changes.check.level if one.before != one.after else "another release"
