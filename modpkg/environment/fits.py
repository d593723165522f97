"""How each module of a lock fits the base that was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from modpkg.core.errors import InstallError, ResolutionImpossible
from modpkg.core.interface import Drift, drift_of, unfit_reason
from modpkg.core.records import ReleaseRecord, TouchedTensor
from modpkg.environment.generations import EXACT
from modpkg.environment.registries import Registries


class Moved(Struct, frozen=True):
    """How far tensors moved: ‖new − old‖ / ‖old‖ of each, where the old one is on this machine."""

    tensors: int
    """How many could be measured; the figures are of those."""
    middle: float = 0.0
    """The median."""
    most: float = 0.0
    name: str = ""
    """Of the tensor that moved most."""

    def text(self, changed: int) -> str:
        """Return the figures as part of a sentence about ``changed`` tensors."""
        if not self.tensors:
            return "how far they moved is not known, as the earlier ones are not on this machine"
        some = "" if self.tensors == changed else f" (of {self.tensors} that could be measured)"
        return (
            f"they moved by {self.middle:.2%} of their norm in the median{some}, "
            f"at most by {self.most:.2%}, {self.name!r}"
        )


class Fit(Struct, frozen=True):
    """One module on one base."""

    module: str
    base: str
    base_version: str
    drift: Drift
    before: dict[str, TouchedTensor] = {}
    """The tensors that differ, as they were when the module was made."""
    moved: Moved | None = None
    """None until they were measured, which takes both sides' weights."""

    def text(self) -> str:
        """Return the fit in a word, with numbers when it is not exact."""
        if self.drift.exact:
            return EXACT
        parts = []
        if self.drift.changed:
            parts.append(
                f"{len(self.drift.changed)} of the {self.drift.touched} tensors it touches differ"
            )
            if self.moved is not None:
                parts.append(self.moved.text(len(self.drift.changed)))
        if self.drift.ports:
            parts.append(f"other {', '.join(self.drift.ports)}")
        return f"drifted ({'; '.join(parts)})"


def fits_of(
    records: Mapping[str, ReleaseRecord], registries: Registries, *, strict: bool = False
) -> list[Fit]:
    """Return how every module that expects something of a base fits it.

    Raises:
        ResolutionImpossible: a module cannot act on its base at all (a lock that was edited).
        InstallError: ``strict``, and a base is not the one a module was made for.
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
                    "M401",
                    explanation=f"  {record.name} {record.version} cannot act on {base_name} "
                    f"{base.version}: {reason}.",
                )
            drift = drift_of(expects, provides, base.tensors)
            before = {name: expects.tensors[name] for name in drift.changed}
            fit = Fit(record.name, base_name, base.version, drift, before)
            if strict and not drift.exact:
                raise InstallError(
                    "M414",
                    module=record.name,
                    base=base_name,
                    version=base.version,
                    changed=len(drift.changed),
                    touched=drift.touched,
                )
            found.append(fit)
    return found
