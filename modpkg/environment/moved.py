"""How far the weights moved that a module was made for, where the earlier ones are at hand."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from modpkg.compose.distance import distance_of, relative
from modpkg.compose.mapping import map_tensors
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.installed import TensorRef
from modpkg.core.records import ReleaseRecord
from modpkg.environment.fits import Fit, Moved
from modpkg.store.store import Store


def measure_drift(
    fits: Iterable[Fit], records: Mapping[str, ReleaseRecord], store: Store
) -> tuple[Fit, ...]:
    """Return the fits, with how far tensors moved wherever modules drifted.

    The bases' tensors have to be in the store. The earlier ones are there when they were installed
    once, or when the new ones came as changes to them.
    """
    return tuple(
        replace(fit, moved=_moved(fit, records[fit.base], store)) if fit.before else fit
        for fit in fits
    )


def _moved(fit: Fit, base: ReleaseRecord, store: Store) -> Moved:
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
        pair = map_tensors([("old", earlier), ("new", new[name])])
        found = distance_of(pair["old"], pair["new"])
        distances[name] = relative(found.distance, found.norm)
    if not distances:
        return Moved(0)
    name = max(sorted(distances), key=distances.__getitem__)
    return Moved(len(distances), statistics.median(distances.values()), distances[name], name)
