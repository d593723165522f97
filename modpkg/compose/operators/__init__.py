"""Operators by name: those of modpkg, and those of packages that the user installed."""

from __future__ import annotations

from modpkg.compose.operators.boft import BOFT
from modpkg.compose.operators.c3a import C3A
from modpkg.compose.operators.delora import DELORA
from modpkg.compose.operators.dense import DENSE, LN_TUNING
from modpkg.compose.operators.dora import DORA
from modpkg.compose.operators.expert import EXPERT
from modpkg.compose.operators.head import HEAD
from modpkg.compose.operators.hira import HIRA
from modpkg.compose.operators.hra import HRA
from modpkg.compose.operators.ia3 import IA3
from modpkg.compose.operators.loha import LOHA
from modpkg.compose.operators.lokr import LOKR
from modpkg.compose.operators.lora import LORA
from modpkg.compose.operators.miss import MISS
from modpkg.compose.operators.oft import OFT
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.operators.prompt import PROMPT
from modpkg.compose.operators.replace import REPLACE
from modpkg.compose.operators.router import ROUTER
from modpkg.compose.operators.rows import ROWS, TRAINABLE_TOKENS
from modpkg.compose.operators.sparse import SPARSE
from modpkg.compose.operators.vera import VERA
from modpkg.compose.plugins import find, known
from modpkg.core.errors import ComposeError

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        *(BOFT, C3A, DELORA, DENSE, DORA, EXPERT, HEAD, HIRA, HRA, IA3, LN_TUNING, LOHA, LOKR),
        *(LORA, MISS, OFT, PATCHED, PROMPT, REPLACE, ROUTER, ROWS, SPARSE, TRAINABLE_TOKENS),
        VERA,
    )
}
GROUP = "modpkg.operators"


def find_operator(name: str, where: str) -> Operator:
    """Return an operator.

    Raises:
        ComposeError: neither modpkg nor an installed package has it; the error names those
            that are known.
    """
    operator = find(OPERATORS, GROUP, name)
    if operator is None:
        raise ComposeError("M602", where=where, op=name, known=known(OPERATORS, GROUP))
    return operator


__all__ = ["OPERATORS", "Effects", "Operator", "StepContext", "find_operator"]
