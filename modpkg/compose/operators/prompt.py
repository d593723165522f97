"""``prompt``: virtual tokens that a model reads before its text, while it runs.

    composed[t] = base[t]

Prompt tuning: Lester, Al-Rfou & Constant 2021, https://arxiv.org/abs/2104.08691; P-tuning: Liu et
al. 2021, https://arxiv.org/abs/2103.10385; prefix tuning: Li & Liang 2021,
https://arxiv.org/abs/2101.00190; for several tasks: Wang et al. 2023,
https://arxiv.org/abs/2303.02861.
"""

from __future__ import annotations

from modpkg.adapters.virtual_tokens import OPERATOR
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

PROMPT = Operator(name=OPERATOR, bind=bind)
