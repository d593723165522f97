"""``patch``: what ``modpkg patch create`` found a fine-tuned copy to differ by.

    delta = x − W            where the whole tensor is there
          = b · a            low rank
          = W · (l − 1)      by rows or by columns
    and at single places   v − W

or the first rows of the base's tensor alone.

On the base that it was made for, and alone, it gives the copy's tensors bit for bit: whole ones
are taken as they are, and the others were compared when the patch was made. Beside other steps it
is a change like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs

from modpkg.adapters.matrix import matrix, rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.dtypes import DTYPE_BYTES, FLOATS
from modpkg.core.errors import ComposeError, PatchError
from modpkg.core.filenames import CONFIG, PATCH, PATCHED_FILES
from modpkg.core.installed import TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.tensors import type_of
from modpkg.release.patched import check_against, read_patch

if TYPE_CHECKING:
    from torch import Tensor

ESCAPE = 255
"""A gap that says: so many elements on, and no value there."""


def bind(context: StepContext) -> Effects:
    """Return a term for each tensor that the patch changes, what it adds and takes away, the keys
    of ``config.json`` that it sets, and the files that it replaces.

    Raises:
        PatchError, ComposeError: names the tensor.
        ComposeError: the step has a scale, and something in the patch cannot be scaled.
    """
    module, base, step = context.module, context.base, context.step
    if PATCH not in module.files:
        raise PatchError("M730", patch=module.name, reason=f"it has no {PATCH}")
    record = read_patch(module.files[PATCH], module.name)
    check_against(record, module.name, module.tensors, f"{base.name} {base.version}", base.tensors)
    terms: dict[str, Term] = {}
    added = {}
    claimed: list[str] = []
    for name, item in record.tensors.items():
        inputs = {role: module.tensors[tensor] for role, tensor in item.inputs.items()}
        own, whole = base.tensors.get(name), inputs.get("whole")
        if own is not None and item.first is not None:
            added[name] = _first_rows(own, item.first, item.digest)
            claimed.append(name)
        elif whole is not None and (
            own is None or own.dtype not in FLOATS or type_of(own) != type_of(whole)
        ):
            added[name] = whole
        else:
            terms[name] = Term(op="patch", weight=1.0, inputs=inputs)
    removed = (*record.removed, *(name for name in added if name in base.tensors))
    files = {
        path.removeprefix(PATCHED_FILES): blob
        for path, blob in module.files.items()
        if path.startswith(PATCHED_FILES)
    }
    config, unset = _config(files.pop(CONFIG, None), context)
    structural = next(iter([*added, *removed, *config, *unset, *files]), None)
    if step.replace or (step.scale != 1.0 and structural is not None):
        raise ComposeError(
            "M601",
            model=context.model,
            reason=f"step 'patch' of {module.name} has replace, but a patch says itself what it "
            "replaces"
            if step.replace
            else f"step 'patch' of {module.name} has a scale, but it brings {structural!r}, which "
            "is not added up",
        )
    return Effects(
        terms=terms,
        added=added,
        claimed=tuple(claimed),
        removed=removed,
        config=config,
        unset=unset,
        files=files,
        replaced=(*record.removed_files, *files),
    )


def _first_rows(ref: TensorRef, count: int, digest: str) -> TensorRef:
    """Return the first rows of a tensor as one, where they lie."""
    shape = [count, *ref.shape[1:]]
    length = math.prod(shape) * DTYPE_BYTES[ref.dtype]
    return structs.replace(ref, length=length, shape=shape, digest=digest)


def _config(path: Any, context: StepContext) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the keys of the base's config.json that the patch sets, and those it takes away."""
    if path is None:
        return {}, ()
    before, after = context.config, read_json(path)
    changed = {
        key: value for key, value in after.items() if key not in before or before[key] != value
    }
    return changed, tuple(key for key in before if key not in after)


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return the inputs, with flat places in order instead of gaps.

    Raises:
        ComposeError: there are not as many places as values, or one is outside of the tensor.
    """
    if "gaps" not in inputs:
        return inputs
    found = {role: tensor for role, tensor in inputs.items() if role != "gaps"}
    gaps = inputs["gaps"].long()
    told = gaps != ESCAPE
    places = ((gaps + told.long()).cumsum(0) - 1)[told]
    if len(places) != len(inputs["values"]) or (len(places) and int(places[-1]) >= source.numel()):
        raise ComposeError(
            "M601",
            model="patch",
            reason=f"{len(inputs['values'])} values do not go with the places of a patch "
            f"({len(places)}, of {source.numel()} there are)",
        )
    return {**found, "places": places}


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · the change."""
    block = rows(source, start, stop)
    if "whole" in inputs:
        found = inputs["whole"].sub_(block)
    elif "a" in inputs:
        found = inputs["b"][start:stop] @ inputs["a"]
    elif "rows" in inputs:
        found = block * (inputs["rows"][start:stop] - 1.0).unsqueeze(1)
    elif "columns" in inputs:
        found = block * (inputs["columns"] - 1.0)
    else:
        # What is added to −0.0 without changing it is −0.0 alone.
        found = block.new_full(block.shape, -0.0)
    if "places" in inputs:
        places, columns = inputs["places"], matrix(source).shape[1]
        first = int((places < start * columns).sum())
        last = int((places < stop * columns).sum())
        where = places[first:last] - start * columns
        found.view(-1)[where] = _to(inputs["values"][first:last], block.reshape(-1)[where])
    return found if term.weight == 1.0 else found.mul_(term.weight)


def _to(values: Tensor, base: Tensor) -> Tensor:
    """Return what makes ``values`` of ``base`` when it is added; −0.0 stays what it is."""
    change = values - base
    return change.where(values.ne(base) | ~values.signbit(), -0.0)


PATCHED = Operator(name="patch", bind=bind, delta=delta, prepare=prepare, by_rows=("whole",))
