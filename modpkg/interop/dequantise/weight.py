"""A weight that quantised tensors make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from modpkg.core.dtypes import CONFIG_DTYPES, DTYPES
from modpkg.core.tensors import DTypeShape


class Weight(Struct, frozen=True):
    """One weight in full precision."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    """The tensors it is made of; none of them stays."""
    compute: Callable[[], Any]
    """Returns it, as torch's tensor."""


class QuantisedModel(Struct, frozen=True):
    """A quantised model: its settings and tensors."""

    settings: Mapping[str, Any]
    """``quantization_config``."""
    config: Mapping[str, Any]
    types: Mapping[str, DTypeShape]
    read: Callable[[str], Any]

    @property
    def dtype(self) -> str:
        """The dtype that the model is to have: that of its config, else bfloat16."""
        named = self.config.get("dtype", self.config.get("torch_dtype"))
        return CONFIG_DTYPES.get(str(named).removeprefix("torch."), "BF16")

    @property
    def torch_dtype(self) -> Any:
        """The same, as torch's."""
        return torch_dtype(self.dtype)

    def shape(self, name: str, *dtypes: str) -> tuple[int, ...]:
        """Return the shape of a tensor, checked to be there with one of these dtypes.

        Raises:
            ValueError: It is not.
        """
        if name not in self.types:
            raise ValueError(f"it has no {name!r}")
        dtype, shape = self.types[name]
        if dtypes and dtype not in dtypes:
            raise ValueError(f"{name!r} is {dtype}, not {' or '.join(dtypes)}")
        return shape

    def present(self, *names: str) -> tuple[str, ...]:
        """Return which of these tensors the model has."""
        return tuple(name for name in names if name in self.types)


def torch_dtype(dtype: str) -> Any:
    """Return torch's dtype for one of safetensors."""
    import torch

    return getattr(torch, DTYPES[dtype].torch)
