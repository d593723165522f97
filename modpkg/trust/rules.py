"""The rules of a project's ``[trust]``: which of them is about a name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from modpkg.manifest.schema import TrustRule

NOBODY = ""
"""Who signed what nobody has signed."""


def rule_of(rules: Sequence[TrustRule], name: str) -> TrustRule | None:
    """Return the first rule whose pattern a name fits."""
    return next((rule for rule in rules if fnmatchcase(name, rule.pattern)), None)
