"""What adapters, heads and experts do to the tensors of a base. Imports no torch.

Used twice: when a module is built, to record what it expects of its base, and when it is composed.
Every tensor of a module is bound exactly once, or an error names it.
"""

from __future__ import annotations

from modpkg.adapters.changes import AdapterChanges, TensorChange
from modpkg.adapters.expert import ExpertBinding, bind_expert, bind_router
from modpkg.adapters.head import HeadBinding, bind_head
from modpkg.adapters.methods import METHODS, UNSUPPORTED
from modpkg.adapters.reader import bind_adapter

__all__ = [
    "METHODS",
    "UNSUPPORTED",
    "AdapterChanges",
    "ExpertBinding",
    "HeadBinding",
    "TensorChange",
    "bind_adapter",
    "bind_expert",
    "bind_head",
    "bind_router",
]
