"""The plan of a composition: which tensors are kept as stored, and how the others are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.compose.result_packs import result_packs
from modpkg.compose.row_places import MovedRows
from modpkg.core.dtypes import bits_of
from modpkg.core.errors import PatchError
from modpkg.core.filenames import COMPOSED_RECORD
from modpkg.core.installed import Prompt, TensorRef
from modpkg.core.tensors import canonical_identity


class Term(Struct, frozen=True, kw_only=True):
    """One change to one tensor: ``weight · operator(inputs, base tensor)``."""

    op: str
    weight: float
    inputs: dict[str, TensorRef]
    """By the operator's name for each (its role)."""
    parameters: dict[str, Any] = {}
    """The operator's parameters, JSON values; part of the composition's key."""
    scale: float = 1.0
    """The step's scale for the reducer, where it is not folded into ``weight``."""
    settings: dict[str, Any] = {}
    """The step's parameters for the reducer."""
    importance: TensorRef | None = None
    """How much each value counts, for reducers that use it; shaped like the base's tensor."""

    def key_fields(self) -> dict[str, Any]:
        """Return the fields that decide the result's bytes: digests, but no names or paths."""
        fields: dict[str, Any] = {
            "op": self.op,
            "weight": self.weight,
            "parameters": self.parameters,
            "inputs": {role: canonical_identity(ref) for role, ref in self.inputs.items()},
        }
        if self.scale != 1.0:
            fields["scale"] = self.scale
        if self.settings:
            fields["settings"] = self.settings
        if self.importance is not None:
            fields["importance"] = canonical_identity(self.importance)
        return fields


