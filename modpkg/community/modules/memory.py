"""How transformers has the base of an adapter in memory, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modpkg.adapters.reader import model_names
from modpkg.core.errors import ModpkgError
from modpkg.core.records import MemoryRecord
from modpkg.core.tensors import DTypeShape
from modpkg.release.build import Base
from modpkg.release.expects import FindMemory


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
        changed = dict(sorted(layout.changed(base.provides.tensors).items()))
        return MemoryRecord(tensors=changed, names=renamed) if changed or renamed else None

    return find
