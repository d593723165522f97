"""``modpkg patch create``: the difference of a fine-tuned copy, in the smallest exact form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import torch
from msgspec import Struct

from modpkg.community.modules.same_names import as_named_by, config_of
from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.given_factors import Factors
from modpkg.community.patch.tensor_encodings import Form, Inputs, find_form
from modpkg.compose.mapping import DTYPE_NAMES
from modpkg.compose.operators.head import is_document
from modpkg.compose.torch_threads import parallel_map
from modpkg.core.digests import digest_file, file_chunks
from modpkg.core.errors import PatchError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG, MANIFEST, PATCH, PATCHED_FILES
from modpkg.core.files import copy_file, make_folder, write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.packs import pack_chunks
from modpkg.core.progress import Progress
from modpkg.core.records import BuiltFrom, PatchedTensor, PatchRecord, canonical_json
from modpkg.core.same_values import in_terms_of
from modpkg.core.tensors import identity_of, type_of
from modpkg.interop.module_project import new_project
from modpkg.manifest.normal import manifest_text
from modpkg.manifest.read import parse_manifest
from modpkg.release.content import check_path

WEIGHTS = "patch.safetensors"


class Patch(Struct, frozen=True, kw_only=True):
    """A patch before it is written."""

    base: str
    """Name and version."""
    forms: dict[str, Form]
    """Tensors that the base lacks or has differently, by name."""
    copies: dict[str, TensorRef]
    """The copy's tensors of the same names."""
    record: PatchRecord
    files: dict[str, Path]
    """Files that replace the base's or are new, by path in the copy."""
    elements: int
    """Of all tensors of the copy."""
    tensors: int
    length: int
    """Bytes of all tensors of the copy."""

    @property
    def added(self) -> list[str]:
        return [name for name, item in self.record.tensors.items() if item.was is None]

    @property
    def changed(self) -> int:
        return sum(form.changed for form in self.forms.values())

    @property
    def bytes(self) -> int:
        """Size of the tensors in a release."""
        return sum(form.bytes for form in self.forms.values())


def create(
    base: InstalledModule,
    copy: ModuleView,
    *,
    deltas: bool,
    progress: Progress | None = None,
    spool: Path | None = None,
    factors: Mapping[str, Factors] = MappingProxyType({}),
) -> Patch:
    """Return the patch that turns ``base`` into ``copy``, bit for bit.

    The copy may have other names for the base's tensors, see `as_named_by`. Copies of tied tensors
    and computed buffers that only one of them has stay as the base has them.

    Args:
        base: The release that was fine-tuned.
        copy: The fine-tuned copy.
        deltas: Whether whole tensors are written as lossless changes of the base's where the
            patch is published.
        progress: Counts the bytes of changed tensors.
        spool: Folder that lives as long as the patch, for tensors that are joined from several of
            the copy's; without it, the copy has to have the base's names.
        factors: Those of a LoRA that was merged into the copy, by tensor; others are searched.

    Raises:
        PatchError: The two have no tensor in common, the copy is an adapter, or they are equal.
        PatchError: A changed tensor has non-finite values.
    """
    label = f"{base.name} {base.version}"
    if ADAPTER_CONFIG in copy.files:
        raise PatchError(
            "M735",
            what=copy.label,
            base=label,
            reason="it is an adapter; import it with 'modpkg import peft'",
        )
    tensors = copy.refs()
    own = read_json(base.files[CONFIG]) if CONFIG in base.files else {}
    theirs = config_of(copy)
    if spool is not None:
        tensors = as_named_by(tensors, theirs, base.tensors, own, spool)
    if not base.tensors.keys() & tensors.keys():
        raise PatchError(
            "M735",
            what=copy.label,
            base=label,
            reason=f"they have no tensor in common (it has {min(copy.tensors)!r}, for example, and "
            f"the base {min(base.tensors, default='none')!r})",
        )
    if progress is not None:
        progress.stage("Comparing")
        progress.total(sum(ref.length for ref in tensors.values()))
    changed = {name: ref for name, ref in sorted(tensors.items()) if not _same(base, name, ref)}
    removed = {
        name: ref.digest
        for name, ref in sorted(in_terms_of(base.tensors, tensors, own, theirs).items())
        if name not in tensors
    }
    files = {
        path: copy.locate_file(path)
        for path, digest in sorted(copy.files.items())
        if path not in base.files or digest_file(base.files[path]) != digest
    }
    removed_files = [
        path
        for path in sorted(base.files if CONFIG in copy.files else ())
        if path not in copy.files and not is_document(path)
    ]
    if not (changed or removed or files or removed_files):
        raise PatchError("M734", copy=copy.label, base=label)
    advance = None if progress is None else progress.advance
    forms = _forms(base, copy.label, changed, deltas, advance, factors)
    return Patch(
        base=label,
        forms=forms,
        copies=changed,
        record=PatchRecord(
            base=base.name,
            version=base.version,
            tensors=_table(base, changed, forms),
            removed=removed,
            removed_files=removed_files,
        ),
        files=files,
        elements=sum(map(_elements, tensors.values())),
        tensors=len(tensors),
        length=sum(ref.length for ref in tensors.values()),
    )


