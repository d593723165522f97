"""Which update, if any, brings a module and its base back to versions that fit exactly."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone

from modpkg.core.errors import ModpkgError
from modpkg.core.names import ModuleName
from modpkg.environment.locking import kept_versions, roots_of
from modpkg.environment.policy import policy_of
from modpkg.environment.workspace import Workspace
from modpkg.manifest.schema import Manifest
from modpkg.resolve.lock import Lock
from modpkg.resolve.resolve import resolve


def exact_update(
    workspace: Workspace, manifest: Manifest, lock: Lock, module: str, base: str
) -> str | None:
    """Return the command after which a module that drifts fits its base; None if none is found.

    A lock keeps a base that was locked first, although the manifest allows the exact one. What is
    reported was tried: on the index files that the command has read already.
    """
    catalog = workspace.registries_for(manifest, lock).catalog()
    policy = policy_of(manifest, datetime.now(timezone.utc), lock)
    for names in ([base], [module], [base, module]):
        with contextlib.suppress(ModpkgError):  # it is only a hint
            kept = kept_versions(manifest, lock, names)
            chosen = resolve(roots_of(manifest), catalog, locked=kept, policy=policy).modules
            one, two = chosen.get(ModuleName(module)), chosen.get(ModuleName(base))
            if not (one and two and two.release.line.provides is not None):
                continue
            if catalog.drift(one.release, two.release) is None:
                return f"modpkg update {' '.join(names)}"
    return None
