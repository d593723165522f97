"""What type a tensor has, and whether two tensors are the same: for every record of a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from modpkg.core.dtypes import bits_of

DTypeShape = tuple[str, tuple[int, ...]]
"""A tensor's type: its dtype (as safetensors spells it) and shape."""


class TypedTensor(Protocol):
    """A record of a tensor that has its type: `TensorType`, `PackTensor`, `TensorEntry` …"""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class HashedTensor(TypedTensor, Protocol):
    """A record that has the digest too: `TensorEntry`, `TensorRef`, `TouchedTensor`."""

    @property
    def digest(self) -> str: ...


class TensorIdentity(NamedTuple):
    """What makes two tensors the same: equal bytes may be of another dtype or shape."""

    digest: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def type(self) -> DTypeShape:
        return self.dtype, self.shape


def identity_of(tensor: HashedTensor) -> TensorIdentity:
    """Return a tensor's identity, to compare or to look it up by."""
    return TensorIdentity(tensor.digest, tensor.dtype, tuple(tensor.shape))


def type_of(tensor: TypedTensor) -> DTypeShape:
    """Return a tensor's dtype and shape, to compare or to write a pack with."""
    return tensor.dtype, tuple(tensor.shape)


def types_of(tensors: Mapping[str, TypedTensor]) -> dict[str, DTypeShape]:
    """Return dtype and shape of each tensor, by name."""
    return {name: type_of(tensor) for name, tensor in tensors.items()}


def canonical_identity(tensor: HashedTensor) -> tuple[str, list[int], str]:
    """Return [dtype, shape, digest]: what a digest of several tensors is computed from."""
    return tensor.dtype, list(tensor.shape), tensor.digest


def byte_length(tensor: TypedTensor) -> int:
    """Return how many bytes the tensor's elements take."""
    return -(-bits_of(tensor.dtype, tensor.shape) // 8)
