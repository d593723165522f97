"""How transformers has the base of an adapter in memory, where it is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from modpkg.adapters.layers import layer_path
from modpkg.adapters.reader import model_names
from modpkg.core.errors import ModpkgError
from modpkg.core.records import MemoryRecord, MemoryTensor, UntiedRecord
from modpkg.core.tensors import DTypeShape
from modpkg.release.base import Base

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


class TransformersMemory:
    """A base as transformers has it in memory; see `modpkg.release.expects.BaseMemory`."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._label = f"{base.record.name} {base.record.version}"

    def record(
        self, types: Mapping[str, DTypeShape], config: Mapping[str, Any]
    ) -> MemoryRecord | None:
        """Return the names in memory, for an adapter or a head with these tensors."""
        disk = self._base.provides.tensors
        try:
            from modpkg.runtime.memory_layout import layout_of

            layout = layout_of(self._label, self._base.config(), disk)
            wanted = model_names(self._label, types, config) if config else set(types)
        except ModpkgError:
            return None
        if layout is None:
            return None
        names = {name: layout.rename(name) for name in sorted(wanted)}
        renamed = {old: new for old, new in names.items() if old != new and new in layout.shapes}
        changed = layout.changed(disk) | _experts(layout, wanted)
        changed = dict(sorted(changed.items()))
        return MemoryRecord(tensors=changed, names=renamed) if changed or renamed else None

    def untied(self) -> UntiedRecord | str:
        """Return how the base is untied, or why it cannot be."""
        from modpkg.runtime.untying import untie

        return untie(self._label, self._base.config(), self._base.provides.tensors)


def memory_of(base: Base) -> TransformersMemory:
    """Return what finds the names in memory of a base, for an adapter or a head of it."""
    return TransformersMemory(base)
