"""Operators by name: those of modpkg, and those of packages that the user installed."""

from __future__ import annotations

from modpkg.compose.operators.dense import DENSE
from modpkg.compose.operators.head import HEAD
from modpkg.compose.operators.lora import LORA
from modpkg.compose.operators.operator import Effects, Operator, Situation
from modpkg.compose.plugins import find, known
from modpkg.errors import UnknownOperator

OPERATORS: dict[str, Operator] = {operator.name: operator for operator in (DENSE, HEAD, LORA)}
GROUP = "modpkg.operators"


def find_operator(name: str, where: str) -> Operator:
    """Return an operator.

    Raises:
        UnknownOperator: neither modpkg nor an installed package has it; the error names those
            that are known.
    """
    operator = find(OPERATORS, GROUP, name)
    if operator is None:
        raise UnknownOperator(where=where, op=name, known=known(OPERATORS, GROUP))
    return operator


__all__ = ["OPERATORS", "Effects", "Operator", "Situation", "find_operator"]
