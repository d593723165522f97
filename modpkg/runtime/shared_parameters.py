"""Parameters that models of one process share, because their stored tensors are the same."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch


class ParameterKey(NamedTuple):
    """What makes two parameters the same."""

    digest: str
    """That of the stored tensor."""
    stored: torch.dtype
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    number: int
    """Which one of a model's parameters of this content: each of them has memory of its own."""


class _Holder(NamedTuple):
    """A parameter with some content, and how to see that it has still this content."""

    parameter: weakref.ref[torch.nn.Parameter]
    address: int
    version: int


class SharedParameters:
    """Finds the memory of a parameter that another model has; it lives as long as one of them.

    A parameter that was moved, or changed in place, is not found any more: a model that is loaded
    later never gets its values.
    """

    def __init__(self) -> None:
        self._holders: dict[ParameterKey, list[_Holder]] = {}
        self._lock = threading.Lock()

    def find(self, content: ParameterKey) -> torch.Tensor | None:
        """Return a parameter's memory on the device; None if no model has it."""
        with self._lock:
            for holder in self._holders.get(content, ()):
                found = holder.parameter()
                if found is not None and _unchanged(found, holder):
                    return found.detach()
        return None

    def add(self, content: ParameterKey, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Remember parameters of one model that have this content."""
        with self._lock:
            holders = self._holders.setdefault(content, [])
            for each in parameters:
                forget = weakref.ref(each, lambda _: self._forget(content))
                holders.append(_Holder(forget, each.data_ptr(), each._version))

    def _forget(self, content: ParameterKey) -> None:
        """Drop what is gone; called when a parameter is freed, perhaps while the lock is held."""
        holders = [h for h in self._holders.get(content, ()) if h.parameter() is not None]
        if holders:
            self._holders[content] = holders
        else:
            self._holders.pop(content, None)


def _unchanged(parameter: torch.nn.Parameter, holder: _Holder) -> bool:
    return parameter.data_ptr() == holder.address and parameter._version == holder.version


SHARED = SharedParameters()
"""Those of this process."""
