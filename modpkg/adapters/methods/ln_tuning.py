"""LN tuning: norms that were trained whole.

    delta = value − W

Zhao et al. 2023, https://arxiv.org/abs/2312.11420.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.peft_config import check_keys


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight and bias; its formula is ``dense``."""
    check_keys(adapter)
    changes = []
    for site in sites:
        for role, tensor in sorted(site.roles.items()):
            target = site.target if role == "weight" else site.bias
            if target is None:
                raise adapter.unbound(tensor, f"{site.target!r} has no bias beside it")
            adapter.expect(tensor, target, adapter.target_shape(target))
            changes.append(TensorChange(target=target, op="dense", inputs={"values": tensor}))
    return changes


LN_TUNING = PeftMethod(
    peft_type="LN_TUNING",
    operator="ln-tuning",
    keys={"ln_tuning_layers.weight": "weight", "ln_tuning_layers.bias": "bias"},
    bind=bind,
)
