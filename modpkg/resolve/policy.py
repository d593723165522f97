"""Settings of a resolution beside its requirements."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.version import __version__
from modpkg.manifest.schema import FitPolicy, Strategy


class VersionRange(Struct, frozen=True):
    """The range of a constraint or override, and where it is written."""

    specifier: SpecifierSet
    where: str = ""


class Policy(Struct, frozen=True, kw_only=True):
    """A project's settings for resolutions; the default changes nothing."""

    strategy: Strategy = "highest"
    prereleases: frozenset[str] = frozenset()
    """Names whose pre-releases count as final releases."""
    fit: FitPolicy = "exact-first"
    """Whether a base that modules fit exactly is preferred to one on which they drift."""
    strict: bool = False
    """Whether a module may only act on a base that it fits exactly."""
    constraints: Mapping[str, VersionRange] = {}
    """By name, the range that limits it where it is needed."""
    cutoff: datetime | None = None
    """Releases published later are excluded."""
    cutoffs: Mapping[str, datetime | None] = {}
    """By name, another cut-off; None for no cut-off."""
    now: datetime | None = None
    """The moment from which cool-downs of registries are counted back; None if none counts."""
    taken: Mapping[str, Version] = {}
    """By name, the version that is locked already, which no cool-down takes away."""
    engine: Version = Version(__version__)
    """The version of modpkg that is to install the solution."""

    def cutoff_of(self, name: str) -> datetime | None:
        """Return the cut-off of one name."""
        return self.cutoffs.get(name, self.cutoff)

    def cools_down(self, name: str) -> bool:
        """Return whether the cool-down of its registry counts for a name: nothing else is said."""
        return self.now is not None and self.cutoff is None and name not in self.cutoffs
