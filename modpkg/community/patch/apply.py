"""``modpkg patch apply``: a base and a patch back to the fine-tuned copy, bit for bit."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from modpkg.community.modules.view import ModuleView, view_of_files
from modpkg.compose.composition import Composition, ComputedTensor
from modpkg.compose.executor import compose
from modpkg.compose.operators.patch import patched_tensors
from modpkg.compose.plan import composition_key
from modpkg.core.errors import PatchError
from modpkg.core.filenames import PATCH, PATCHED_FILES
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.progress import Progress
from modpkg.release.patched import check_against, read_patch
from modpkg.store.store import Store


def apply_patch(
    base: InstalledModule, patch: ModuleView, store: Store, progress: Progress
) -> ModuleView:
    """Return the copy that a patch was created from; computed tensors are written to the store.

    Raises:
        PatchError: ``patch`` is not a patch, is for another base, or does not restore the copy.
        ComposeError: A tensor of the patch is not used.
    """
    if PATCH not in patch.files:
        raise PatchError("M730", patch=patch.label, reason=f"it has no {PATCH}")
    record = read_patch(patch.locate_file(PATCH), patch.label)
    own, label = patch.refs(), f"{base.name} {base.version}"
    check_against(record, patch.label, own, label, base.tensors)
    changes = patched_tensors(record, own, base.tensors)
    tensors = {name: ref for name, ref in base.tensors.items() if name not in changes.removed}
    tensors |= changes.added
    whole = set(changes.added)
    computed: dict[str, ComputedTensor] = {}
    for name, term in changes.terms.items():
        source = tensors.pop(name)
        if "whole" in term.inputs:
            tensors[name] = term.inputs["whole"]
            whole.add(name)
        else:
            computed[name] = ComputedTensor(source=source, dtype=source.dtype, terms=(term,))
    composition = Composition(
        name=patch.label,
        version=patch.version or "0",
        key=composition_key(tensors, computed),
        kept=tensors,
        computed=computed,
        require_finite=tuple(sorted(whole)),
        unverified={name: changes.added[name] for name in changes.claimed},
        config={},
        files={},
    )
    progress.stage(f"Applying {patch.label}")
    composed = compose(composition, store.root, verified=store.verified)
    for name, item in record.tensors.items():
        if composed.tensors[name].digest != item.digest:
            raise PatchError(
                "M736",
                patch=patch.label,
                tensor=name,
                base=label,
                actual=composed.tensors[name].digest,
                expected=item.digest,
            )
    return view_of_files(
        patch.label,
        _absolute(composed.tensors),
        files_after(base, patch),
        name=patch.name,
        version=patch.version,
    )


def files_after(base: InstalledModule, patch: ModuleView) -> dict[str, Path]:
    """Return the files of the base, replaced and removed as the patch requires."""
    record = read_patch(patch.locate_file(PATCH), patch.label)
    files = {path: file for path, file in base.files.items() if path not in record.removed_files}
    files |= {
        path.removeprefix(PATCHED_FILES): patch.locate_file(path)
        for path in patch.files
        if path.startswith(PATCHED_FILES)
    }
    return dict(sorted(files.items()))


def _absolute(tensors: dict[str, TensorRef]) -> dict[str, TensorRef]:
    return {
        name: structs.replace(ref, file=str(Path(ref.file).absolute()))
        for name, ref in tensors.items()
    }
