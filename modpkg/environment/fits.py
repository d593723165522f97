"""How each module of a lock fits the base that was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from modpkg.environment.registries import Registries
from modpkg.errors import Drifted, ResolutionImpossible
from modpkg.interface import Drift, drift_of, unfit_reason
from modpkg.records import ReleaseRecord


class Fit(Struct, frozen=True):
    """One module on one base."""

    module: str
    base: str
    base_version: str
    drift: Drift

    def text(self) -> str:
        """Return the fit in a word, with numbers when it is not exact."""
        if self.drift.exact:
            return "exact"
        parts = []
        if self.drift.changed:
            parts.append(
                f"{len(self.drift.changed)} of the {self.drift.touched} tensors it touches differ"
            )
        if self.drift.ports:
            parts.append(f"other {', '.join(self.drift.ports)}")
        return f"drifted ({'; '.join(parts)})"


def fits_of(
    records: Mapping[str, ReleaseRecord], registries: Registries, *, strict: bool = False
) -> list[Fit]:
    """Return how every module that expects something of a base fits it.

    Raises:
        ResolutionImpossible: a module cannot act on its base at all (a lock that was edited).
        Drifted: ``strict``, and a base is not the one a module was made for.
    """
    found = []
    for record in records.values():
        for base_name, digest in record.expects.items():
            base = records.get(base_name)
            if base is None or base.provides is None:
                continue
            expects = registries.of(record.name).expects(digest)
            provides = registries.of(base_name).provides(base.provides)
            reason = unfit_reason(expects, provides)
            if reason is not None:
                raise ResolutionImpossible(
                    explanation=f"  {record.name} {record.version} cannot act on {base_name} "
                    f"{base.version}: {reason}."
                )
            drift = drift_of(expects, provides, base.tensors)
            fit = Fit(record.name, base_name, base.version, drift)
            if strict and not drift.exact:
                raise Drifted(
                    module=record.name,
                    base=base_name,
                    version=base.version,
                    changed=len(drift.changed),
                    touched=drift.touched,
                )
            found.append(fit)
    return found
