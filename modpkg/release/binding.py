"""Which release of its base a module is bound to, where its manifest does not say it.

It is the newest release in range, unless the module fits another one too whose weights differ where
it acts: nothing in an adapter tells which of them it was trained on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

from modpkg.core.errors import ComposeError, ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG, PATCH
from modpkg.core.interface import drift_of, unfit_reason
from modpkg.core.records import Expects, TensorEntry
from modpkg.manifest.schema import ModuleTable
from modpkg.release.base import Base
from modpkg.release.expects import BaseMemory, Bound, expects_of


def bind(
    module: ModuleTable,
    tensors: Mapping[str, TensorEntry],
    files: Mapping[str, Path],
    base: Base,
    memory: Callable[[Base], BaseMemory | None],
    *,
    older: bool = False,
) -> tuple[Base, Bound]:
    """Return the release that a module is built against, and the part of it that it touches.

    Args:
        module: The module.
        tensors: Its tensors.
        files: Its files.
        base: The release to try first; its ``others`` come after it.
        memory: Returns how transformers has a release in memory.
        older: Whether to try the others too if the module does not fit ``base``.

    Raises:
        ReleaseError, ComposeError: The module fits none that is tried (the error is about
            ``base``), or several of different weights.
    """
    refusal: ReleaseError | ComposeError | None = None
    refused: list[Base] = []
    for candidate in itertools.chain([base], base.others() if older else ()):
        try:
            bound = expects_of(
                module,
                tensors,
                files,
                candidate.record,
                candidate.provides,
                model_config=candidate.config() if ADAPTER_CONFIG in files else {},
                memory=memory(candidate),
            )
        except (ReleaseError, ComposeError) as error:
            refusal = refusal or error
            refused.append(candidate)
            continue
        if PATCH not in files:  # a patch holds the digests of its base
            _require_only(module, base, candidate, refused, bound.expects)
        return candidate, bound
    raise refusal or AssertionError("there is at least one base")


def _require_only(
    module: ModuleTable, base: Base, chosen: Base, refused: list[Base], expects: Expects
) -> None:
    """Check that no other release has other weights that the module fits as well."""
    rivals = [
        other.record.version
        for other in itertools.chain([base], base.others())
        if not any(other.release == one.release for one in [chosen, *refused])
        and unfit_reason(expects, other.provides) is None
        and not drift_of(expects, other.provides, other.record.tensors).exact
    ]
    if rivals:
        name, version = chosen.record.name, chosen.record.version
        raise ReleaseError(
            "M421",
            module=module.name,
            base=name,
            versions=", ".join([version, *rivals]),
            release=f"{name}=={version}",
        )
