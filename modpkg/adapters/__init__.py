"""Which tensors of a base an adapter, a head or an expert touches. Imports no torch.

One meaning, used twice: when a module is built (to record what it expects of its base) and when
it is composed. Accounts are strict: every tensor of the module is bound exactly once, or an
error names it.
"""

from __future__ import annotations

from modpkg.adapters.changes import AdapterChanges, TensorChange, TypePair
from modpkg.adapters.expert import ExpertBinding, bind_expert, bind_router
from modpkg.adapters.head import HeadBinding, bind_head
from modpkg.adapters.reader import METHODS, REFUSED, bind_adapter

__all__ = [
    "METHODS",
    "REFUSED",
    "AdapterChanges",
    "ExpertBinding",
    "HeadBinding",
    "TensorChange",
    "TypePair",
    "bind_adapter",
    "bind_expert",
    "bind_head",
    "bind_router",
]
