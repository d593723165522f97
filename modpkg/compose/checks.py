"""Checks of recipes that would compose but are surely mistakes, and of tensors used unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from modpkg.compose.composition import Composition, Term, is_inner
from modpkg.compose.merging import MergeMethod, PlannedStep
from modpkg.compose.nested import ComposedModule
from modpkg.compose.operators import Effects, find_operator
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.recipe_settings import ON, ON_BASE
from modpkg.core.digests import digest_bytes, digest_file
from modpkg.core.errors import ComposeError, PatchError
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.tensors import identity_of
from modpkg.manifest.schema import Compose
from modpkg.release.finite import count_nonfinite


def check_alone(
    model: str, number: int, module: InstalledModule, base: InstalledModule, effects: Effects
) -> None:
    """Check that a step changes something, whatever its scale.

    Raises:
        ComposeError: It changes nothing: an untrained adapter, for example.
    """
    terms = effects.terms
    if effects.empty() or (
        terms
        and all(_null(term, base.tensors[target]) for target, term in terms.items())
        and not (effects.added or effects.removed)
    ):
        raise ComposeError(
            "M601",
            model=model,
            reason=f"step {number} changes nothing: {module.name} leaves every tensor of "
            f"{base.name} unchanged (it was never trained, or is the base itself); remove the "
            "step",
        )


def _null(term: Term, own: TensorRef) -> bool:
    if term.op == "dense":
        ref = term.inputs["values"]
        return identity_of(ref) == identity_of(own)
    if "values" in term.inputs and term.op == "lora":
        return False
    operator = find_operator(term.op, "")
    return any(
        ref.digest == _zeros(ref.length)
        for role, ref in term.inputs.items()
        if role in operator.null
    )


@cache
def _zeros(length: int) -> str:
    return digest_bytes(bytes(length))


def check_together(model: str, steps: Sequence[PlannedStep]) -> None:
    """Check that no step multiplies a base tensor that another step changes too.

    In PEFT the second would act on the result of the first, so their order would matter; here both
    act on the base, which has to be requested: ``parameters = { on = "base" }`` in the step that
    multiplies.

    Raises:
        ComposeError: A step multiplies such a tensor without that parameter.
    """
    first: dict[str, PlannedStep] = {}
    multiplied: dict[str, PlannedStep] = {}
    for planned in steps:
        on_base = planned.step.parameters.get(ON) == ON_BASE
        for target, term in planned.effects.terms.items():
            if find_operator(term.op, model).multiplies and not on_base:
                multiplied.setdefault(target, planned)
    for planned in steps:
        for target in planned.effects.terms:
            other = first.setdefault(target, planned)
            if target in multiplied and other.module.name != planned.module.name:
                own = multiplied[target]
                beside = planned if own is other else other
                raise ComposeError(
                    "M601",
                    model=model,
                    reason=f"step {own.number} ({own.module.name}) multiplies {target!r}, which "
                    f"{beside.module.name} changes too; if both should act on the base, set "
                    'parameters = { on = "base" } in that step',
                )


def check_rows(
    model: str, recipe: Compose, merging: MergeMethod, steps: Sequence[PlannedStep]
) -> None:
    """Check that tensors that get another number of rows are one step's alone, and whole.

    Rows for new tokens have no counterpart in the base, so no other method than the sum of one
    step has a meaning for them.

    Raises:
        ComposeError: Two steps change such a tensor, or the step has a scale or another method.
    """
    for planned in steps:
        for tensor, count in planned.effects.rows.items():
            reason = None
            beside = [o for o in steps if o is not planned and tensor in o.effects.touched()]
            if beside:
                reason = f"and {beside[0].module.name} changes that tensor too"
            elif recipe.method != "sum":
                reason = f"which method {recipe.method!r} cannot merge with the base's"
            elif merging.scale(planned, tensor) != 1.0:
                reason = "and rows for new tokens cannot be scaled; give this tensor scale 1"
            if reason is not None:
                text = f"{planned.module.name} gives {tensor!r} {count} rows, {reason}"
                raise ComposeError("M601", model=model, reason=text)


def patched_whole(
    modules: Sequence[InstalledModule], steps: Sequence[PlannedStep]
) -> list[TensorRef]:
    """Return the tensors that patches provide whole, those of composed modules too."""
    refs: list[TensorRef] = []
    for module in modules:
        if isinstance(module, ComposedModule):
            composition = module.composition
            refs += [composition.kept[tensor] for tensor in composition.require_finite]
    for planned in steps:
        if planned.step.op == PATCHED.name:
            refs += planned.effects.added.values()
            terms = planned.effects.terms.values()
            refs += [term.inputs["whole"] for term in terms if "whole" in term.inputs]
    return refs


def unverified_slices(
    modules: Sequence[InstalledModule], steps: Sequence[PlannedStep]
) -> dict[str, TensorRef]:
    """Return the slices of tensors whose digests only patches state, by a name for errors."""
    refs: dict[str, TensorRef] = {}
    for module in modules:
        if isinstance(module, ComposedModule):
            inner = module.composition.unverified
            refs |= {f"{tensor} of {module.name}": ref for tensor, ref in inner.items()}
    for planned in steps:
        refs |= {tensor: planned.effects.added[tensor] for tensor in planned.effects.claimed}
    return refs


def check_kept(composition: Composition) -> None:
    """Check the tensors that patches provide: finite values, and base slices with their digest.

    All other tensors that are used as stored were verified when they were fetched.

    Raises:
        ComposeError: A tensor has NaN or infinity.
        PatchError: A slice of a base tensor does not match the digest in the patch.
        PackError: A tensor cannot be read.
    """
    for name, ref in composition.unverified.items():
        if not is_inner(ref) and digest_file(Path(ref.file), ref.offset, ref.length) != ref.digest:
            reason = f"{name!r} does not match the slice of the base's tensor that it names"
            raise PatchError("M730", patch=f"A module of {composition.name}", reason=reason)
    for name in composition.require_finite:
        ref = composition.kept[name]
        file = Path(ref.file)
        if count_nonfinite(file, ref.offset, ref.length, ref.dtype):
            raise ComposeError("M605", model=composition.name, tensor=name)
