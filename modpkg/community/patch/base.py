"""The release that patches are made from, applied to and merged on."""

from __future__ import annotations

from modpkg.community.modules.reference import fetch_named
from modpkg.core.errors import ModpkgError, PatchError
from modpkg.core.installed import InstalledModule
from modpkg.environment.workspace import Workspace
from modpkg.registry.opening import writable_place
from modpkg.registry.place import registry_at


def fetch_base(text: str, workspace: Workspace) -> InstalledModule:
    """Fetch the base that ``NAME==VERSION`` names.

    Raises:
        UsageError: `text` has no version.
        PatchError: The release has no weights.
        NotFound: The registry has no such release. What fetching can raise.
    """
    base = fetch_named(text, workspace)
    if not base.tensors:
        raise PatchError(
            "M735",
            what=f"A copy of {text}",
            base=text,
            reason=f"{text} is of kind {base.kind!r} and has no weights; name the base that it is "
            "composed of",
        )
    return base


def is_published(base: InstalledModule, workspace: Workspace) -> bool:
    """Return whether the registry that a patch would be published to has its base.

    Whole tensors are then written as changes of the base's.
    """
    try:
        place = writable_place(workspace.manifest, workspace.options.registry)
        line = registry_at(place).line(base.name, base.version)
    except ModpkgError:
        return False
    return line.release == base.release
