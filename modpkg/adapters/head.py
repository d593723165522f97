"""Which tensors a head adds to a base, and which of the base's it replaces or removes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.core.errors import ComposeError
from modpkg.core.tensors import DTypeShape, TypedTensor

_CLASS = re.compile(r"^(?P<stem>\w+?)(?:LMHead)?(?:Model|For[A-Z]\w*)$")


class HeadBinding(Struct, frozen=True):
    """What a head does to the base's tensors, by name."""

    added: tuple[str, ...]
    """The head's tensors that the base lacks."""
    replaced: tuple[str, ...]
    """The head's tensors that replace one of the base's."""
    removed: tuple[str, ...]
    """The base's tensors under ``replace`` that the head has no tensor for."""


def bind_head(
    module: str,
    names: Mapping[str, DTypeShape],
    base: Mapping[str, TypedTensor],
    replace: Sequence[str] = (),
    *,
    base_name: str = "the base",
) -> HeadBinding:
    """Return which tensors a head adds to the base, replaces and removes.

    A tensor that the base has too must be listed in ``replace``, by its name or by a prefix that
    ends with ``.``. Tensors of the base that ``replace`` lists and the head lacks are removed.

    Raises:
        ComposeError: The head has no tensors, has one of the base's that ``replace`` does not list,
            or ``replace`` lists one that the base does not have.
    """

    def named(name: str) -> bool:
        return any(name.startswith(r) if r.endswith(".") else name == r for r in replace)

    if not names:
        raise ComposeError("M601", model=module, reason="the head has no tensors")
    clashes = sorted(name for name in names if name in base and not named(name))
    if clashes:
        raise ComposeError(
            "M601",
            model=module,
            reason=f"tensor {clashes[0]!r} is in {base_name} too; to replace it, write "
            f'replace = ["{clashes[0]}"] in the head\'s step',
        )
    under = sorted(name for name in base if named(name))
    for entry in replace:
        if not any(n.startswith(entry) if entry.endswith(".") else n == entry for n in under):
            raise ComposeError(
                "M601",
                model=module,
                reason=f"replace lists {entry!r}, but {base_name} has no such tensor",
            )
    return HeadBinding(
        added=tuple(sorted(name for name in names if name not in base)),
        replaced=tuple(name for name in under if name in names),
        removed=tuple(name for name in under if name not in names),
    )


def class_stem(config: Mapping[str, Any]) -> str | None:
    """Return the stem of a model's class names in transformers, or None if it names no class.

    >>> class_stem({"architectures": ["GPT2LMHeadModel"]})
    'GPT2'
    """
    match = _CLASS.match(str((config.get("architectures") or [""])[0]))
    return match["stem"] if match is not None else None
