"""Weights: which tensors are the same, and how many of the values are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from modpkg.community.modules.view import ModuleView
from modpkg.community.semver.levels import Fact, Level
from modpkg.core.digests import digest_file
from modpkg.core.tensors import HashedTensor, byte_length, identity_of, type_of

_PLACED = (".indices", ".values")


class Weights(Struct, frozen=True, kw_only=True):
    """The tensors of two editions, by name."""

    same: tuple[str, ...]
    changed: tuple[str, ...]
    """Of one dtype and shape, with other values."""
    grown: tuple[str, ...]
    """With more rows, the first of which are the earlier tensor."""
    other: tuple[str, ...]
    """Of another dtype or shape."""
    added: tuple[str, ...]
    removed: tuple[str, ...]
    values: int
    """Elements of the earlier edition."""
    changed_values: int | None
    """Of those, how many are other or gone; None where they were not counted, because they are
    a minority however many they are."""
    touched_values: int
    """Elements of the earlier edition in tensors that are not the same; no fewer."""


def compare_weights(
    before: ModuleView,
    after: ModuleView,
    *,
    count: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Weights:
    """Compare by digests, and count values only in tensors whose digests differ.

    Without ``count``, values are counted only where the level of the change hangs on it.
    ``progress`` is called with the bytes that were compared.

    Raises:
        What fetching the earlier release can raise.
    """
    both = sorted(before.tensors.keys() & after.tensors.keys())
    pairs = {name: (before.tensors[name], after.tensors[name]) for name in both}
    same = [name for name in both if identity_of(pairs[name][0]) == identity_of(pairs[name][1])]
    placed = [name for name in both if name not in same and _placed(name, before, after)]
    changed = [
        name
        for name in both
        if name not in same
        and (type_of(pairs[name][0]) == type_of(pairs[name][1]) or name in placed)
    ]
    longer = [n for n in both if n not in same and n not in placed and _is_longer(*pairs[n])]
    grown = _grown(before, after, longer)
    values = sum(map(_elements, before.tensors.values()))
    kept = sum(_elements(pairs[name][0]) for name in (*same, *grown))
    touched = values - kept
    found: int | None = touched if not changed else None
    if changed and (count or 2 * touched >= values):
        found = touched - _unchanged(before, after, changed, placed, progress)
    listed = {*same, *changed, *grown}
    return Weights(
        same=tuple(same),
        changed=tuple(changed),
        grown=tuple(grown),
        other=tuple(name for name in both if name not in listed),
        added=tuple(sorted(after.tensors.keys() - before.tensors.keys())),
        removed=tuple(sorted(before.tensors.keys() - after.tensors.keys())),
        values=values,
        changed_values=found,
        touched_values=touched,
    )


def _elements(tensor: HashedTensor) -> int:
    return math.prod(tensor.shape)


def _placed(name: str, before: ModuleView, after: ModuleView) -> bool:
    """Say whether the tensor lists places or values of a patch: their number may be another."""
    stem, dot, role = name.rpartition(".")
    if before.module.kind != "patch" or dot + role not in _PLACED:
        return False
    return all(
        f"{stem}{end}" in side.tensors
        and len(side.tensors[f"{stem}{end}"].shape) == 1
        and side.tensors[f"{stem}{end}"].dtype == before.tensors[f"{stem}{end}"].dtype
        for side in (before, after)
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
    """Return those of the longer tensors that begin with the earlier one, byte for byte."""
    refs = after.locate(names) if names else {}
    found = []
    for name in names:
        old = before.tensors[name]
        length = byte_length(old)
        if digest_file(Path(refs[name].file), refs[name].offset, length) == old.digest:
            found.append(name)
    return found


def _unchanged(
    before: ModuleView,
    after: ModuleView,
    changed: list[str],
    placed: list[str],
    progress: Callable[[int], None] | None,
) -> int:
    """Return how many elements of the changed tensors are what they were."""
    from modpkg.community.diff.tensors import difference, kept_places

    old, new = before.locate(changed), after.locate(changed)
    plain = [name for name in changed if name not in placed]
    found = difference({n: old[n] for n in plain}, {n: new[n] for n in plain}, progress)
    stems = sorted({name.rpartition(".")[0] for name in placed})
    kept = 0
    for stem in stems:
        # one of the two may be the same on both sides, and was counted as that
        ends = [f"{stem}{end}" for end in _PLACED]
        both = kept_places(
            *(before.locate(ends)[end] for end in ends), *(after.locate(ends)[end] for end in ends)
        )
        kept += both * sum(end in placed for end in ends)
    return found.elements - found.changed + kept


def weight_facts(weights: Weights) -> list[Fact]:
    """Return what changed; nothing, of modules without weights."""
    found = [
        *_tensors(weights.removed, "gone", "major"),
        *_tensors(weights.other, "of another dtype or shape", "major"),
        *_tensors(weights.grown, "longer, with all earlier rows kept", "minor"),
        *_tensors(weights.added, "new", "minor"),
    ]
    counted = weights.changed_values
    if counted is None:
        text = f"at most {_percent(weights.touched_values / weights.values)} of the values changed"
        return [*found, Fact("values", text, "patch")]
    if not counted and weights.changed:  # of a patch that has more places
        found += _tensors(weights.changed, "changed, with all earlier values kept", "patch")
    if counted:
        share = _percent(counted / weights.values)
        text = f"{counted} of {weights.values} values changed ({share})"
        found.append(Fact("values", text, "major" if 2 * counted >= weights.values else "patch"))
    return found


def _tensors(names: tuple[str, ...], what: str, level: Level) -> list[Fact]:
    if not names:
        return []
    shown = ", ".join(map(repr, names[:2])) + " …" * (len(names) > 2)
    count = f"{len(names)} tensors are" if len(names) > 1 else "1 tensor is"
    return [Fact("tensors", f"{count} {what}: {shown}", level)]


def _percent(share: float) -> str:
    """Return a share for people; what is not all is never shown as all, nor as nothing."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{share * 100:.1f} %"
