"""The smallest exact form of one changed tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from msgspec import Struct

from modpkg.community.patch.factors import find_low_rank, find_scales
from modpkg.compose.composition import Term
from modpkg.compose.memory import BLOCK_ELEMENTS
from modpkg.compose.operators.patch import ESCAPE, PATCHED
from modpkg.compose.torch_arrays import mapped, matrix, round_into
from modpkg.compose.torch_distance import bits_of, differing
from modpkg.core.digests import digest_file
from modpkg.core.dtypes import DTYPE_BYTES, FLOATS
from modpkg.core.errors import PatchError
from modpkg.core.installed import TensorRef
from modpkg.core.tensors import type_of
from modpkg.deltas import encode
from modpkg.release.finite import count_nonfinite
from modpkg.release.patched import FORMS

ENTRY = 80
"""Approximate size of a tensor's entry in a pack's header, without its name."""
_TERM = Term(op="patch", weight=1.0, inputs={})
_SPARSE_SHARE = 0.3
"""Largest share of changed values for which they are stored individually."""
_LARGEST = 1 << 26
"""Elements of the largest tensor searched for rank and scales, which takes float64 copies."""

Inputs = dict[str, torch.Tensor]


class Form(Struct, frozen=True, kw_only=True):
    """How a tensor is written in a patch."""

    inputs: Inputs | None
    """Tensors by role; None if the tensor itself is written."""
    first: int | None = None
    """Number of rows, if it is the first rows of the base's tensor."""
    bytes: int
    """Size in a release."""
    elements: int
    changed: int
    """Elements with other bits; all of them if the base has no such tensor."""

    @property
    def name(self) -> str:
        if self.first is not None:
            return "first rows"
        return "whole" if self.inputs is None else FORMS[frozenset(self.inputs)]

    @property
    def rank(self) -> int | None:
        return len(self.inputs["a"]) if self.inputs is not None and "a" in self.inputs else None

    @property
    def places(self) -> int:
        """Number of values stored individually."""
        return len(self.inputs["values"]) if self.inputs and "values" in self.inputs else 0


