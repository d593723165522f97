"""What is said of patches that conflict in one recipe, where ``sum`` adds their changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modpkg.compose.composition import Composition
from modpkg.core.extras import has_torch
from modpkg.manifest.schema import Compose


def overlap_notes(recipe: Compose, composition: Composition) -> Iterator[str]:
    """Yield a note on the tensors that several patches change, before weights are here."""
    if len(patches := _patches(recipe)) > 1:
        from modpkg.compose.overlapping import overlapping

        if both := overlapping(composition):
            what = f"up to {len(both)} tensors that several of them change ({both[0]!r} …)"
            yield _note(patches, what)


def conflict_notes(recipe: Compose, composition: Composition) -> Iterator[str]:
    """Yield a note on the values that patches conflict in; their modules are in the store.

    None without torch, which computes patches: then the result was here already.
    """
    if len(patches := _patches(recipe)) > 1 and has_torch():
        from modpkg.compose.overlapping import conflicts_of

        if (conflicts := conflicts_of(composition)).tensors:
            yield _note(patches, conflicts.text())


def _patches(recipe: Compose) -> list[str]:
    return [step.module for step in recipe.steps if step.op == "patch"]


def _note(patches: Sequence[str], what: str) -> str:
    """Return what to say of patches whose changes to the same values are added."""
    return (
        f"{' and '.join(patches)} conflict in {what}, and their changes are added; to decide "
        "otherwise, name a method under [compose], like method = 'mean', or merge them first "
        "(modpkg merge)"
    )
