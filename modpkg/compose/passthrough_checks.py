"""Tensors that a patch brings, and that are taken as they are. Torch-free."""

from __future__ import annotations

from pathlib import Path

from modpkg.compose.composition import Composition
from modpkg.core.digests import digest_file
from modpkg.core.errors import ComposeError, PatchError
from modpkg.release.finite import count_not_finite


def check_brought(composition: Composition) -> None:
    """Check that what patches bring is finite, and that parts of a base's tensors are what the
    patch says; all else was verified when it was fetched.

    Raises:
        ComposeError, PatchError: names the tensor. PackError: it cannot be read.
    """
    for name in composition.require_finite:
        ref = composition.kept[name]
        file = Path(ref.file)
        if name in composition.unverified and (
            digest_file(file, ref.offset, ref.length) != ref.digest
        ):
            reason = f"{name!r} is not the part of the base's tensor that it says"
            raise PatchError("M730", patch=f"A module of {composition.name}", reason=reason)
        if count_not_finite(file, ref.offset, ref.length, ref.dtype):
            raise ComposeError("M605", model=composition.name, tensor=name)
