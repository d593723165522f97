"""What a method is: the names it writes, and how they become changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from modpkg.adapters.changes import Adapter, Site, TensorChange


class PeftMethod(Struct, frozen=True, kw_only=True):
    """One ``peft_type`` that is done exactly."""

    operator: str
    """The operator that a recipe names for it."""
    parts: Mapping[str, str]
    """The method's name for each part of a tensor's name that it writes after a module's path."""
    bind: Callable[[Adapter, Sequence[Site], Mapping[str, str]], list[TensorChange]]
    """From sites, and tensors that belong to the whole model, to changes."""


def need(adapter: Adapter, site: Site, *roles: str) -> None:
    """Check that a site has these tensors.

    Raises:
        ReleaseError: one is missing.
    """
    for role in roles:
        if role not in site.roles:
            raise adapter.unbound(
                min(site.roles.values()), f"the part {role!r} that belongs to it is missing"
            )


def matrix(adapter: Adapter, tensor: str) -> tuple[int, int]:
    """Return the extents of a factor.

    Raises:
        ComposeError: it is no matrix.
    """
    shape = adapter.shape(tensor)
    if len(shape) != 2:
        raise adapter.refuse(f"{tensor!r} has shape {list(shape)}, and a matrix is needed")
    return shape[0], shape[1]
