"""A base as transformers has it in memory, and the changes to it as changes of tensors on disk.

transformers renames the tensors of many architectures when it loads them, and joins, splits or
transposes some. PEFT trains what is in memory, so an adapter may name its layers as they are there.
Which elements on disk a parameter is made from is in a `MemoryRecord`: it is written when the
adapter is built, so that composing needs no transformers. A parameter's elements are those of its
pieces, one after the other; a change to some of its rows is the same change to those of a piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from modpkg.adapters.changes import Adapter, TensorChange
from modpkg.core.errors import ReleaseError
from modpkg.core.filenames import MEMORY
from modpkg.core.records import (
    MemoryRecord,
    MemoryTensor,
    TensorType,
    UntiedRecord,
    decode_record,
)
from modpkg.core.regular_file import read_file
from modpkg.core.tensors import TypedTensor
from modpkg.core.untied import groups_of

PARTS = "parts"
"""The formula of changes to single rows of a tensor; see `modpkg.compose.operators.parts`."""
REARRANGED = ("qwen3_vl_moe", "qwen3_vl_moe_text")
"""Architectures of which transformers rearranges a tensor without renaming it."""
_BY_ROWS = ("lora", "dense")
"""Formulas whose rows can be computed one by one."""


def read_memory(files: Mapping[str, Path], module: str) -> MemoryRecord | None:
    """Return an adapter's `MemoryRecord`, or None if it names tensors as they are on disk.

    Raises:
        RecordError: The file is not such a record.
    """
    if MEMORY not in files:
        return None
    return decode_record(read_file(files[MEMORY]), MemoryRecord, f"{MEMORY} of {module}")


def disk_names(record: MemoryRecord | None, names: Iterable[str]) -> dict[str, str]:
    """Return the names on disk of whole tensors, by the names that a module has for them.

    A tensor that the base does not have, or that is joined there with others, keeps its name.
    """
    result = {}
    for name in names:
        parameter = None
        if record is not None:
            parameter = record.tensors.get(record.names.get(name, name))
        pieces = [] if parameter is None or parameter.transposed else parameter.pieces
        whole = len(pieces) == 1 and not pieces[0].start and pieces[0].stop is None
        result[name] = pieces[0].tensor if whole else name
    return result


def disk_name(record: MemoryRecord, name: str) -> str:
    """Return the name on disk of a parameter that is a whole tensor there, else its own."""
    return disk_names(record, [name])[name]


def in_memory(
    record: MemoryRecord, base: Mapping[str, TypedTensor], module: str, base_name: str
) -> dict[str, TypedTensor]:
    """Return the types of a base's parameters in memory, by name there.

    Raises:
        ReleaseError: The record does not fit the base.
    """
    table: dict[str, TypedTensor] = dict(base)
    for parameter in record.tensors.values():
        for piece in parameter.pieces:
            table.pop(piece.tensor, None)
    for name, parameter in record.tensors.items():
        reason = _contradiction(parameter, base)
        if reason is not None:
            raise ReleaseError(
                "M208",
                tensor=name,
                module=module,
                base=base_name,
                reason=f"{reason}; build {module} again against this base",
            )
        dtypes = [base[piece.tensor].dtype for piece in parameter.pieces] or ["F32"]
        table[name] = TensorType(dtypes[0], parameter.shape)
    return table


def with_untied(
    untied: UntiedRecord, base: Mapping[str, TypedTensor], module: str, base_name: str
) -> dict[str, TypedTensor]:
    """Return the types of a base's tensors as it has them once they are not tied.

    Raises:
        ReleaseError: The record does not fit the base.
    """
    table = dict(base)
    for name, source in untied.tensors.items():
        if source not in base:
            raise ReleaseError(
                "M208",
                tensor=name,
                module=module,
                base=base_name,
                reason=f"the base has no {source!r}; build {module} again against this base",
            )
        table.setdefault(name, base[source])
    return table


def ties_in_memory(
    record: MemoryRecord, untied: UntiedRecord, names: Iterable[str]
) -> list[frozenset[str]]:
    """Return the parameters in memory that were one before they were untied."""
    in_memory = {disk: name for name, disk in disk_names(record, names).items()}
    return [frozenset(in_memory.get(name, name) for name in group) for group in groups_of(untied)]


def _contradiction(parameter: MemoryTensor, base: Mapping[str, TypedTensor]) -> str | None:
    """Return why a base does not have what a parameter is made from; None if it has."""
    total = 0
    for piece in parameter.pieces:
        tensor = base.get(piece.tensor)
        if tensor is None:
            return f"the base has no {piece.tensor!r}"
        count = math.prod(tensor.shape)
        stop = count if piece.stop is None else piece.stop
        if not piece.start <= stop <= count:
            return f"{piece.tensor!r} has {count} elements, not {stop}"
        total += stop - piece.start
    if parameter.pieces and total != math.prod(parameter.shape):
        return f"its pieces have {total} elements, and its shape is {parameter.shape}"
    first = parameter.pieces[0] if parameter.pieces else None
    if parameter.transposed and (
        first is None
        or len(parameter.pieces) > 1
        or list(base[first.tensor].shape)
        != [*parameter.shape[:-2], *reversed(parameter.shape[-2:])]
    ):
        return f"its shape is {parameter.shape}, which is not that of one tensor transposed"
    return None


class _Rows(Struct, frozen=True):
    """A change to rows of a tensor on disk."""

    target: str
    first: int
    """The first row on disk."""
    stop: int
    begin: int
    """The first row in memory."""
    width: int
    """Elements of a row: the last two dimensions of experts are those of a matrix."""
    change: TensorChange


def on_disk(
    adapter: Adapter,
    record: MemoryRecord,
    changes: Sequence[TensorChange],
    base: Mapping[str, TypedTensor],
) -> list[TensorChange]:
    """Return changes of parameters in memory as changes of the base's tensors.

    Args:
        adapter: The adapter, bound to the parameters in memory.
        record: What they are made from.
        changes: Its changes of them.
        base: The base's tensors.

    Raises:
        ComposeError: A change is not one of single rows, and its parameter is made of parts.
    """
    result: list[TensorChange] = []
    rows: dict[str, list[_Rows]] = {}
    for change in changes:
        parameter = record.tensors.get(change.target)
        if parameter is None:
            result.append(change)
        elif not parameter.pieces:
            raise _refuse(adapter, change, "rearranges its elements when it loads them")
        elif parameter.transposed:
            result.append(_turned(adapter, change, parameter))
        elif _is_whole(parameter, base):
            result.append(structs.replace(change, target=parameter.pieces[0].tensor))
        elif "experts" in change.parameters and len(parameter.shape) == 3:
            result += _expert_changes(adapter, change, parameter, base)
        else:
            for part in _row_changes(adapter, change, parameter, base):
                rows.setdefault(part.target, []).append(part)
    result += [_joined(target, parts, base[target].shape) for target, parts in rows.items()]
    return sorted(result, key=lambda change: change.target)


def _refuse(adapter: Adapter, change: TensorChange, why: str) -> Exception:
    tensor = min(change.inputs.values())
    return adapter.refuse(f"{tensor!r} is for {change.target!r}, and transformers {why}")


def _is_whole(parameter: MemoryTensor, base: Mapping[str, TypedTensor]) -> bool:
    """Return whether a parameter is one tensor on disk, row by row."""
    piece, *others = parameter.pieces
    shape = list(base[piece.tensor].shape)
    count = math.prod(shape)
    return (
        not others
        and (piece.start, piece.stop) in ((0, None), (0, count))
        and shape[:1] == parameter.shape[:1]
    )


def _turned(adapter: Adapter, change: TensorChange, parameter: MemoryTensor) -> TensorChange:
    """Return the change to the transpose."""
    if change.op != "lora" or "values" in change.inputs or not {"a", "b"} <= change.inputs.keys():
        raise _refuse(adapter, change, "transposes it, which only plain LoRA can follow")
    parameters = dict(change.parameters)
    if not parameters.pop("transposed", False):
        parameters["transposed"] = True
    return structs.replace(change, target=parameter.pieces[0].tensor, parameters=parameters)


def _spans(
    parameter: MemoryTensor, base: Mapping[str, TypedTensor]
) -> Iterator[tuple[str, int, int, int]]:
    """Yield each piece's tensor, its first element there, its length, and its place in memory."""
    place = 0
    for piece in parameter.pieces:
        stop = math.prod(base[piece.tensor].shape) if piece.stop is None else piece.stop
        yield piece.tensor, piece.start, stop - piece.start, place
        place += stop - piece.start