class ComputedTensor(Struct, frozen=True, kw_only=True):
    """A tensor to compute: ``round(reduce(source, terms))``, rounded once."""

    source: TensorRef
    dtype: str
    """The result's dtype."""
    terms: tuple[Term, ...] = ()
    """In the canonical order; empty if only the dtype changes or the reducer takes no terms."""
    reducer: str = "sum"
    settings: dict[str, Any] = {}
    """Every parameter of the reducer, defaults included."""
    rows: int | None = None
    """The result's first extent, where it is not the source's: rows that the source lacks start as
    zeros, and those beyond are dropped."""
    moved: MovedRows | None = None
    """The rows that are read in place of those of ``source``, the first of its tensors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's shape."""
        whole = tuple(self.source.shape)
        rows = self.rows if self.moved is None else self.moved.count
        return whole if rows is None else (rows, *whole[1:])

    def inputs(self) -> list[TensorRef]:
        """Return every tensor that the result is computed from."""
        refs = [self.source] if self.moved is None else [*self.moved.tensors]
        for term in self.terms:
            refs += term.inputs.values()
            if term.importance is not None:
                refs.append(term.importance)
        return refs

    @property
    def length(self) -> int:
        """The result's size in bytes."""
        return -(-bits_of(self.dtype, self.shape) // 8)


INNER = "inner:"
"""Prefix of the ``file`` of a reference to an `InnerTensor`; the path of no pack begins so."""


def is_inner(ref: TensorRef) -> bool:
    """Return whether a reference is to an `InnerTensor`."""
    return ref.file.startswith(INNER)


class ExpectedValues(Struct, frozen=True, kw_only=True):
    """The values that a patch was made for, of a tensor that has to be computed."""

    patch: str
    made_for: str
    """The release that the patch was made for."""
    base: str
    """Name and version of the base that it is applied to."""
    tensor: str
    digest: str

    def check(self, digest: str) -> None:
        """Compare the digest of what was computed.

        Raises:
            PatchError: It is another.
        """
        if digest != self.digest:
            raise PatchError(
                "M731",
                patch=self.patch,
                made_for=self.made_for,
                base=self.base,
                tensor=self.tensor,
            )


class InnerTensor(Struct, frozen=True, kw_only=True):
    """A tensor of a composed module whose values are not stored: they are computed when needed."""

    model: str
    """The composed module, for errors."""
    name: str
    """The tensor's name there, which decides what random methods draw."""
    composition: str
    """Key of the module's composition."""
    computed: ComputedTensor | None
    """None for a router, which is not computed by itself: its composition has to be stored."""
    measured: Any = None
    """What its method measures over the whole module, once that is known."""
    expected: tuple[ExpectedValues, ...] = ()
    """What patches were made for that act on it."""


class ModuleRow(Struct, frozen=True, tag=True):
    """A row of a module's tensor."""

    ref: TensorRef
    row: int


class PromptRow(Struct, frozen=True, tag=True):
    """A row computed from prompts: the base's hidden state at a layer; see `prompt_routing`."""

    layer: int
    """Index among the base's layers, from 0."""
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


class RouterWeight(Struct, frozen=True, kw_only=True):
    """A tensor assembled row by row: the router (gate) of a mixture of experts."""

    dtype: str
    shape: tuple[int, int]
    rows: tuple[ModuleRow | PromptRow | None, ...] = ()
    """One per row, None for a row of zeros; empty if the whole tensor is zero."""

    def key_fields(self) -> list[Any]:
        """Return the fields that decide the result's bytes."""
        fields: list[Any] = [self.dtype, list(self.shape)]
        for row in self.rows:
            if isinstance(row, ModuleRow):
                fields.append([*canonical_identity(row.ref), row.row])
            elif row is not None:
                fields.append({"layer": row.layer, "prompts": [row.positive, row.negative]})
            else:
                fields.append(None)
        return fields


class PromptReader(Struct, frozen=True, kw_only=True):
    """The base, run on prompts to compute the rows of routers."""

    mode: str
    """Which of its states are used: ``hidden``, ``hidden_avg`` or ``cheap_embed``."""
    config: dict[str, Any]
    tensors: dict[str, TensorRef]
    files: dict[str, Path]
    """The tokenizer's files."""
    digests: dict[str, str]
    """Digests of those files."""

    def key_fields(self) -> dict[str, Any]:
        """Return the fields that decide the result's bytes."""
        return {
            "mode": self.mode,
            "config": self.config,
            "tensors": {name: canonical_identity(ref) for name, ref in self.tensors.items()},
            "tokenizer": self.digests,
        }


class Composition(Struct, frozen=True, kw_only=True):
    """A planned composition: the input of `modpkg.compose.executor.compose`."""

    name: str
    version: str
    key: str
    """Digest of everything that decides the weights' bytes."""
    kept: dict[str, TensorRef]
    """Tensors used as stored: no step changes them, or one step provides them whole."""
    computed: dict[str, ComputedTensor]
    require_finite: tuple[str, ...] = ()
    """Kept tensors whose values must be finite, because a patch provides them."""
    unverified: dict[str, TensorRef] = {}
    """Slices of base tensors whose digests only a patch states, by a name for errors."""
    config: dict[str, Any]
    """The result's ``config.json``."""
    files: dict[str, Path]
    """The result's other files, by path."""
    documents: dict[str, dict[str, Any]] = {}
    """JSON files that the recipe's modules change, by path; they are written beside the others."""
    notes: tuple[str, ...] = ()
    """What a person should know about the result, each a sentence."""
    routers: dict[str, RouterWeight] = {}
    """Tensors assembled row by row."""
    prompt_reader: PromptReader | None = None
    """Computes the rows that come from prompts, if there are any."""
    prompt: Prompt | None = None
    """Virtual tokens that the model reads before its text, if it has any."""
    expected: dict[str, tuple[ExpectedValues, ...]] = {}
    """What patches were made for, of tensors in ``inner``, by the same key."""
    inner: dict[str, InnerTensor] = {}
    """Inputs that are computed too, by the ``file`` of their references, at any depth."""
    parts: dict[str, Composition] = {}
    """The compositions that they are of, by key, at any depth; innermost first."""

    def folder(self, store: Path) -> Path:
        """Return the result's folder in a store."""
        value = self.key.removeprefix("sha256:")
        return store / "composed" / value[:2] / value

    def bytes_to_write(self, store: Path) -> int:
        """Return the bytes that composing will write; 0 if the result is in the store."""
        types = self.types()
        if not types or (self.folder(store) / COMPOSED_RECORD).is_file():
            return 0
        return sum(pack.length for pack in result_packs(types))

    def types(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of the computed tensors and routers."""
        types = {name: (item.dtype, item.shape) for name, item in self.computed.items()}
        return types | {name: (item.dtype, item.shape) for name, item in self.routers.items()}


NOTHING = "nothing"
"""Operator of a term that changes nothing: the step leaves this tensor alone, but the method counts
its steps."""