def _same(base: InstalledModule, name: str, ref: TensorRef) -> bool:
    own = base.tensors.get(name)
    return own is not None and identity_of(own) == identity_of(ref)


def _elements(ref: TensorRef) -> int:
    return torch.Size(ref.shape).numel()


def _forms(
    base: InstalledModule,
    what: str,
    changed: Mapping[str, TensorRef],
    deltas: bool,
    progress: Callable[[int], None] | None,
    factors: Mapping[str, Factors],
) -> dict[str, Form]:
    def find(name: str) -> Form:
        own, given = base.tensors.get(name), factors.get(name)
        return find_form(name, what, own, changed[name], deltas=deltas, factors=given)

    forms = {}
    for name, form in zip(changed, parallel_map(find, changed), strict=True):
        forms[name] = form
        if progress is not None:
            progress(changed[name].length)
    return forms


def _table(
    base: InstalledModule, changed: Mapping[str, TensorRef], forms: Mapping[str, Form]
) -> dict[str, PatchedTensor]:
    """Return the record's tensors; the names of their parts are made unique."""
    taken = {name for name, form in forms.items() if form.inputs is None}
    table = {}
    for name, form in forms.items():
        inputs = {"whole": name}
        if form.inputs is not None:
            inputs = {}
            for role in form.inputs:
                own = f"{name}.{role}"
                while own in taken:
                    own += "_"
                taken.add(own)
                inputs[role] = own
        was = base.tensors[name].digest if name in base.tensors else None
        table[name] = PatchedTensor(
            digest=changed[name].digest, was=was, inputs=inputs, first=form.first
        )
    return table


def write_patch(
    patch: Patch,
    out: Path,
    *,
    name: str,
    version: str,
    license: str,
    origin: ModuleView | None = None,
    parts: Iterable[BuiltFrom] = (),
) -> None:
    """Write a patch as a module project of kind ``patch``.

    ``origin`` is the release that the patch was created from, if it was one; ``parts`` are what a
    base is composed of that has no weights of its own: they are pinned, as its weights depend on
    their versions.

    Raises:
        ConversionError: ``out`` is not empty.
        InstallError: Writing failed; nothing remains.
    """
    record = patch.record
    normal: dict[str, Any] = {
        "module": {
            "name": name,
            "version": version,
            "kind": "patch",
            "license": license,
            "summary": f"A patch for {patch.base}",
        },
        "dependencies": [f"{record.base}=={record.version}"],
    }
    if pins := [f"{part.name}=={part.version}" for part in parts]:
        normal["module"]["against"] = f"{record.base}=={record.version}"
        normal["dependencies"] += pins
    if origin is not None and origin.name is not None:
        made = {"name": origin.name, "version": origin.version, "relation": "built"}
        normal["provenance"] = {"built-from": [made]}
    types: dict[str, tuple[str, tuple[int, ...]]] = {}
    data: dict[str, Iterable[bytes]] = {}
    for tensor, item in record.tensors.items():
        ref, inputs = patch.copies[tensor], patch.forms[tensor].inputs
        for role, own in item.inputs.items():
            if inputs is None:
                types[own] = type_of(ref)
                data[own] = file_chunks(Path(ref.file), ref.offset, ref.length)
            else:
                types[own] = DTYPE_NAMES[inputs[role].dtype], tuple(inputs[role].shape)
                data[own] = _chunks(inputs, role)
    text = manifest_text(normal)
    with new_project(out) as staged:
        parse_manifest(text, staged / MANIFEST)
        write_atomically(staged / MANIFEST, text.encode())
        write_atomically(staged / WEIGHTS, pack_chunks(types, data))
        write_atomically(
            staged / PATCH, msgspec.json.format(canonical_json(record), indent=1) + b"\n"
        )
        for path, file in patch.files.items():
            target = staged / PATCHED_FILES / check_path(path)
            make_folder(target.parent)
            copy_file(file, target)


def _chunks(parts: Inputs, role: str) -> Iterator[bytes]:
    yield parts[role].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
