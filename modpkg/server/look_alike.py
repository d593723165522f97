"""Names that look like others: such that people could take one module for another."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from modpkg.core.errors import PublishError
from modpkg.core.names import ModuleName, module_name

_ALIKE = (("rn", "m"), ("vv", "w"), ("l", "1"), ("i", "1"), ("o", "0"))
"""What is written for what looks like it, in this order; names in normal form have lower case."""
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


def check_new_name(
    name: str, existing: Collection[str], popular: Iterable[str], confirmed: bool = False
) -> ModuleName:
    """Check that a module that does not exist yet can have a name, and return its normal form.

    Args:
        name: The name.
        existing: The names of modules; of them, those with its `skeleton` are enough.
        popular: Names that people type most, the most popular first.
        confirmed: Whether the publisher says that the name is meant as it is.

    Raises:
        PublishError: It looks like an existing one, or is one edit from a popular one and not
            confirmed.
        InvalidValue: It is not a name.
    """
    normal = module_name(name)
    alike = skeleton(normal)
    for other in existing:
        if other != normal and skeleton(other) == alike:
            raise PublishError("M444", name=normal, other=other)
    if not confirmed and (near := nearest(normal, popular)) is not None:
        raise PublishError("M445", name=normal, other=near)
    return normal