def _expert_changes(
    adapter: Adapter,
    change: TensorChange,
    parameter: MemoryTensor,
    base: Mapping[str, TypedTensor],
) -> Iterator[TensorChange]:
    """Yield the changes to the matrices of single experts that a parameter is made from."""
    _, rows, columns = parameter.shape
    for target, start, length, place in _spans(parameter, base):
        expert, within = divmod(place, rows * columns)
        shape = list(base[target].shape)
        matrix = len(shape) == 2 and shape[1] == columns and length == math.prod(shape)
        if start or not matrix or within % columns or change.parameters.get("transposed"):
            raise _refuse(adapter, change, f"makes it from parts of {target!r}")
        yield structs.replace(
            change,
            target=target,
            parameters={
                "experts": change.parameters["experts"],
                "expert": expert,
                "begin": within // columns,
            },
        )


def _row_changes(
    adapter: Adapter,
    change: TensorChange,
    parameter: MemoryTensor,
    base: Mapping[str, TypedTensor],
) -> Iterator[_Rows]:
    """Yield the changes to the rows of the tensors that a parameter is made from."""
    width = math.prod(parameter.shape[1:])
    for target, start, length, place in _spans(parameter, base):
        shape = base[target].shape
        rows = width == math.prod(shape[1:]) or (len(shape) == 3 and width == shape[2])
        aligned = rows and not (start % width or length % width or place % width)
        plain = not change.parameters.keys() - {"scaling"}
        if not aligned or not plain or change.op not in _BY_ROWS:
            raise _refuse(adapter, change, f"makes it from parts of {target!r}")
        first = start // width
        yield _Rows(
            target=target,
            first=first,
            stop=first + length // width,
            begin=place // width,
            width=width,
            change=change,
        )


def _joined(target: str, parts: Sequence[_Rows], shape: Sequence[int]) -> TensorChange:
    """Return changes to several rows of one tensor as one change."""
    width = parts[0].width
    ordered = sorted(parts, key=lambda part: (part.first, part.begin))
    inputs: dict[str, str] = {}
    blocks: list[dict[str, Any]] = []
    for number, part in enumerate(ordered):
        inputs |= {f"{number}.{role}": tensor for role, tensor in part.change.inputs.items()}
        blocks.append(
            {
                "op": part.change.op,
                "first": part.first,
                "stop": part.stop,
                "begin": part.begin,
                "weight": part.change.weight,
                "parameters": part.change.parameters,
            }
        )
    parameters: dict[str, Any] = {"blocks": blocks}
    if width != math.prod(shape[1:]):
        parameters["width"] = width
    return TensorChange(target=target, op=PARTS, inputs=inputs, parameters=parameters)
