"""The release that patches are made from, applied to and merged on."""

from __future__ import annotations

from msgspec import Struct

from modpkg.community.modules.composed import compose_release, is_composed
from modpkg.community.modules.reference import fetch_named
from modpkg.core.errors import ModpkgError, PatchError
from modpkg.core.installed import InstalledModule
from modpkg.core.names import module_name
from modpkg.core.records import BuiltFrom
from modpkg.environment.workspace import Workspace
from modpkg.registry.opening import writable_place
from modpkg.registry.place import registry_at


class PatchBase(Struct, frozen=True):
    """The base of patches."""

    module: InstalledModule
    parts: tuple[BuiltFrom, ...] = ()
    """What it is composed of, if it has no weights of its own."""


def fetch_base(text: str, workspace: Workspace) -> PatchBase:
    """Fetch the base that ``NAME==VERSION`` names; one that has a recipe is composed.

    Raises:
        UsageError: `text` has no version.
        PatchError: The release has no weights.
        NotFound: The registry has no such release. What fetching or composing can raise.
    """
    base = fetch_named(text, workspace)
    if is_composed(base.record):
        composed = compose_release(workspace, module_name(base.name), base.version)
        return PatchBase(composed.module, composed.parts)
    if not base.tensors:
        raise PatchError(
            "M735",
            what=f"A copy of {text}",
            base=text,
            reason=f"{text} is of kind {base.kind!r} and has no weights; name the base that it is "
            "composed of",
        )
    return PatchBase(base)


def is_published(base: PatchBase, workspace: Workspace) -> bool:
    """Return whether the registry that a patch would be published to has its base's weights.

    Whole tensors are then written as changes of the base's.
    """
    if base.parts:
        return False
    module = base.module
    try:
        place = writable_place(workspace.manifest, workspace.options.registry)
        line = registry_at(place).line(module.name, module.version)
    except ModpkgError:
        return False
    return line.release == module.release
