"""How a resolution chooses, beside what the requirements say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from msgspec import Struct
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from modpkg.core.version import __version__
from modpkg.manifest.schema import Strategy


class VersionRange(Struct, frozen=True):
    """A constraint, or an override: a range for one name, and where it is written."""

    specifier: SpecifierSet
    where: str = ""


class Policy(Struct, frozen=True, kw_only=True):
    """What a project asks of every resolution; the default asks nothing."""

    strategy: Strategy = "highest"
    prereleases: frozenset[str] = frozenset()
    """Names whose pre-releases may be chosen."""
    constraints: Mapping[str, VersionRange] = {}
    """By name, the range that it is kept in where it is needed."""
    cutoff: datetime | None = None
    """Releases published after it may not be chosen."""
    cutoffs: Mapping[str, datetime | None] = {}
    """Names with a cut-off of their own; None where a name has none."""
    engine: Version = Version(__version__)
    """The modpkg that is to install what is chosen."""

    def cutoff_of(self, name: str) -> datetime | None:
        """Return the cut-off of one name."""
        return self.cutoffs.get(name, self.cutoff)
