"""The plan of a composition: which tensors are kept, and what the others are made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.installed import TensorRef
from modpkg.packs import DTYPE_BYTES, pack_header


class Term(Struct, frozen=True, kw_only=True):
    """One change to one tensor: ``weight · operator(inputs, base tensor)``."""

    op: str
    weight: float
    inputs: dict[str, TensorRef]
    """By the operator's own name for them."""
    parameters: dict[str, Any] = {}
    """The operator's own, as JSON has them: they are a part of what the result is kept under."""
    scale: float = 1.0
    """What the reducer weighs the change with, where that is not in ``weight``."""
    settings: dict[str, Any] = {}
    """The step's parameters for the reducer."""
    importance: TensorRef | None = None
    """How much each value counts, for reducers that ask."""

    def account(self) -> dict[str, Any]:
        """Return what of this term decides a byte: digests, but no names and no places."""
        told: dict[str, Any] = {
            "op": self.op,
            "weight": self.weight,
            "parameters": self.parameters,
            "inputs": {role: type_and_digest(ref) for role, ref in self.inputs.items()},
        }
        if self.scale != 1.0:
            told["scale"] = self.scale
        if self.settings:
            told["settings"] = self.settings
        if self.importance is not None:
            told["importance"] = type_and_digest(self.importance)
        return told


class Made(Struct, frozen=True, kw_only=True):
    """A tensor that has to be computed: ``round(reduce(source, terms))``, rounded once."""

    source: TensorRef
    dtype: str
    """Of the result."""
    terms: tuple[Term, ...] = ()
    """In the canonical order; none when only the dtype changes, or the reducer takes none."""
    reducer: str = "sum"
    settings: dict[str, Any] = {}
    """The reducer's parameters, each with a value."""

    def inputs(self) -> list[TensorRef]:
        """Return all that the result is computed from."""
        found = [self.source]
        for term in self.terms:
            found += term.inputs.values()
            if term.importance is not None:
                found.append(term.importance)
        return found

    @property
    def length(self) -> int:
        """Bytes of the result."""
        return math.prod(self.source.shape) * DTYPE_BYTES[self.dtype]


class Composition(Struct, frozen=True, kw_only=True):
    """All that `modpkg.compose.executor.compose` needs, and all that a plan can tell."""

    name: str
    version: str
    key: str
    """Digest of everything that decides a byte of the weights."""
    kept: dict[str, TensorRef]
    """Tensors that are as they lie there: no step touches them, or one brings them whole."""
    made: dict[str, Made]
    checked: tuple[str, ...] = ()
    """Of those that are kept, the ones whose values have to be finite: patches brought them."""
    config: dict[str, Any]
    """The ``config.json`` of the result."""
    files: dict[str, Path]
    """The result's other files, by path."""

    def folder(self, store: Path) -> Path:
        """Return where the result lies in a store."""
        value = self.key.removeprefix("sha256:")
        return store / "composed" / value[:2] / value

    def bytes_to_write(self, store: Path) -> int:
        """Return how many bytes composing will write; 0 when the result is in the store."""
        if not self.made or (self.folder(store) / RESULT).is_file():
            return 0
        header, _ = pack_header(self.types())
        return len(header) + sum(made.length for made in self.made.values())

    def types(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of the tensors that are made."""
        return {name: (made.dtype, tuple(made.source.shape)) for name, made in self.made.items()}


NOTHING = "nothing"
"""The operator of a term of a step that does not change this tensor, for methods that count."""

RESULT = "composed.json"
"""The record that is written last: what it describes is whole."""


def type_and_digest(ref: TensorRef) -> list[Any]:
    """Return dtype, shape and digest: bytes alone do not say what tensor they are."""
    return [ref.dtype, list(ref.shape), ref.digest]
