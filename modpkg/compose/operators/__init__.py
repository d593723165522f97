"""Operators by name: those of PEFT's methods, modpkg's own, and those of installed plug-ins."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from modpkg.adapters import METHODS
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.dense import DENSE
from modpkg.compose.operators.expert import EXPERT
from modpkg.compose.operators.head import HEAD
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.compose.operators.over import OVER_OPERATOR
from modpkg.compose.operators.parts import PARTS_OPERATOR
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.operators.replace import REPLACE
from modpkg.compose.operators.router import ROUTER
from modpkg.compose.operators.sparse import SPARSE
from modpkg.compose.parameter import Parameter
from modpkg.compose.plugins import find, known
from modpkg.core.errors import ComposeError

GROUP = "modpkg.operators"
"""Entry points of this group name an `Operator`."""


def _of_methods() -> Iterator[Operator]:
    """Yield the operators that PEFT's methods need: those that recipes name, and their formulas."""
    for method in METHODS.values():
        yield Operator(name=method.operator, bind=bind)
    for method in METHODS.values():
        for formula in method.formulas:
            yield Operator(bind=bind, **structs.asdict(formula))


_DECLARED: dict[str, dict[str, Parameter]] = {
    "prompt": {"task": Parameter(default=0, type=int, least=0)}
}
"""Settings of the operators of PEFT's methods."""

OPERATORS: dict[str, Operator] = {
    operator.name: structs.replace(
        operator, parameters=operator.parameters or _DECLARED.get(operator.name, {})
    )
    for operator in (
        *_of_methods(),
        *(DENSE, EXPERT, HEAD, OVER_OPERATOR, PARTS_OPERATOR, PATCHED, REPLACE, ROUTER, SPARSE),
    )
}


def find_operator(name: str, where: str) -> Operator:
    """Return an operator.

    Raises:
        ComposeError: Neither modpkg nor an installed package has it; the error lists the known
            ones.
    """
    operator = find(OPERATORS, GROUP, name)
    if operator is None:
        raise ComposeError("M602", where=where, op=name, known=known(OPERATORS, GROUP))
    return operator


__all__ = ["OPERATORS", "Effects", "Operator", "StepContext", "find_operator"]
