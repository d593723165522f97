"""``patch``: the differences of a fine-tuned copy, as ``modpkg patch create`` writes them.

    delta = x − W            a whole tensor
          = b · a            low rank
          = W · (l − 1)      by rows or by columns
    and at single elements   v − W

or the first rows of the base's tensor only.

Alone on the base that it was made for, it reproduces the copy's tensors bit for bit: whole ones
are used unchanged, and the others were compared when the patch was made. Beside other steps it is
a change like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from modpkg.adapters.formula import (
    LEAST,
    Elements,
    Error,
    Extent,
    Sizes,
    as_matrix,
    base_rows,
    gamma,
)
from modpkg.adapters.low_rank import size_of
from modpkg.compose.composition import ExpectedValues, Term, is_inner
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.dtypes import FLOATS, bits_of
from modpkg.core.errors import ComposeError, PatchError
from modpkg.core.filenames import CONFIG, PATCH, PATCHED_FILES
from modpkg.core.installed import TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.lazy_numpy import np
from modpkg.core.records import PatchRecord
from modpkg.core.tensors import type_of
from modpkg.release.patched import check_against, made_for, read_patch

if TYPE_CHECKING:
    from torch import Tensor

ESCAPE = 255
"""A gap that skips this many elements without a value, where the next value is farther away."""


def bind(context: StepContext) -> Effects:
    """Return the patch's changes, the tensors that it adds and removes, and its edits of files.

    Raises:
        PatchError: The module is not a patch, or was made for another base.
        ComposeError: The step has a scale, and a part of the patch cannot be scaled.
    """
    module, base, step = context.module, context.base, context.step
    if PATCH not in module.files:
        raise PatchError("M730", patch=module.name, reason=f"it has no {PATCH}")
    record = read_patch(module.files[PATCH], module.name)
    unknown = {name for name, ref in base.tensors.items() if is_inner(ref)}
    check_against(record, module.name, module.tensors, context.base_name, base.tensors, unknown)
    tensors = patched_tensors(record, module.tensors, base.tensors)
    added, removed = tensors.added, tensors.removed
    files = {
        path.removeprefix(PATCHED_FILES): blob
        for path, blob in module.files.items()
        if path.startswith(PATCHED_FILES)
    }
    config, unset = _config(files.pop(CONFIG, None), context)
    if step.replace:
        raise context.refuse_step("has replace, but the patch itself lists what it replaces")
    structural = next(iter([*added, *removed, *config, *unset, *files]), None)
    if step.scale != 1.0 and structural is not None:
        raise context.refuse_step(
            f"has a scale, but the patch has {structural!r}, which cannot be scaled"
        )
    return Effects(
        terms=tensors.terms,
        added=added,
        expected={
            name: ExpectedValues(
                patch=module.name,
                made_for=f"{record.base}=={record.version}",
                base=context.base_name,
                tensor=name,
                digest=was,
            )
            for name, was in made_for(record).items()
            if name in unknown
        },
        claimed=tensors.claimed,
        removed=removed,
        config=config,
        unset=unset,
        files=files,
        replaced=(*record.removed_files, *files),
    )


class PatchedTensors(Struct, frozen=True):
    """What a patch does to the tensors of its base."""

    terms: dict[str, Term]
    """The changes, by tensor."""
    added: dict[str, TensorRef]
    """Tensors used as they are: new ones, and those that replace the base's."""
    claimed: tuple[str, ...]
    """Those of ``added`` whose digest only the patch states."""
    removed: tuple[str, ...]
    """Tensors of the base that are removed or replaced."""


def patched_tensors(
    record: PatchRecord, own: Mapping[str, TensorRef], base: Mapping[str, TensorRef]
) -> PatchedTensors:
    """Return what a patch, checked with `check_against`, does to the tensors of a base.

    Args:
        record: The patch's record.
        own: The patch's tensors.
        base: The base's tensors.
    """
    terms: dict[str, Term] = {}
    added: dict[str, TensorRef] = {}
    claimed: list[str] = []
    for name, item in record.tensors.items():
        inputs = {role: own[tensor] for role, tensor in item.inputs.items()}
        old, whole = base.get(name), inputs.get("whole")
        if old is not None and item.first is not None:
            added[name] = _first_rows(old, item.first, item.digest)
            claimed.append(name)
        elif whole is not None and (
            old is None or old.dtype not in FLOATS or type_of(old) != type_of(whole)
        ):
            added[name] = whole
        else:
            terms[name] = Term(op="patch", weight=1.0, inputs=inputs)
    removed = (*record.removed, *(name for name in added if name in base))
    return PatchedTensors(terms, added, tuple(claimed), removed)


def _first_rows(ref: TensorRef, count: int, digest: str) -> TensorRef:
    """Return the first rows of a tensor, in place."""
    shape = [count, *ref.shape[1:]]
    length = bits_of(ref.dtype, shape) // 8
    return structs.replace(ref, length=length, shape=shape, digest=digest)


