"""What an operator is: how one module of a recipe acts on the base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.adapters.changes import ModuleOnBase
from modpkg.adapters.formula import Formula
from modpkg.compose.composition import ExpectedValues, PromptReader, RouterWeight, Term
from modpkg.compose.parameter import Parameter
from modpkg.core.errors import ComposeError
from modpkg.core.installed import InstalledModule, Prompt, TensorRef
from modpkg.core.tensors import types_of
from modpkg.manifest.schema import Compose, Step


class StepContext(Struct, frozen=True, kw_only=True):
    """What an operator plans a step from."""

    model: str
    """The result's name, for errors."""
    step: Step
    module: InstalledModule
    base: InstalledModule
    config: Mapping[str, Any]
    """The base's ``config.json``."""
    recipe: Compose
    """The whole recipe: the experts of a mixture are numbered in the order of its steps."""
    modules: Mapping[str, InstalledModule]

    @property
    def base_name(self) -> str:
        """The base's name and version, for errors."""
        return f"{self.base.name} {self.base.version}"

    def refuse(self, reason: str) -> ComposeError:
        """Return the error for a recipe that cannot be composed."""
        return ComposeError("M601", model=self.model, reason=reason)

    def refuse_step(self, reason: str) -> ComposeError:
        """Return the error for this step: the reason follows its name."""
        return self.refuse(f"step {self.step.op!r} of {self.module.name} {reason}")

    def refuse_mixture(self, reason: str) -> ComposeError:
        """Return the error for a recipe that cannot be composed as a mixture of experts."""
        return ComposeError("M609", model=self.model, reason=reason)

    def on_base(self) -> ModuleOnBase:
        """Return the module's tensors beside the base's, to check names and shapes."""
        return ModuleOnBase(
            module=self.module.name,
            names=types_of(self.module.tensors),
            base=self.base.tensors,
            base_name=self.base_name,
        )


class Effects(Struct, frozen=True, kw_only=True):
    """What a step does; every tensor of its module is in here at least once."""

    terms: dict[str, Term] = {}
    """The changes, by base tensor; the step's scale is not in their weight."""
    unused: tuple[TensorRef, ...] = ()
    """The module's tensors that this step does not use: duplicates of others of the module or of
    the base, those that the step drops on purpose, and those that another step uses."""
    added: dict[str, TensorRef] = {}
    """Tensors of the result that are not the base's; they may replace those in ``removed``."""
    routers: dict[str, RouterWeight] = {}
    """Tensors of the result that are assembled from rows."""
    prompt_reader: PromptReader | None = None
    """What computes the rows that are made from prompts."""
    claimed: tuple[str, ...] = ()
    """Those of ``added`` that are slices of the base's tensors, with digests that the module
    states and nothing has verified."""
    expected: dict[str, ExpectedValues] = {}
    """What the module was made for, of base tensors that have to be computed."""
    removed: tuple[str, ...] = ()
    """Base tensors that the result does not have."""
    rows: dict[str, int] = {}
    """Base tensors that the result has with another first extent, and that extent."""
    config: dict[str, Any] = {}
    """Keys of ``config.json`` that the step sets."""
    unset: tuple[str, ...] = ()
    """Keys of ``config.json`` that the step removes."""
    files: dict[str, Path] = {}
    """Files of the result, by path."""
    replaced: tuple[str, ...] = ()
    """Files of the base that the step removes, or replaces by one in ``files``."""
    prompt: Prompt | None = None
    """Virtual tokens that the result reads before its input."""

    def touched(self) -> set[str]:
        """Return the base tensors that the step changes, removes, or gives other rows."""
        return {*self.terms, *self.rows, *self.removed}

    def empty(self) -> bool:
        """Return whether the step changes nothing."""
        edits = self.config or self.unset or self.files or self.replaced or self.prompt or self.rows
        return not (self.terms or self.added or self.removed or self.routers or edits)


class Operator(Formula, frozen=True, kw_only=True):
    """A registered operator: entry points of the group ``modpkg.operators`` name such objects.

    Without a `delta` it is structural: it adds, replaces or removes tensors.
    """

    bind: Callable[[StepContext], Effects]
    """Plans a step; must not import torch."""
    parameters: dict[str, Parameter] | None = None
    """The settings that its steps may have, beside the method's; None: it does not declare them,
    so that every one is accepted."""
    check: Callable[[str, Compose], None] | None = None
    """``check(model, recipe)``: refuses a recipe for what shows without its modules."""
