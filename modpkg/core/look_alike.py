"""Names that look like others: such that people could take one module for another."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ALIKE = (("rn", "m"), ("vv", "w"), ("l", "1"), ("i", "1"), ("o", "0"))
"""What is written for what looks like it, in this order; names in normal form have lower case."""
NEEDED = 3
"""How many modules have to require one, so that its name counts as popular."""
SHORTEST = 4
"""Characters from which on one edit is a typing error; shorter names are too near to each other."""


def skeleton(name: str) -> str:
    """Return what all names have in common that look like this one.

    >>> skeleton("smollm-lora") == skeleton("SmoI_1rn1ora")
    True
    """
    text = re.sub(r"[-_.]+", "", name).lower()
    for written, drawn in _ALIKE:
        text = text.replace(written, drawn)
    return text


def is_one_edit(one: str, other: str) -> bool:
    """Return whether a letter more, less or other, or two exchanged, makes one name the other.

    >>> [is_one_edit("words", other) for other in ("wrods", "word", "swords", "works", "swrod")]
    [True, True, True, True, False]
    """
    if len(one) > len(other):
        one, other = other, one
    if one == other or len(other) - len(one) > 1:
        return False
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    if len(one) < len(other):
        return one[at:] == other[at + 1 :]
    swapped = one[at : at + 2] == other[at : at + 2][::-1] and one[at + 2 :] == other[at + 2 :]
    return one[at + 1 :] == other[at + 1 :] or swapped


def nearest(name: str, popular: Iterable[str]) -> str | None:
    """Return the first of some names that is one edit away from a name; None if none is."""
    if len(name) < SHORTEST:
        return None
    return next((other for other in popular if is_one_edit(name, other)), None)
