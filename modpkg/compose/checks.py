"""Recipes that would compose, but cannot be meant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from modpkg.compose.composition import Term
from modpkg.compose.merging import PlannedStep
from modpkg.compose.operators import Effects, find_operator
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ComposeError
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.tensors import identity_of

ON_BASE = ("on", "base")
"""The parameter of a step that says it acts on the base, whatever other steps do."""


def check_alone(
    model: str, number: int, module: InstalledModule, base: InstalledModule, effects: Effects
) -> None:
    """Refuse a step whose module changes nothing, whatever its scale: an untrained adapter.

    Raises:
        ComposeError
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
            f"{base.name} as it is (it was never trained, or is the base itself); take the "
            "step out",
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
    """Refuse a change that multiplies the base beside another change of the same tensor.

    PEFT would let the one act on what the other made, so that their order counts; here both act
    on the base. That has to be said: ``parameters = { on = "base" }`` in the step that multiplies.

    Raises:
        ComposeError
    """
    first: dict[str, PlannedStep] = {}
    multiplied: dict[str, PlannedStep] = {}
    for done in steps:
        said = done.step.parameters.get(ON_BASE[0]) == ON_BASE[1]
        for target, term in done.effects.terms.items():
            if find_operator(term.op, model).multiplies and not said:
                multiplied.setdefault(target, done)
    for done in steps:
        for target in done.effects.terms:
            other = first.setdefault(target, done)
            if target in multiplied and other.module.name != done.module.name:
                own = multiplied[target]
                raise ComposeError(
                    "M601",
                    model=model,
                    reason=f"step {own.number} ({own.module.name}) multiplies {target!r}, which "
                    f"{(done if own is other else other).module.name} changes too; if both are "
                    'to act on the base, write parameters = { on = "base" } in that step',
                )