def find_form(
    name: str,
    what: str,
    base: TensorRef | None,
    copy: TensorRef,
    *,
    deltas: bool,
    factors: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Form:
    """Return the smallest form of a tensor that restores the copy bit for bit.

    Args:
        name: The tensor's name.
        what: The copy's label, for messages.
        base: The base's tensor, if it has one of this name.
        copy: The copy's tensor.
        deltas: Whether a whole tensor would be published as a lossless change of the base's; the
            other forms then have to be smaller than that.
        factors: a (rank, columns) and b (rows, rank) of a product that was added to the base's
            tensor, if it is known; without, it is searched.

    Raises:
        PatchError: The copy has non-finite values.
        PackError: A file is damaged.
    """
    if count := count_nonfinite(Path(copy.file), copy.offset, copy.length, copy.dtype):
        raise PatchError("M733", tensor=name, what=what, count=count)
    elements = math.prod(copy.shape)
    length = copy.length + ENTRY + len(name)
    if base is not None and _is_beginning(base, copy):
        first = copy.shape[0]
        return Form(inputs={}, first=first, bytes=0, elements=elements, changed=0)
    if base is None or type_of(base) != type_of(copy):
        return Form(inputs=None, bytes=length, elements=elements, changed=elements)
    old, new = mapped(base), mapped(copy)
    changed = sum(int(block.count_nonzero()) for _, block in _changes(old, new))
    if deltas and elements:
        encoded = encode(_bytes(new), _bytes(old), copy.dtype)
        if encoded is not None:
            length = len(encoded[1]) + ENTRY + len(name)
    best = Form(inputs=None, bytes=length, elements=elements, changed=changed)
    if copy.dtype not in FLOATS or not elements:
        return best
    search = _FormSearch(name, matrix(old), matrix(new), copy.dtype, changed, factors)
    for candidate in search.candidates(length):
        size = search.size(candidate)
        if size < best.bytes and search.exact(candidate):
            best = Form(inputs=candidate, bytes=size, elements=elements, changed=changed)
    return best


def _is_beginning(base: TensorRef, copy: TensorRef) -> bool:
    """Return whether a tensor is the first rows of the base's."""
    return (
        base.dtype == copy.dtype
        and len(base.shape) == len(copy.shape) > 0
        and list(base.shape[1:]) == list(copy.shape[1:])
        and copy.shape[0] < base.shape[0]
        and digest_file(Path(base.file), base.offset, copy.length) == copy.digest
    )


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _changes(old: torch.Tensor, new: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the start of each block, and which of its elements have other bits."""
    one, two = old.reshape(-1), new.reshape(-1)
    for start in range(0, one.numel(), BLOCK_ELEMENTS):
        stop = start + BLOCK_ELEMENTS
        yield start, differing(one[start:stop], two[start:stop])


class _FormSearch:
    """The forms of one tensor, given the base's and the copy's matrices in their own dtype."""

    def __init__(
        self,
        name: str,
        old: torch.Tensor,
        new: torch.Tensor,
        dtype: str,
        changed: int,
        factors: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        self._factors = factors
        self._name, self._old, self._new = name, old, new
        self._dtype, self._changed = dtype, changed
        self._height = max(1, BLOCK_ELEMENTS // max(old.shape[1], 1))

    def size(self, inputs: Inputs) -> int:
        """Return the size of a form in a release, in bytes."""
        return sum(
            tensor.numel() * tensor.element_size() + ENTRY + len(self._name) + len(role)
            for role, tensor in inputs.items()
        )

    def candidates(self, limit: int) -> Iterator[Inputs]:
        """Yield forms that may take less than ``limit`` bytes."""
        width = DTYPE_BYTES[self._dtype]
        if (
            self._changed <= _SPARSE_SHARE * self._old.numel()
            and self._changed * (1 + width) < limit
        ):
            yield self._individual(
                torch.cat([start + m.nonzero()[:, 0] for start, m in self._moved()])
            )
        height, columns = self._old.shape
        if self._factors is not None:
            a, b = (factor.float().contiguous() for factor in self._factors)
            if self._dtype != "F64" and (form := self._corrected({"a": a, "b": b}, limit)):
                yield form
            return
        if self._old.numel() > _LARGEST or min(height, columns) < 2:
            return
        old, new = self._old.double(), self._new.double()
        for role, one, two in (("rows", old, new), ("columns", old.t(), new.t())):
            if len(one) * 4 + ENTRY < limit:
                scales = find_scales(one, two, self._dtype)
                if scales is not None and (form := self._corrected({role: scales}, limit)):
                    yield form
        most = limit // (4 * (height + columns))
        if self._dtype == "F64":
            return  # a sum in another order would show in the result
        factors = find_low_rank(old, new, self._dtype, most)
        if factors is not None:
            a, b = (factor.float().contiguous() for factor in factors)
            if form := self._corrected({"a": a, "b": b}, limit):
                yield form

    def _moved(self) -> Iterator[tuple[int, torch.Tensor]]:
        return _changes(self._old, self._new)

    def _individual(self, places: torch.Tensor) -> Inputs:
        """Return a form with the copy's values at these positions, which are sorted."""
        return {"gaps": as_gaps(places), "values": self._new.reshape(-1)[places]}

    def _corrected(self, inputs: Inputs, limit: int) -> Inputs | None:
        """Return a form, with the values that it does not restore stored individually."""
        wrong = []
        room = (limit - self.size(inputs)) // (1 + DTYPE_BYTES[self._dtype])
        for start, stop, change in self._deltas(inputs):
            base = self._old[start:stop].double()
            wanted = self._new[start:stop]
            slack = _slack(inputs, base, start, stop)
            if {"rows", "columns"} & inputs.keys():  # composing rounds once, a product here twice
                slack = change.abs() * 2.0**-50
            off = _rounded(base + change, wanted).logical_not_()
            if slack is not None:
                for moved in (change - slack, change + slack):
                    off |= _rounded(base + moved, wanted).logical_not_()
            wrong.append(off.reshape(-1).nonzero()[:, 0] + start * self._old.shape[1])
            room -= len(wrong[-1])
            if room < 0:
                return None
        places = torch.cat(wrong)
        return {**inputs, **self._individual(places)} if len(places) else inputs

    def _deltas(self, inputs: Inputs) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield the change in blocks of rows, as composing computes it."""
        prepare, delta = PATCHED.prepare, PATCHED.delta
        assert prepare is not None  # noqa: S101
        assert delta is not None  # noqa: S101
        wide: Mapping[str, torch.Tensor] = {r: t.double() for r, t in inputs.items()}
        wide = prepare(wide, _TERM, self._old)
        for start in range(0, len(self._old), self._height):
            stop = min(start + self._height, len(self._old))
            yield start, stop, delta(wide, _TERM, start, stop, self._old)

    def exact(self, inputs: Inputs) -> bool:
        """Return whether composing restores the copy bit for bit."""
        return all(
            bool(_rounded(self._old[start:stop].double() + change, self._new[start:stop]).all())
            for start, stop, change in self._deltas(inputs)
        )


def _rounded(values: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return which of ``values`` round to exactly the bits of ``wanted``."""
    out = torch.empty_like(wanted, memory_format=torch.contiguous_format)
    round_into(out, values.contiguous())
    return bits_of(out).eq(bits_of(wanted.contiguous()))


def _slack(inputs: Inputs, base: torch.Tensor, start: int, stop: int) -> torch.Tensor | None:
    """Return by how much another order of summation, on another machine, can alter the change."""
    if "a" not in inputs:
        return None
    a, b = inputs["a"].double().abs(), inputs["b"][start:stop].double().abs()
    return (b @ a).add_(base.abs()).mul_((len(a) + 4) * 2.0**-52)


def as_gaps(places: torch.Tensor) -> torch.Tensor:
    """Return sorted flat positions as gaps: the number of elements before each.

    A gap of `ESCAPE` or more is written as `ESCAPE`, as often as necessary, and the rest.

    >>> as_gaps(torch.tensor([0, 1, 300])).tolist()
    [0, 0, 255, 43]
    """
    before = torch.cat([places.new_full((1,), -1), places[:-1]])
    gaps = places - before - 1
    count = gaps // ESCAPE + 1
    encoded = torch.full((int(count.sum()),), ESCAPE, dtype=torch.uint8)
    encoded[count.cumsum(0) - 1] = (gaps % ESCAPE).to(torch.uint8)
    return encoded
