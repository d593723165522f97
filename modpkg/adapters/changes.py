"""What binding gives: the changes that a module makes to a base, by names on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.core.errors import ComposeError, ReleaseError
from modpkg.core.tensors import TypedTensor

TypePair = tuple[str, Sequence[int]]
"""A tensor's dtype (as safetensors spells it) and shape."""


class TensorChange(Struct, frozen=True, kw_only=True):
    """One change to one tensor of the base: ``weight · op(inputs, base tensor)``."""

    target: str
    op: str
    """Name of the operator that computes it."""
    inputs: dict[str, str]
    """The module's tensors, by the operator's name for them."""
    weight: float = 1.0
    """What the method itself scales with; the step's own scale is not in it."""
    parameters: dict[str, Any] = {}


class VirtualTokens(Struct, frozen=True, kw_only=True):
    """Virtual tokens that an adapter brings."""

    count: int
    width: int
    """Elements of one: of its embedding, or of its keys in one layer."""
    layers: int
    """Of the base that they were made for."""
    heads: int | None
    """Among which its keys and values are divided; None for embeddings."""
    task: str
    """PEFT's ``task_type``."""
    tensors: dict[str, str]
    """``embeddings``; for several tasks, ``columns`` and ``rows`` beside them."""


class AdapterChanges(Struct, frozen=True, kw_only=True):
    """What an adapter does; every tensor of it is in here."""

    changes: tuple[TensorChange, ...]
    """At most one for each target; sorted by it."""
    unused: tuple[str, ...] = ()
    """Tensors of the adapter that change nothing: copies of others, what PEFT never reads."""
    added: dict[str, str] = {}
    """By name in the result, tensors of the adapter that the base has nothing for."""
    config: dict[str, Any] = {}
    """Keys of ``config.json`` that go with the tensors that are added."""
    prompt: VirtualTokens | None = None
    base_names: dict[str, str] = {}
    """Where it repeats layers, by their tensors' names then, those in the base."""


class Site(Struct, frozen=True, kw_only=True):
    """A place of the base that an adapter acts on, with what it brings for it."""

    path: str
    """The module's path, as the adapter spells it."""
    target: str
    """The base's tensor."""
    bias: str | None
    """The bias beside it in the base, if there is one."""
    roles: dict[str, str]
    """The adapter's tensors, by the method's name for them."""


class Adapter(Struct, frozen=True, kw_only=True):
    """An adapter beside the base that it is bound to, with the errors they can give."""

    module: str
    names: Mapping[str, TypePair]
    config: Mapping[str, Any]
    """``adapter_config.json``."""
    base: Mapping[str, TypedTensor]
    base_name: str
    architecture: str | None
    """The base's ``model_type``."""
    model_config: Mapping[str, Any]
    """The base's ``config.json``; empty where it is not at hand."""
    digests: Mapping[str, str] = {}
    """Of the adapter's tensors, where they are known."""

    def equal(self, one: str, other: str) -> bool:
        """Say whether two tensors of the adapter are known to be the same."""
        return self.names[one] == self.names[other] and (
            self.digests.get(one, one) == self.digests.get(other, other)
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the adapter."""
        return tuple(self.names[name][1])

    def target_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the base."""
        return tuple(self.base[name].shape)

    def refuse(self, reason: str) -> ComposeError:
        """Return the error for what cannot be done exactly."""
        return ComposeError("M606", module=self.module, reason=reason)

    def unbound(self, tensor: str, reason: str) -> ReleaseError:
        """Return the error for a tensor without a place."""
        return ReleaseError(
            "M208", tensor=tensor, module=self.module, base=self.base_name, reason=reason
        )

    def misfit(
        self, tensor: str, target: str, expected: Sequence[int], actual: Sequence[int] | None = None
    ) -> ComposeError:
        """Return the error for a tensor whose shape is not the one that ``target`` needs."""
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
        """Check the shape of one of the adapter's tensors.

        Raises:
            ComposeError
        """
        if self.shape(tensor) != tuple(expected):
            raise self.misfit(tensor, target, expected)
