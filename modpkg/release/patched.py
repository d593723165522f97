"""Patches: ``patch.json``, checked against the patch's tensors and the base's."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError, PatchError, RecordError
from modpkg.core.filenames import PATCH
from modpkg.core.records import PatchedTensor, PatchRecord, decode_record
from modpkg.core.regular_file import read_file
from modpkg.core.release_path import safe_path
from modpkg.core.tensors import HashedTensor

FORMS: dict[frozenset[str], str] = {
    frozenset(("whole",)): "whole",
    frozenset(("gaps", "values")): "sparse",
    frozenset(("a", "b")): "low rank",
    frozenset(("a", "b", "gaps", "values")): "low rank",
    frozenset(("rows",)): "rows",
    frozenset(("rows", "gaps", "values")): "rows",
    frozenset(("columns",)): "columns",
    frozenset(("columns", "gaps", "values")): "columns",
}
"""By the roles of a patched tensor's inputs, the name of its form."""


def read_patch(path: Path, patch: str) -> PatchRecord:
    """Return the record of a patch.

    Raises:
        PatchError: The file is missing or not such a record.
    """
    try:
        record = decode_record(read_file(path), PatchRecord, f"{PATCH} of {patch}")
        for file in record.removed_files:
            safe_path(file)
    except FileNotFoundError:
        raise PatchError("M730", patch=patch, reason=f"it has no {PATCH}") from None
    except RecordError as error:
        raise PatchError("M730", patch=patch, reason=str(error).rstrip(".")) from None
    return record


def made_for(record: PatchRecord) -> dict[str, str]:
    """Return the digests that the tensors had that a patch changes or removes, by name."""
    changed = {name: item.was for name, item in record.tensors.items() if item.was is not None}
    return {**changed, **record.removed}


def check_against(
    record: PatchRecord,
    patch: str,
    own: Mapping[str, HashedTensor],
    base: str,
    table: Mapping[str, HashedTensor],
    unknown: Collection[str] = (),
) -> None:
    """Check that every tensor of a patch is used, and that the base is the one it was made for.

    Every tensor that the patch changes or removes has to have the digest that it had then. Those
    whose digest is ``unknown``, since they have yet to be computed, are not compared.

    Raises:
        PatchError: The record is inconsistent, or the base is another.
        ComposeError: A tensor of the patch is not used.
    """
    for name, was in sorted(made_for(record).items()):
        if name not in table:
            raise PatchError("M732", patch=patch, base=base, tensor=name)
        if name not in unknown and table[name].digest != was:
            raise PatchError(
                "M731",
                patch=patch,
                made_for=f"{record.base}=={record.version}",
                base=base,
                tensor=name,
            )
    for name, item in sorted(record.tensors.items()):
        if (reason := _problem(name, item, own, table)) is not None:
            raise PatchError("M730", patch=patch, reason=f"{name!r} {reason}")
    if both := sorted(record.tensors.keys() & record.removed.keys()):
        raise PatchError("M730", patch=patch, reason=f"{both[0]!r} is both created and removed")
    used = [tensor for item in record.tensors.values() for tensor in item.inputs.values()]
    if left := sorted(own.keys() - set(used)):
        raise ComposeError("M603", model=base, count=len(left), module=patch, example=left[0])


def _problem(
    name: str,
    item: PatchedTensor,
    own: Mapping[str, HashedTensor],
    table: Mapping[str, HashedTensor],
) -> str | None:
    """Return the problem with one tensor of a patch, or None."""
    if item.first is not None:
        own_shape = list(table[name].shape) if item.was is not None else []
        if item.inputs or not own_shape or not 0 <= item.first < own_shape[0]:
            return f"cannot be the first {item.first} rows of a tensor of shape {own_shape}"
        return None
    form = FORMS.get(frozenset(item.inputs))
    if form is None:
        return (
            f"has the inputs {', '.join(sorted(item.inputs)) or '(none)'}, "
            "which are not a known form"
        )
    for role, tensor in item.inputs.items():
        if tensor not in own:
            return f"names {tensor!r} as its {role}, which the patch does not have"
    if form == "whole":
        if own[item.inputs["whole"]].digest != item.digest:
            return "has another digest than the tensor that the patch has for it"
        if item.was is None and name in table:
            return "is declared new, but the base has it"
        return None
    if item.was is None:
        return "is new, so the patch has to have all of it"
    source = table[name]
    if source.dtype not in FLOATS:
        return f"has dtype {source.dtype}, whose values cannot be patched"
    return _shapes({role: own[tensor] for role, tensor in item.inputs.items()}, source)


def _shapes(inputs: Mapping[str, HashedTensor], source: HashedTensor) -> str | None:
    """Return the problem with the types of a form's tensors, compared with the base's, or None."""
    shape = list(source.shape)
    height = shape[0] if shape else 1
    width = math.prod(shape[1:]) if shape else 1
    for role, ref in inputs.items():
        if (ref.dtype == "U8") != (role == "gaps") or (role != "gaps" and ref.dtype not in FLOATS):
            return f"has {role} of dtype {ref.dtype}"
    lengths = {"rows": height, "columns": width}
    for role, length in lengths.items():
        if role in inputs and list(inputs[role].shape) != [length]:
            return f"has {role} of shape {list(inputs[role].shape)}, not {[length]}"
    if "a" in inputs:
        a, b = list(inputs["a"].shape), list(inputs["b"].shape)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or [b[0], a[1]] != [height, width]:
            return f"has a of shape {a} and b of shape {b}, whose product is not {[height, width]}"
    if "gaps" in inputs:
        gaps, values = list(inputs["gaps"].shape), list(inputs["values"].shape)
        if len(gaps) != 1 or len(values) != 1 or not values[0] <= gaps[0]:
            return f"has gaps of shape {gaps} for values of shape {values}"
        if values[0] > height * width:
            return f"has {values[0]} values for {height * width} elements"
    return None
