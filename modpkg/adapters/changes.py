"""What binding an adapter to a base returns: the changes to the base's tensors, by name on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from msgspec import Struct

from modpkg.adapters.wrappers import has_module_named_module, unwrapped
from modpkg.core.errors import ComposeError, ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.name_ends import NamesByEnd
from modpkg.core.tensors import DTypeShape, TypedTensor

EMBEDDING_WEIGHT = re.compile(
    r"(?:^|\.)(?:embed_tokens|embed_in|wte|word_embeddings|tok_embeddings|shared)\.weight$"
)
OUTPUT_WEIGHT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")
"""The name of the weight of an output layer."""
INDEX_ROLES = ("indices", "indices_a", "indices_b")
"""Roles of tensors that are places, not numbers."""


class TensorChange(Struct, frozen=True, kw_only=True):
    """One change to one tensor of the base: ``weight · formula(inputs, base tensor)``."""

    target: str
    op: str
    """Name of the `Formula` that computes it."""
    inputs: dict[str, str]
    """The module's tensors, by their role in the formula."""
    weight: float = 1.0
    """The method's own scale; the scale of a recipe's step is not in it."""
    parameters: dict[str, Any] = {}
    reads: dict[str, str] = {}
    """Other tensors of the base that the formula gets as inputs, by role."""


class VirtualTokens(Struct, frozen=True, kw_only=True):
    """Virtual tokens of an adapter."""

    count: int
    width: int
    """Elements per token: of its embedding, or of its keys in one layer."""
    layers: int
    """Layers of the base that they were trained for."""
    heads: int | None
    """Heads that its keys and values are divided among; None for embeddings."""
    task: str
    """PEFT's ``task_type``."""
    tensors: dict[str, str]
    """``embeddings``; for several tasks also ``columns`` and ``rows``."""

    def ports(self) -> dict[str, int]:
        """Return the ports that a base needs for them, with their values."""
        return {"layers": self.layers} | ({} if self.heads else {"hidden": self.width})


class AdapterChanges(Struct, frozen=True, kw_only=True):
    """What an adapter does to a base; every tensor of the adapter is in here."""

    changes: tuple[TensorChange, ...]
    """At most one per target, sorted by target."""
    unused: tuple[str, ...] = ()
    """Tensors of the adapter that change nothing: duplicates, and those that PEFT never reads."""
    added: dict[str, str] = {}
    """Tensors of the adapter that the base has no counterpart of, by name in the result."""
    config: dict[str, Any] = {}
    """Keys of ``config.json`` that the added tensors need."""
    rows: dict[str, int] = {}
    """Tensors of the base that get another number of rows: the adapter's vocabulary is another."""
    resized: tuple[str, ...] = ()
    """Of these, the layers that PEFT saved whole as part of the base, and does not train."""
    prompt: VirtualTokens | None = None
    base_names: dict[str, str] = {}
    """If the adapter repeats layers: names in the base, by name with its layers repeated."""


class Site(Struct, frozen=True, kw_only=True):
    """A module of the base that an adapter acts on, with the adapter's tensors for it."""

    path: str
    """The module's path, as the adapter spells it."""
    target: str
    """The module's weight in the base."""
    bias: str | None
    """The module's bias in the base, if it has one."""
    roles: dict[str, str]
    """The adapter's tensors, by role in the method."""
    times: int = 1
    """How often PEFT adds the change: to an attention's output projection, it does so twice."""

    @property
    def pattern_path(self) -> str:
        """The path that patterns match: of the attention, for its output projection."""
        return self.path if self.times == 1 else self.path.rpartition(".")[0]


class ModuleOnBase(Struct, frozen=True, kw_only=True):
    """A module's tensors and the base that they are for; creates the errors of binding."""

    module: str
    names: Mapping[str, DTypeShape]
    base: Mapping[str, TypedTensor]
    base_name: str

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the module."""
        return tuple(self.names[name][1])

    def target_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the base."""
        return tuple(self.base[name].shape)

    def unbound(self, tensor: str, reason: str) -> ReleaseError:
        """Return the error for a tensor that matches nothing in the base."""
        return ReleaseError(
            "M208", tensor=tensor, module=self.module, base=self.base_name, reason=reason
        )

    def misfit(
        self, tensor: str, target: str, expected: Sequence[int], actual: Sequence[int] | None = None
    ) -> ComposeError:
        """Return the error for a tensor that does not have the shape that ``target`` needs."""
        return ComposeError(
            "M604",
            module=self.module,
            tensor=tensor,
            actual=list(self.names[tensor][1] if actual is None else actual),
            target=target,
            base=self.base_name,
            expected=list(expected),
        )

    def expect(self, tensor: str, target: str, expected: Sequence[int]) -> None:
        """Check the shape of one of the module's tensors.

        Raises:
            ComposeError: Its shape differs from ``expected``, the shape that ``target`` needs.
        """
        if self.shape(tensor) != tuple(expected):
            raise self.misfit(tensor, target, expected)


class Adapter(ModuleOnBase, frozen=True, kw_only=True, dict=True):
    """An adapter and the base that it is bound to."""

    config: Mapping[str, Any]
    """``adapter_config.json``."""
    architecture: str | None
    """The base's ``model_type``."""
    model_config: Mapping[str, Any]
    """The base's ``config.json``; empty if not available."""
    digests: Mapping[str, str] = {}
    """Digests of the adapter's tensors, where known."""
    renames: Mapping[str, str] = {}
    """Names of the model's tensors, by the names that the adapter has for them."""
    ties: Sequence[frozenset[str]] = ()
    """The base's tensors that were one before it was untied; none if it was not."""
    keeps_wrappers: bool = False
    """Whether paths keep what trainers' wrappers add, as those that PEFT matched settings with."""

    @cached_property
    def base_by_end(self) -> NamesByEnd:
        """The base's tensors, by how their names end."""
        return NamesByEnd(self.base)

    @cached_property
    def has_output(self) -> bool:
        """Whether the base has a weight of an output layer; its bias is never shared."""
        return any(map(OUTPUT_WEIGHT.search, self.base))

    @cached_property
    def has_named_embedding(self) -> bool:
        """Whether an embedding of tokens among the base's tensors is known by its name."""
        return any(map(EMBEDDING_WEIGHT.search, self.base))

    def own_name(self, name: str) -> str:
        """Return the name that a tensor or module has in the model itself."""
        if not self.keeps_wrappers:
            return name
        return unwrapped(name, has_module_named_module(self.base))

    def equal(self, one: str, other: str) -> bool:
        """Return whether two tensors of the adapter are known to be identical."""
        return self.names[one] == self.names[other] and (
            self.digests.get(one, one) == self.digests.get(other, other)
        )

    def refuse(self, reason: str) -> ComposeError:
        """Return the error for an adapter that cannot be applied exactly."""
        return ComposeError("M606", module=self.module, reason=reason)

    def refuse_half(self, reason: str) -> ComposeError:
        """Return the error for an adapter that changes only one of several tied tensors."""
        return ComposeError("M606", module=self.module, reason=reason, tied=True)

    def other_rank(self, tensor: str, rank: int) -> ComposeError:
        """Return the error for a tensor that is not of the rank of the configuration."""
        return self.refuse(
            f"by its {ADAPTER_CONFIG} its rank is {rank}, but {tensor!r} has shape "
            f"{list(self.shape(tensor))}: the two do not belong together"
        )
