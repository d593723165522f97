"""Facts about weights: which tensors changed, and how many of their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.levels import Fact, Level
from modpkg.core.digests import digest_file
from modpkg.core.records import ACTING_KINDS, Kind
from modpkg.core.tensors import HashedTensor, byte_length, identity_of, type_of

_PLACED = (".indices", ".values")


class Weights(Struct, frozen=True, kw_only=True):
    """The tensors of two versions, by name."""

    same: tuple[str, ...]
    changed: tuple[str, ...]
    """Same dtype and shape, other values."""
    grown: tuple[str, ...]
    """Appended rows: the first rows are the earlier tensor."""
    other: tuple[str, ...]
    """Another dtype or shape."""
    added: tuple[str, ...]
    removed: tuple[str, ...]
    values: int
    """Elements of the earlier version."""
    changed_values: int | None
    """How many of those changed or were removed; None if they were not counted, which happens only
    if they are a minority in any case."""
    touched_values: int
    """Elements of the earlier version in tensors that differ: an upper bound."""


def compare_weights(
    before: ModuleView,
    after: ModuleView,
    *,
    count: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Weights:
    """Compare tensors by digest, and count changed values where digests differ.

    Args:
        before: The earlier version.
        after: The later version.
        count: Whether to count values even if the level does not depend on their number.
        progress: Called with the bytes that were compared.

    Raises:
        What fetching either version can raise.
    """
    both = sorted(before.tensors.keys() & after.tensors.keys())
    pairs = {name: (before.tensors[name], after.tensors[name]) for name in both}
    same = [name for name in both if identity_of(pairs[name][0]) == identity_of(pairs[name][1])]
    known = set(same)
    differing = [name for name in both if name not in known]
    placed = {name for name in differing if _placed(name, before, after)}
    changed = [
        name
        for name in differing
        if type_of(pairs[name][0]) == type_of(pairs[name][1]) or name in placed
    ]
    longer = [name for name in differing if name not in placed and _is_longer(*pairs[name])]
    grown = _grown(before, after, longer)
    values = sum(map(_elements, before.tensors.values()))
    kept = sum(_elements(pairs[name][0]) for name in (*same, *grown))
    touched = values - kept
    changed_values: int | None = touched if not changed else None
    if changed and (count or 2 * touched >= values):
        changed_values = touched - _unchanged(before, after, changed, placed, progress)
    listed = {*same, *changed, *grown}
    return Weights(
        same=tuple(same),
        changed=tuple(changed),
        grown=tuple(grown),
        other=tuple(name for name in both if name not in listed),
        added=tuple(sorted(after.tensors.keys() - before.tensors.keys())),
        removed=tuple(sorted(before.tensors.keys() - after.tensors.keys())),
        values=values,
        changed_values=changed_values,
        touched_values=touched,
    )


def _elements(tensor: HashedTensor) -> int:
    return math.prod(tensor.shape)


def _placed(name: str, before: ModuleView, after: ModuleView) -> bool:
    """Return whether a tensor lists positions or values of a patch, whose number may change."""
    stem, dot, role = name.rpartition(".")
    if before.module.kind != "patch" or dot + role not in _PLACED:
        return False
    return all(
        f"{stem}{end}" in view.tensors
        and len(view.tensors[f"{stem}{end}"].shape) == 1
        and view.tensors[f"{stem}{end}"].dtype == before.tensors[f"{stem}{end}"].dtype
        for view in (before, after)
        for end in _PLACED
    )


def _is_longer(one: HashedTensor, two: HashedTensor) -> bool:
    return (
        one.dtype == two.dtype
        and len(one.shape) == len(two.shape) > 0
        and list(one.shape[1:]) == list(two.shape[1:])
        and one.shape[0] < two.shape[0]
    )


def _grown(before: ModuleView, after: ModuleView, names: list[str]) -> list[str]:
    """Return the longer tensors that start with the earlier one, byte for byte."""
    refs = after.locate(names) if names else {}
    grown = []
    for name in names:
        old = before.tensors[name]
        length = byte_length(old)
        if digest_file(Path(refs[name].file), refs[name].offset, length) == old.digest:
            grown.append(name)
    return grown


def _unchanged(
    before: ModuleView,
    after: ModuleView,
    changed: list[str],
    placed: set[str],
    progress: Callable[[int], None] | None,
) -> int:
    """Return how many elements of the changed tensors are unchanged."""
    from modpkg.community.diff.tensors import diff_tensors, unchanged_entries

    old, new = before.locate(changed), after.locate(changed)
    plain = [name for name in changed if name not in placed]
    diff = diff_tensors({n: old[n] for n in plain}, {n: new[n] for n in plain}, progress)
    stems = sorted({name.rpartition(".")[0] for name in placed})
    kept = 0
    for stem in stems:
        # one of the two may be equal on both sides, and was counted then
        ends = [f"{stem}{end}" for end in _PLACED]
        both = unchanged_entries(
            *(before.locate(ends)[end] for end in ends), *(after.locate(ends)[end] for end in ends)
        )
        kept += both * sum(end in placed for end in ends)
    return diff.elements - diff.changed + kept


def weight_facts(weights: Weights, kind: Kind, *, tests_hold: bool | None) -> list[Fact]:
    """Return what changed; nothing for modules without weights.

    Args:
        weights: The tensors of both versions.
        kind: The module's kind. What an adapter, expert or patch stores is all its own: other
            values, ranks or tensors are a retrained module, which promises what it promised.
        tests_hold: Whether no test got worse; None if the tests of both were not compared.
    """
    retrained: Level = "minor" if kind in ("adapter", "expert", "patch") else "major"
    facts = [
        *_tensors(weights.removed, "removed", retrained),
        *_tensors(weights.other, "of another dtype or shape", retrained),
        *_tensors(weights.grown, "with rows appended", "minor"),
        *_tensors(weights.added, "added", "minor"),
    ]
    counted = weights.changed_values
    if counted is None:
        text = f"at most {_percent(weights.touched_values / weights.values)} of the values changed"
        return [*facts, Fact("values", text, "patch")]
    if not counted and weights.changed:  # a patch with more positions
        facts += _tensors(weights.changed, "extended, with all earlier values kept", "patch")
    if counted:
        share = _percent(counted / weights.values)
        text = f"{counted} of {weights.values} values changed ({share})"
        level: Level = "patch"
        if 2 * counted >= weights.values and kind not in ACTING_KINDS:
            level = "major"
        elif 2 * counted >= weights.values:
            text += f"; the weights of this kind of module ({kind}) are all its own"
            text += ", and its tests hold" * bool(tests_hold)
            level = "patch" if tests_hold else "minor"
        facts.append(Fact("values", text, level))
    return facts


def _tensors(names: tuple[str, ...], what: str, level: Level) -> list[Fact]:
    if not names:
        return []
    shown = ", ".join(map(repr, names[:2])) + " …" * (len(names) > 2)
    count = f"{len(names)} tensors" if len(names) > 1 else "1 tensor"
    return [Fact("tensors", f"{count} {what}: {shown}", level)]


def _percent(share: float) -> str:
    """Return a share as a percentage that is never rounded to none or all."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{share * 100:.1f} %"
