"""The diff of two sets of weights, tensor by tensor."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from modpkg.community.modules.same_names import as_named_by, config_of
from modpkg.community.modules.view import ModuleView
from modpkg.compose.distance import distance_of, element_bits, relative, stored_elements
from modpkg.core.installed import TensorRef
from modpkg.core.progress import Progress
from modpkg.core.same_values import in_terms_of
from modpkg.core.tensors import identity_of

Status = Literal["same", "changed", "reshaped", "added", "removed"]

_LAYER = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


def layer_of(name: str) -> int | None:
    """Return the first number in a tensor's name."""
    number = _LAYER.search(name)
    return int(number[1]) if number else None


def part_of(name: str) -> str:
    """Return a tensor's name without its layer's number."""
    return _LAYER.sub(lambda number: number[0].replace(number[1], "*"), name, count=1)


class TensorDiff(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor on both sides, A and B. Norms are Euclidean, over all elements, in float64."""

    name: str
    status: Status
    """``reshaped``: both sides have the name, in other shapes, so that no value is compared."""
    dtype: str
    """B's, where B has the tensor; else A's."""
    shape: tuple[int, ...]
    dtype_before: str | None = None
    """A's, where it is another."""
    shape_before: tuple[int, ...] | None = None
    elements: int
    changed: int = 0
    """Elements with other bits (of equal dtypes), or another value (of different ones)."""
    norm: float = 0.0
    """Of A's tensor; only of those that were compared."""
    distance: float = 0.0
    """Norm of B − A."""
    largest: float = 0.0
    """The largest absolute value in B − A."""

    @property
    def relative(self) -> float:
        """‖B − A‖ / ‖A‖; infinite where A is zero and B is not."""
        return relative(self.distance, self.norm)

    @property
    def layer(self) -> int | None:
        """The first number in the name."""
        return layer_of(self.name)

    @property
    def part(self) -> str:
        """The name without its layer's number: ``model.layers.*.mlp.down_proj.weight``."""
        return part_of(self.name)


class WeightsDiff(Struct, frozen=True):
    """All tensors of A and B, sorted by layer and name."""

    tensors: tuple[TensorDiff, ...]

    def count(self, status: Status) -> int:
        """Return how many tensors have this status."""
        return sum(tensor.status == status for tensor in self.tensors)

    @property
    def elements(self) -> int:
        """Elements of the tensors that both sides have in one shape."""
        return sum(t.elements for t in self.tensors if t.status in ("same", "changed"))

    @property
    def changed(self) -> int:
        """Elements that differ."""
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def distance(self) -> float:
        """Norm of B − A over the tensors that changed."""
        return math.hypot(*(tensor.distance for tensor in self.tensors))

    @property
    def relative(self) -> float:
        """That norm, relative to A's of the same tensors."""
        return relative(self.distance, math.hypot(*(tensor.norm for tensor in self.tensors)))


def diff_views(before: ModuleView, after: ModuleView, progress: Progress) -> WeightsDiff:
    """Compare the weights of two modules, as A names them; both are fetched where necessary.

    Raises:
        PackError: A file is missing or too short. What fetching can raise.
    """
    old, new = before.refs(), after.refs()
    one, two = config_of(before), config_of(after)
    with tempfile.TemporaryDirectory(prefix="modpkg-") as spool:
        new = as_named_by(new, two, old, one, Path(spool))
        old = in_terms_of(old, new, one, two)
        progress.stage("Comparing")
        progress.total(
            sum(
                ref.length
                for name, ref in new.items()
                if name in old and old[name].digest != ref.digest
            )
        )
        return diff_tensors(old, new, progress.advance)


def diff_tensors(
    before: Mapping[str, TensorRef],
    after: Mapping[str, TensorRef],
    progress: Callable[[int], None] | None = None,
) -> WeightsDiff:
    """Compare two sets of tensors; equal digests are not read.

    ``progress`` is called with the bytes of B's tensors that were compared.

    Raises:
        PackError: A file is missing or too short.
    """
    diffs = []
    for name in sorted({*before, *after}):
        a, b = before.get(name), after.get(name)
        if a is None:
            diffs.append(_plain(name, after[name], "added"))
        elif b is None:
            diffs.append(_plain(name, a, "removed"))
        elif identity_of(a) == identity_of(b):
            diffs.append(_plain(name, b, "same"))
        elif list(a.shape) != list(b.shape):
            diffs.append(_plain(name, b, "reshaped", a))
        else:
            diffs.append(_measured(name, a, b, progress))
    return WeightsDiff(tuple(sorted(diffs, key=lambda t: (_order(t.layer), t.name))))


def _order(layer: int | None) -> int:
    return -1 if layer is None else layer


def _plain(
    name: str, ref: TensorRef, status: Status, before: TensorRef | None = None
) -> TensorDiff:
    return TensorDiff(
        name=name,
        status=status,
        dtype=ref.dtype,
        shape=tuple(ref.shape),
        dtype_before=before.dtype if before is not None and before.dtype != ref.dtype else None,
        shape_before=tuple(before.shape) if before is not None else None,
        elements=math.prod(ref.shape),
    )


def _measured(
    name: str, a: TensorRef, b: TensorRef, progress: Callable[[int], None] | None
) -> TensorDiff:
    measured = distance_of(a, b, progress)
    plain = _plain(name, b, "changed", a)
    return TensorDiff(
        name=name,
        status="changed",
        dtype=plain.dtype,
        shape=plain.shape,
        dtype_before=plain.dtype_before,
        elements=plain.elements,
        changed=measured.changed,
        norm=measured.norm,
        distance=measured.distance,
        largest=measured.largest,
    )


def unchanged_entries(
    places: TensorRef, values: TensorRef, new_places: TensorRef, new_values: TensorRef
) -> int:
    """Return how many entries of a sparse tensor are in another one too, with the same bits.

    Raises:
        PackError: A file is missing or too short.
    """
    import numpy as np

    old, new = (stored_elements(ref).astype(np.int64) for ref in (places, new_places))
    if not new.size:
        return 0
    order = np.argsort(new, kind="stable")
    where = new[order]
    near = np.searchsorted(where, old).clip(max=where.size - 1)
    bits = [element_bits(stored_elements(ref)) for ref in (values, new_values)]
    return int(np.count_nonzero((where[near] == old) & (bits[0] == bits[1][order][near])))


class PartDiff(Struct, frozen=True, kw_only=True):
    """The tensors of one part, over all layers."""

    part: str
    tensors: int
    touched: int
    """Tensors that differ."""
    elements: int
    changed: int
    distance: float
    relative: float


def by_part(diff: WeightsDiff) -> list[PartDiff]:
    """Return a diff by part, the parts that changed most first."""
    groups: dict[str, list[TensorDiff]] = {}
    for tensor in diff.tensors:
        groups.setdefault(tensor.part, []).append(tensor)
    rows = []
    for part, tensors in groups.items():
        distance = math.hypot(*(tensor.distance for tensor in tensors))
        rows.append(
            PartDiff(
                part=part,
                tensors=len(tensors),
                touched=sum(tensor.status != "same" for tensor in tensors),
                elements=sum(tensor.elements for tensor in tensors),
                changed=sum(tensor.changed for tensor in tensors),
                distance=distance,
                relative=relative(distance, math.hypot(*(tensor.norm for tensor in tensors))),
            )
        )
    return sorted(rows, key=lambda row: (-row.relative, row.touched == 0, row.part))
