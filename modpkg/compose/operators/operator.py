"""What an operator is: how one module acts on a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from modpkg.compose.composition import PromptReader, RouterWeight, Term
from modpkg.core.installed import InstalledModule, Prompt, TensorRef
from modpkg.manifest.schema import Compose, Step

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class StepContext(Struct, frozen=True, kw_only=True):
    """What an operator sees when a step is planned."""

    model: str
    """The result's name, for errors."""
    step: Step
    module: InstalledModule
    base: InstalledModule
    config: Mapping[str, Any]
    """The base's ``config.json``."""
    recipe: Compose
    """The whole of it: a mixture's steps are numbered by one another."""
    modules: Mapping[str, InstalledModule]


class Effects(Struct, frozen=True, kw_only=True):
    """What a step does; every tensor of its module is in here exactly once."""

    terms: dict[str, Term] = {}
    """By base tensor, the change to it; the step's scale is not in its weight."""
    unused: tuple[TensorRef, ...] = ()
    """The module's tensors that this step places nowhere: copies of others of it or of the base's,
    what the step leaves behind on purpose, and what another step places."""
    added: dict[str, TensorRef] = {}
    """Tensors that the result has beside the base's, or in place of those in ``removed``."""
    routers: dict[str, RouterWeight] = {}
    """Tensors that are put together of rows, in the result beside the others."""
    prompt_reader: PromptReader | None = None
    """What makes those rows that are made of prompts."""
    claimed: tuple[str, ...] = ()
    """Of those added, parts of the base's tensors, whose digests only the module tells."""
    removed: tuple[str, ...] = ()
    """Base tensors that the result does not have."""
    config: dict[str, Any] = {}
    """Keys of ``config.json`` that the step sets."""
    unset: tuple[str, ...] = ()
    """Keys of ``config.json`` that the result does not have."""
    files: dict[str, Path] = {}
    replaced: tuple[str, ...] = ()
    """Files of the base that the result does not have, or has from ``files``."""
    prompt: Prompt | None = None
    """What the result reads before its text."""

    def empty(self) -> bool:
        """Say whether the step does nothing."""
        edits = self.config or self.unset or self.files or self.replaced or self.prompt
        return not (self.terms or self.added or self.removed or self.routers or edits)


class BaseRows(Protocol):
    """The base's tensor, as operators that work on arrays see it."""

    shape: tuple[int, ...]
    count: int
    """Elements in all."""
    columns: int
    """Of the tensor seen as a matrix."""

    def peek(self, start: int, stop: int) -> Array:
        """Return rows of that matrix as float64, not to be changed."""


class Operator(Struct, frozen=True, kw_only=True):
    """A registered operator: entry points of the group ``modpkg.operators`` name such objects."""

    name: str
    bind: Callable[[StepContext], Effects]
    """Plans a step; imports no torch."""
    delta: Callable[[Mapping[str, Any], Term, int, int, Any], Any] | None = None
    """``delta(inputs, term, start, stop, source)``: the unrounded change, the term's weight in it.

    The inputs come as float64, as they lie on disk otherwise. ``source`` is the base's tensor,
    mapped, in its own dtype and shape, and not to be changed. Seen as a matrix (first extent ×
    all others; a vector is one column), rows [start, stop) of the change to it are returned, as
    float64. The function is pure, and what it returns for a row must not depend on which other
    rows are asked for with it; it may read ``source`` whole. None for structural operators,
    which have no terms.
    """
    arrays: bool = False
    """Whether `delta` and `prepare` work on arrays of numpy and a `BaseRows`, and not on tensors of
    torch: where all operators of a composition do, torch is not imported."""
    prepare: Callable[[Mapping[str, Any], Term, Any], Mapping[str, Any]] | None = None
    """``prepare(inputs, term, source)``: what `delta` gets as its inputs, worked out once for a
    tensor; pure likewise. Inputs in ``by_rows`` are not among them."""
    null: tuple[str, ...] = ()
    """Inputs any of which makes no change where all of it is 0."""
    multiplies: bool = False
    """Whether the change is one to what the base's tensor is multiplied by: beside another change
    to the same tensor, both then act on the base, and neither on the other."""
    becomes: str = ""
    """The input that the base becomes, where `delta` is no more than weight · (it − base)."""
    by_rows: tuple[str, ...] = ()
    """Inputs of the base's shape that come as the rows asked for, and not whole; they may be
    overwritten."""
