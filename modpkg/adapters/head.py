"""Which tensors a head adds, and which of the base's it takes the place of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from modpkg.adapters.changes import TypePair
from modpkg.core.errors import ComposeError
from modpkg.core.tensors import TypedTensor


class HeadBinding(Struct, frozen=True):
    """What a head does to the table of tensors."""

    added: tuple[str, ...]
    """The head's tensors that the base lacks."""
    replaced: tuple[str, ...]
    """The head's tensors that take the place of the base's."""
    removed: tuple[str, ...]
    """The base's tensors under ``replace`` that the head has nothing for."""


def bind_head(
    module: str,
    names: Mapping[str, TypePair],
    base: Mapping[str, TypedTensor],
    replace: Sequence[str] = (),
    *,
    base_name: str = "the base",
) -> HeadBinding:
    """Return what a head adds to the base and what it replaces there.

    A tensor that the base has too needs to be named in ``replace``: by its name, or by a prefix
    that ends with ``.``. What ``replace`` names and the head has nothing for, is removed.

    Raises:
        ComposeError: the head would replace a tensor that ``replace`` does not name, or ``replace``
            names nothing.
    """

    def named(name: str) -> bool:
        return any(name.startswith(r) if r.endswith(".") else name == r for r in replace)

    if not names:
        raise ComposeError("M601", model=module, reason="the head holds no tensor at all")
    clashes = sorted(name for name in names if name in base and not named(name))
    if clashes:
        raise ComposeError(
            "M601",
            model=module,
            reason=f"tensor {clashes[0]!r} is in {base_name} too; if the head is to replace it, "
            f'write replace = ["{clashes[0]}"] in its step',
        )
    under = sorted(name for name in base if named(name))
    for entry in replace:
        if not any(n.startswith(entry) if entry.endswith(".") else n == entry for n in under):
            raise ComposeError(
                "M601",
                model=module,
                reason=f"replace names {entry!r}, but {base_name} has no such tensor",
            )
    return HeadBinding(
        added=tuple(sorted(name for name in names if name not in base)),
        replaced=tuple(name for name in under if name in names),
        removed=tuple(name for name in under if name not in names),
    )
