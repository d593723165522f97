"""How transformers has the base of an adapter in memory, where it is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from modpkg.adapters.layers import layer_path
from modpkg.adapters.reader import model_names
from modpkg.core.errors import ModpkgError
from modpkg.core.records import MemoryRecord, MemoryTensor
from modpkg.core.tensors import DTypeShape
from modpkg.release.build import Base
from modpkg.release.expects import FindMemory

if TYPE_CHECKING:
    from modpkg.runtime.memory_layout import MemoryLayout


def _experts(layout: MemoryLayout, wanted: Iterable[str]) -> dict[str, MemoryTensor]:
    """Return the experts' matrices that names are of, and the same ones of all other layers."""
    layers = {path.layer for path in map(layer_path, layout.shapes) if path is not None}
    found: dict[str, MemoryTensor] = {}
    for name in sorted(wanted):
        path = layer_path(name)
        if name in found or path is None or not (own := layout.joined(name)):
            continue
        found |= own
        for layer in layers - {path.layer}:
            found |= layout.joined(f"{path.stack}.{layer}.{path.rest}")
    return found


def memory_of(base: Base) -> FindMemory:
    """Return what finds the names in memory of a base, for an adapter or a head of it."""

    def find(types: Mapping[str, DTypeShape], config: Mapping[str, Any]) -> MemoryRecord | None:
        label = f"{base.record.name} {base.record.version}"
        try:
            from modpkg.runtime.memory_layout import layout_of

            layout = layout_of(label, base.config(), base.provides.tensors)
            wanted = model_names(label, types, config) if config else set(types)
        except ModpkgError:
            return None
        if layout is None:
            return None
        names = {name: layout.rename(name) for name in sorted(wanted)}
        renamed = {old: new for old, new in names.items() if old != new and new in layout.shapes}
        changed = layout.changed(base.provides.tensors) | _experts(layout, wanted)
        changed = dict(sorted(changed.items()))
        return MemoryRecord(tensors=changed, names=renamed) if changed or renamed else None

    return find
