"""The plan of a composition: which tensors are kept, and what the others are made of."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.filenames import COMPOSED_RECORD
from modpkg.core.installed import Prompt, TensorRef
from modpkg.core.packs import pack_header
from modpkg.core.tensors import canonical_identity


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

    def key_fields(self) -> dict[str, Any]:
        """Return what of this term decides a byte: digests, but no names and no places."""
        told: dict[str, Any] = {
            "op": self.op,
            "weight": self.weight,
            "parameters": self.parameters,
            "inputs": {role: canonical_identity(ref) for role, ref in self.inputs.items()},
        }
        if self.scale != 1.0:
            told["scale"] = self.scale
        if self.settings:
            told["settings"] = self.settings
        if self.importance is not None:
            told["importance"] = canonical_identity(self.importance)
        return told


class ComputedTensor(Struct, frozen=True, kw_only=True):
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


class ModuleRow(Struct, frozen=True, tag=True):
    """A row that lies in a module."""

    ref: TensorRef
    row: int


class PromptRow(Struct, frozen=True, tag=True):
    """A row that the base makes of prompts: its state at a layer; see `prompt_routing`."""

    layer: int
    """Its place among the base's layers, from 0."""
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


class RouterWeight(Struct, frozen=True, kw_only=True):
    """A tensor that is put together by rows, such as the router of a mixture of experts."""

    dtype: str
    shape: tuple[int, int]
    rows: tuple[ModuleRow | PromptRow | None, ...] = ()
    """One for each row, None for zeros; none at all where all of it is 0."""

    def key_fields(self) -> list[Any]:
        """Return what of it decides a byte."""
        told: list[Any] = [self.dtype, list(self.shape)]
        for row in self.rows:
            if isinstance(row, ModuleRow):
                told.append([*canonical_identity(row.ref), row.row])
            elif row is not None:
                told.append({"layer": row.layer, "prompts": [row.positive, row.negative]})
            else:
                told.append(None)
        return told


class PromptReader(Struct, frozen=True, kw_only=True):
    """The base as it reads prompts, to tell which expert is for what."""

    mode: str
    """Which of its states count: ``hidden``, ``hidden_avg`` or ``cheap_embed``."""
    config: dict[str, Any]
    tensors: dict[str, TensorRef]
    files: dict[str, Path]
    """The tokenizer's."""
    digests: dict[str, str]
    """Of those files."""

    def key_fields(self) -> dict[str, Any]:
        """Return what of it decides a byte."""
        return {
            "mode": self.mode,
            "config": self.config,
            "tensors": {name: canonical_identity(ref) for name, ref in self.tensors.items()},
            "tokenizer": self.digests,
        }


class Composition(Struct, frozen=True, kw_only=True):
    """All that `modpkg.compose.executor.compose` needs, and all that a plan can tell."""

    name: str
    version: str
    key: str
    """Digest of everything that decides a byte of the weights."""
    kept: dict[str, TensorRef]
    """Tensors that are as they lie there: no step touches them, or one brings them whole."""
    computed: dict[str, ComputedTensor]
    require_finite: tuple[str, ...] = ()
    """Of those that are kept, the ones whose values have to be finite: patches brought them."""
    unverified: tuple[str, ...] = ()
    """Of these, parts of a base's tensors, whose digests only a patch tells."""
    config: dict[str, Any]
    """The ``config.json`` of the result."""
    files: dict[str, Path]
    """The result's other files, by path."""
    routers: dict[str, RouterWeight] = {}
    """Tensors that are put together by rows."""
    prompt_reader: PromptReader | None = None
    """What makes the rows of prompts, where there are any."""
    prompt: Prompt | None = None
    """What the result reads before its text, when it runs."""

    def folder(self, store: Path) -> Path:
        """Return where the result lies in a store."""
        value = self.key.removeprefix("sha256:")
        return store / "composed" / value[:2] / value

    def bytes_to_write(self, store: Path) -> int:
        """Return how many bytes composing will write; 0 when the result is in the store."""
        types = self.types()
        if not types or (self.folder(store) / COMPOSED_RECORD).is_file():
            return 0
        header, places = pack_header(types)
        return len(header) + sum(place.length for place in places.values())

    def types(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of the tensors that are computed."""
        made = {
            name: (item.dtype, tuple(item.source.shape)) for name, item in self.computed.items()
        }
        return made | {name: (gate.dtype, gate.shape) for name, gate in self.routers.items()}


NOTHING = "nothing"
"""The operator of a term of a step that does not change this tensor, for methods that count."""