def _config(path: Any, context: StepContext) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the keys of the base's config.json that the patch sets, and those that it removes."""
    if path is None:
        return {}, ()
    before, after = context.config, read_json(path)
    changed = {
        key: value for key, value in after.items() if key not in before or before[key] != value
    }
    return changed, tuple(key for key in before if key not in after)


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return the inputs, with flat indices in ascending order instead of gaps.

    Raises:
        ComposeError: There are not as many indices as values, or one is out of range.
    """
    if "gaps" not in inputs:
        return inputs
    gaps = inputs["gaps"].long()
    has_value = gaps != ESCAPE
    indices = ((gaps + has_value.long()).cumsum(0) - 1)[has_value]
    count = len(inputs["values"])
    if len(indices) != count or (count and int(indices[-1]) >= source.numel()):
        raise ComposeError(
            "M601",
            model="patch",
            reason=f"the {len(indices)} indices of a patch do not fit its {count} values, or a "
            f"tensor of {source.numel()} elements",
        )
    others = {role: tensor for role, tensor in inputs.items() if role != "gaps"}
    return {**others, "indices": indices}


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · the change."""
    block = base_rows(source, start, stop)
    if "whole" in inputs:
        change = inputs["whole"].sub_(block)
    elif "a" in inputs:
        change = inputs["b"][start:stop] @ inputs["a"]
    elif "rows" in inputs:
        change = block * (inputs["rows"][start:stop] - 1.0).unsqueeze(1)
    elif "columns" in inputs:
        change = block * (inputs["columns"] - 1.0)
    else:
        # Adding +0.0 would turn −0.0 into +0.0; adding −0.0 changes nothing.
        change = block.new_full(block.shape, -0.0)
    if "indices" in inputs:
        indices, columns = inputs["indices"], as_matrix(source).shape[1]
        first = int((indices < start * columns).sum())
        last = int((indices < stop * columns).sum())
        own = indices[first:last] - start * columns
        values = inputs["values"][first:last]
        change.view(-1)[own] = _difference(values, block.reshape(-1)[own])
    return change if term.weight == 1.0 else change.mul_(term.weight)


def _difference(values: Tensor, base: Tensor) -> Tensor:
    """Return what added to ``base`` gives ``values``, also where they are −0.0."""
    change = values - base
    return change.where(values.ne(base) | ~values.signbit(), -0.0)


def exact(inputs: Mapping[str, Any], term: Term, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    number, base = elements.number, elements.base
    if "whole" in inputs:
        change = number(inputs["whole"]) - base
    elif "a" in inputs:
        change = (
            number(inputs["b"][elements.row]) * number(inputs["a"][:, elements.column].T)
        ).sum()
    elif factor := _factor(inputs, elements):
        change = base * (number(factor[0]) - base.ones())
    else:
        change = base * 0
    if "indices" in inputs:
        found, values = _found(inputs, elements)
        change = change.where(~found) + (number(values) - base).where(found)
    return change * term.weight


def _factor(inputs: Mapping[str, Any], elements: Elements) -> tuple[Any] | tuple[()]:
    """Return what the base is multiplied by at each element, if it is."""
    if "rows" in inputs:
        return (inputs["rows"][elements.row],)
    return (inputs["columns"][elements.column],) if "columns" in inputs else ()


def _found(inputs: Mapping[str, Any], elements: Elements) -> tuple[Any, Any]:
    """Return which elements have a value of their own, and these values, 0 elsewhere."""
    indices, values = inputs["indices"], np.zeros(len(elements.flat))
    if not len(indices):
        return values != 0, values
    places = np.minimum(indices.searchsorted(elements.flat), len(indices) - 1)
    found = indices[places] == elements.flat
    values[found] = inputs["values"][places[found]]
    return found, values


def leaves(inputs: Mapping[str, Any], term: Term, elements: Elements) -> Any:
    """Return where a base of −0.0 stays, see `Formula.leaves`: as the sum of float64 would be."""
    mask = np.full(len(elements.flat), not {"whole", "a"} & inputs.keys())
    if factor := _factor(inputs, elements):
        mask &= factor[0] >= 1
    if "indices" in inputs:
        found, values = _found(inputs, elements)
        mask = np.where(found, np.signbit(values), mask)
    return mask & (term.weight > 0)


def error(inputs: Mapping[str, Extent], term: Term, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`: of three operations, or a product."""
    under = 0.0 if term.weight == 1.0 and not {"rows", "columns"} & inputs.keys() else LEAST
    if "a" in inputs:
        under = (size_of(inputs, 1.0)[1] + LEAST) * max(abs(term.weight), 1.0)
    return Error(under, gamma(6))


PATCHED = Operator(
    name="patch",
    bind=bind,
    delta=delta,
    exact=exact,
    leaves=leaves,
    error=error,
    prepare=prepare,
    by_rows=("whole",),
)
