"""A PEFT method: the keys that it writes, how they bind to a base, and its formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from modpkg.adapters.changes import Adapter, Site, TensorChange, VirtualTokens
from modpkg.adapters.formula import Formula
from modpkg.adapters.names import AdapterTensors

Bind = Callable[[Adapter, Sequence[Site], Mapping[str, str]], list[TensorChange]]


class PeftMethod(Struct, frozen=True, kw_only=True):
    """One ``peft_type`` that modpkg applies exactly."""

    peft_type: str
    operator: str
    """The operator that a recipe names for it."""
    keys: Mapping[str, str]
    """Roles by key: the part of a tensor's name that the method writes after a module's path."""
    bind: Bind
    """``bind(adapter, sites, shared)``: the changes of all sites; ``shared`` are the tensors that
    belong to the whole model, by role."""
    formulas: tuple[Formula, ...] = ()
    """Formulas that this method defines; its changes may use those of other methods too."""
    empty: Mapping[str, int] = {}
    """Keys whose tensors may have no values, with their number of dimensions."""
    absent: str = ""
    """Why an adapter with no tensor of any layer cannot be applied, if the method writes such."""
    virtual_tokens: Callable[[Adapter, AdapterTensors], VirtualTokens] | None = None
    """``virtual_tokens(adapter, tensors)``: for methods that prepend tokens to the input."""


def require(adapter: Adapter, site: Site, *roles: str) -> None:
    """Check that a site has a tensor for each of these roles.

    Raises:
        ReleaseError: One is missing.
    """
    for role in roles:
        if role not in site.roles:
            raise adapter.unbound(
                min(site.roles.values()), f"the tensor {role!r} that belongs to it is missing"
            )


def matrix_shape(adapter: Adapter, tensor: str) -> tuple[int, int]:
    """Return the shape of a factor of the adapter.

    Raises:
        ComposeError: The factor is not a matrix.
    """
    shape = adapter.shape(tensor)
    if len(shape) != 2:
        raise adapter.refuse(f"{tensor!r} has shape {list(shape)}, but has to be a matrix")
    return shape[0], shape[1]


def vector_length(adapter: Adapter, tensor: str) -> int:
    """Return the length of a vector of the adapter.

    Raises:
        ComposeError: The tensor is not a vector.
    """
    shape = adapter.shape(tensor)
    if len(shape) != 1:
        raise adapter.refuse(f"{tensor!r} has shape {list(shape)}, but has to be a vector")
    return shape[0]


def linear_shape(adapter: Adapter, site: Site) -> tuple[int, int]:
    """Return the shape of a site's weight in the base, (out, in).

    Raises:
        ComposeError: The weight is not a matrix.
    """
    shape = adapter.target_shape(site.target)
    if len(shape) != 2:
        raise adapter.refuse(
            f"{site.target!r} has shape {list(shape)}, and the method is for matrices"
        )
    return shape[0], shape[1]


def product_shape(adapter: Adapter, site: Site) -> tuple[int, int, str]:
    """Return (out, in) of B @ A, and the name of B, having checked that their ranks agree.

    Raises:
        ReleaseError: A or B is missing.
        ComposeError: One is not a matrix, or they differ in rank.
    """
    require(adapter, site, "a", "b")
    rank, inner = matrix_shape(adapter, site.roles["a"])
    out, _ = matrix_shape(adapter, site.roles["b"])
    adapter.expect(site.roles["b"], site.roles["a"], (out, rank))
    return out, inner, site.roles["b"]
