"""How each module of a lock fits the base that was chosen for it, and how far that has moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import InstallError, ResolutionImpossible
from modpkg.core.installed import TensorRef
from modpkg.core.interface import Drift, drift_of, unfit_reason
from modpkg.core.names import read_requirement
from modpkg.core.records import ReleaseRecord, TouchedTensor
from modpkg.environment.generations import EXACT
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.resolve.lock import Lock

if TYPE_CHECKING:
    from modpkg.store.store import Store


class RelativeChange(Struct, frozen=True):
    """How far tensors moved: ‖new − old‖ / ‖old‖ of each whose old values are in the store."""

    tensors: int
    """Number of tensors measured."""
    median: float = 0.0
    maximum: float = 0.0
    name: str = ""
    """The tensor that moved most."""

    def text(self, changed: int) -> str:
        """Return the figures as part of a sentence about ``changed`` tensors."""
        if not self.tensors:
            return "how far they moved is unknown: the earlier ones are not in the store"
        some = "" if self.tensors == changed else f" (of {self.tensors} that could be measured)"
        return (
            f"they moved by {self.median:.2%} of their norm in the median{some}, "
            f"at most by {self.maximum:.2%}, {self.name!r}"
        )


class Fit(Struct, frozen=True):
    """One module on one base."""

    module: str
    base: str
    base_version: str
    drift: Drift
    before: dict[str, TouchedTensor] = {}
    """The changed tensors, as they were when the module was made."""
    change: RelativeChange | None = None
    """How far they moved; None until it is measured, which takes both sides' weights."""

    def text(self) -> str:
        """Return ``exact``, or ``drifted`` with numbers."""
        if self.drift.exact:
            return EXACT
        moved = ""
        if self.drift.changed and self.change is not None:
            moved = self.change.text(len(self.drift.changed))
        return f"drifted ({self.drift.text(moved)})"


def fits_of(records: Mapping[str, ReleaseRecord], registries: Registries) -> list[Fit]:
    """Return how each module with an ``expects`` interface fits its base.

    Raises:
        ResolutionImpossible: A module cannot act on its base at all: the lock was edited.
    """
    fits = []
    acted_on = {name for record in records.values() for name in record.expects}
    with fetch_pool() as pool:
        for record in records.values():
            wanted = [digest for name, digest in record.expects.items() if name in records]
            if record.name in acted_on and record.provides is not None:
                wanted.append(record.provides)
            for digest in wanted:
                registries.of(record.name).prefetch_blob(digest, "an interface", pool)
    for record in records.values():
        for base_name, digest in record.expects.items():
            base = records.get(base_name)
            if base is None:
                continue
            if base.provides is None:
                drift = _drift_of_parts(record, base, records)
                fits.append(Fit(record.name, base_name, base.version, drift))
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
            fits.append(Fit(record.name, base_name, base.version, drift, before))
    return fits


def _drift_of_parts(
    record: ReleaseRecord, base: ReleaseRecord, records: Mapping[str, ReleaseRecord]
) -> Drift:
    """Return how a composed base differs from the one that a module was made for: in its parts.

    Its weights are known only once it is composed.
    """
    made_for = {origin.name: origin.version for origin in record.provenance.built_from}
    needed = dict.fromkeys([base.name])
    pending = [base]
    while pending:
        for text in pending.pop().requires:
            name = str(read_requirement(text).name)
            if name in records and name not in needed and name != record.name:
                needed[name] = None
                pending.append(records[name])
    differ = [name for name in needed if made_for.get(name) != records[name].version]
    return Drift(touched=len(record.tensors), changed=(), ports=tuple(differ))


def drifting(workspace: Workspace, manifest: Manifest, lock: Lock) -> list[Fit]:
    """Return the modules of a lock that do not fit their base exactly.

    Raises:
        ModpkgError: A release record cannot be read.
    """
    registries = workspace.registries_for(manifest)
    by_name = registries.by_name(lock)
    records = {
        module.name: by_name[module.name].release(
            module.release, f"the release record of {module.name} {module.version}"
        )
        for module in lock.module
    }
    return [fit for fit in fits_of(records, registries) if not fit.drift.exact]


def require_exact(fits: Iterable[Fit]) -> None:
    """Check that every module fits its base exactly.

    Raises:
        InstallError: One was made for other weights than its base's.
    """
    for fit in fits:
        if not fit.drift.exact:
            raise InstallError(
                "M414",
                module=fit.module,
                base=fit.base,
                version=fit.base_version,
                drift=fit.drift.text(),
            )


def measure_drift(
    fits: Iterable[Fit], records: Mapping[str, ReleaseRecord], store: Store
) -> tuple[Fit, ...]:
    """Return the fits, with the relative change of the tensors that differ.

    The bases' tensors have to be in the store. The earlier ones are there if they were installed
    once, or if the new ones were fetched as deltas of them.
    """
    return tuple(
        replace(fit, change=_measure(fit, records[fit.base], store)) if fit.before else fit
        for fit in fits
    )


def _measure(fit: Fit, base: ReleaseRecord, store: Store) -> RelativeChange:
    from modpkg.compose.distance import distance_of, relative  # numpy

    widths = {touched.digest: DTYPE_BYTES[touched.dtype] for touched in fit.before.values()}
    old = store.find(widths)
    new = store.module(base, "").tensors
    distances: dict[str, float] = {}
    for name, touched in fit.before.items():
        place = old.get(touched.digest)
        if place is None or name not in new:
            continue
        earlier = TensorRef(
            file=str(store.packs.path(place.pack)),
            offset=place.offset,
            length=place.length,
            dtype=touched.dtype,
            shape=touched.shape,
            digest=touched.digest,
        )
        difference = distance_of(earlier, new[name])
        distances[name] = relative(difference.distance, difference.norm)
    if not distances:
        return RelativeChange(0)
    import statistics  # slow to import, and most commands measure nothing

    name = max(sorted(distances), key=distances.__getitem__)
    return RelativeChange(
        len(distances), statistics.median(distances.values()), distances[name], name
    )
