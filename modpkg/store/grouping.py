"""Which tensors of a release are stored together, in one pack.

An adapter changes the same tensor of every layer, such as the ``q_proj.weight`` of all layers. So
the store keeps those in a pack of their own: the packs of what an adapter leaves as it is are then
files of the composed model too, and a folder for another tool links them instead of copying.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

LARGE = 1 << 16
"""Bytes from which the tensors of one kind get a pack of their own; the others share one."""
MOST = 32
"""Most packs of one release."""
_GROUPED = ("base", "model")
_NUMBER = re.compile(r"(?<![^./])[0-9]+(?![^./])")


def groups_of(kind: str, lengths: Mapping[str, int]) -> dict[str, str]:
    """Return the group of each tensor of a release, by name; it depends on nothing else.

    Args:
        kind: Kind of the module. Only what adapters act on is divided: PEFT reads an adapter from
            one file.
        lengths: Bytes of each tensor, by name.
    """
    if kind not in _GROUPED:
        return dict.fromkeys(lengths, "")
    sizes: Counter[str] = Counter()
    for name, length in lengths.items():
        sizes[_NUMBER.sub("*", name)] += length
    large = {group for group, size in sizes.most_common(MOST - 1) if size >= LARGE}
    groups = {name: _NUMBER.sub("*", name) for name in lengths}
    return {name: group if group in large else "" for name, group in groups.items()}
