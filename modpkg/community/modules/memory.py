"""How transformers has the base of an adapter in memory, where it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modpkg.adapters.head import class_stem
from modpkg.adapters.layers import layer_path
from modpkg.adapters.reader import model_names
from modpkg.core.errors import ComposeError, ModpkgError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG
from modpkg.core.names import listed
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

    def check_classifier(
        self, module: str, edits: Mapping[str, Any], types: Mapping[str, DTypeShape]
    ) -> None:
        """Check a base with an adapter's classifier, where transformers is installed.

        Raises:
            ComposeError: transformers has no such class, or it has parameters that have no tensor.
        """
        config = self._base.config()
        stem = class_stem(config)
        if stem is None:
            return
        names = [stem + suffix for suffix in edits["architectures"]]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CONFIG).write_bytes(
                msgspec.json.encode({**config, **edits, "architectures": names})
            )
            try:
                from modpkg.runtime.loading_report import loading_report

                report = loading_report(module, Path(folder), types)
            except ModpkgError as error:
                if error.code == "M702":
                    raise ComposeError(
                        "M606",
                        module=module,
                        reason=f"by its task_type it makes {listed(names)} of {self._label}, and "
                        f"the installed transformers has no such class. Correct task_type in its "
                        f"{ADAPTER_CONFIG} (null, if PEFT's auto_mapping names the class)",
                    ) from None
                return
        if report.missing:
            raise ComposeError(
                "M606",
                module=module,
                reason=f"it makes {report.architecture} of {self._label}, which has "
                f"{listed(report.missing)}, and neither the base nor its file does: they were "
                "drawn at random when it was trained, and not saved. Name their modules in "
                "modules_to_save and train it again",
            )


def memory_of(base: Base) -> TransformersMemory:
    """Return what finds the names in memory of a base, for an adapter or a head of it."""
    return TransformersMemory(base)
