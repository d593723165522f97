"""What decides a resolution, beside what the registries have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from modpkg.resolve.need import Need
from modpkg.resolve.policy import Policy, VersionRange


class ResolutionInputs(Struct, frozen=True):
    """Everything in a manifest that decides a resolution."""

    roots: Sequence[Need]
    """As written, before overrides."""
    policy: Policy
    overrides: Mapping[str, VersionRange]
