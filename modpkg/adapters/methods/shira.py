"""SHiRA: single values of a weight.

    delta[row, column] = value

Bhardwaj et al. 2024, https://arxiv.org/abs/2406.13175.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.peft_config import check_keys


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight; its formula is ``sparse``."""
    check_keys(
        adapter,
        ignores=("r", "mask_type", "random_seed"),
        meanings={"fan_in_fan_out": "PEFT does not define it for SHiRA"},
    )
    changes = []
    for site in sites:
        require(adapter, site, "values", "indices")
        count = math.prod(adapter.shape(site.roles["values"]))
        adapter.expect(site.roles["indices"], site.roles["values"], (2, count))
        linear_shape(adapter, site)
        changes.append(TensorChange(target=site.target, op="sparse", inputs=dict(site.roles)))
    return changes


SHIRA = PeftMethod(
    peft_type="SHIRA",
    operator="sparse",
    keys={"shira_weight": "values", "shira_indices": "indices"},
    bind=bind,
)
