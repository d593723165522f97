"""A base and a patch turned back into the copy that the patch was made of, bit for bit."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from modpkg.community.modules.view import ModuleView, view_of_files
from modpkg.compose.composition import Composition, ComputedTensor
from modpkg.compose.executor import compose
from modpkg.compose.operators import StepContext
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.plan import composition_key
from modpkg.core.errors import PatchError
from modpkg.core.filenames import PATCH, PATCHED_FILES
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.names import module_name
from modpkg.core.progress import Progress
from modpkg.core.records import Provenance, ReleaseRecord
from modpkg.manifest.schema import Compose, Step
from modpkg.release.patched import read_patch
from modpkg.store.store import Store


def apply_patch(
    base: InstalledModule, patch: ModuleView, store: Store, progress: Progress
) -> ModuleView:
    """Return the copy: tensors (those that had to be computed are in the store now) and files.

    Raises:
        PatchError, ComposeError: names the tensor.
    """
    if PATCH not in patch.files:
        raise PatchError("M730", patch=patch.label, reason=f"it has no {PATCH}")
    module = _module(patch)
    step = Step(op=PATCHED.name, module=module_name(module.name))
    effects = PATCHED.bind(
        StepContext(
            model=patch.label,
            step=step,
            module=module,
            base=base,
            config={},
            recipe=Compose(base=module_name(base.name), steps=(step,)),
            modules={base.name: base, module.name: module},
        )
    )
    kept = {name: ref for name, ref in base.tensors.items() if name not in effects.removed}
    kept |= effects.added
    brought = set(effects.added)
    made: dict[str, ComputedTensor] = {}
    for name, term in effects.terms.items():
        source = kept.pop(name)
        if "whole" in term.inputs:
            kept[name] = term.inputs["whole"]
            brought.add(name)
        else:
            made[name] = ComputedTensor(source=source, dtype=source.dtype, terms=(term,))
    composition = Composition(
        name=patch.label,
        version=patch.version or "0",
        key=composition_key(kept, made),
        kept=kept,
        computed=made,
        require_finite=tuple(sorted(brought)),
        unverified=effects.claimed,
        config={},
        files={},
    )
    progress.stage(f"Applying {patch.label}")
    composed = compose(composition, store.root)
    record = read_patch(patch.locate_file(PATCH), patch.label)
    for name, item in record.tensors.items():
        if composed.tensors[name].digest != item.digest:
            raise PatchError(
                "M736",
                patch=patch.label,
                tensor=name,
                base=f"{base.name} {base.version}",
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
    """Return the files of the base with those of the patch in their place."""
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


def _module(patch: ModuleView) -> InstalledModule:
    """Return a patch as composing wants it, whether it is published or only a folder."""
    name, version = patch.name or module_name("patch"), patch.version or "0"
    return InstalledModule(
        name=name,
        version=version,
        kind="patch",
        release="sha256:" + "0" * 64,
        record=ReleaseRecord(
            name=name,
            version=version,
            kind="patch",
            license="",
            manifest={},
            provenance=Provenance(built_with=""),
        ),
        tensors=patch.refs(),
        files=patch.paths(),
    )
