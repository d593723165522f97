"""The release that patches are made from, applied to and merged on."""

from __future__ import annotations

from msgspec import Struct

from modpkg.community.modules.composed import compose_release, is_composed
from modpkg.community.modules.reference import fetch_named, parse_release
from modpkg.core.errors import ModpkgError, PatchError
from modpkg.core.installed import InstalledModule
from modpkg.core.names import module_name
from modpkg.core.records import ACTING_KINDS, BuiltFrom
from modpkg.environment.workspace import Workspace
from modpkg.registry.opening import place_to_compare
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


def check_base(text: str, workspace: Workspace) -> None:
    """Check, before anything is fetched, that a patch can be for the release ``NAME==VERSION``.

    Raises:
        UsageError: `text` has no version.
        NotFound: The registry has no such release.
        PatchError: It is a change to another release, which the patch has to be for.
    """
    name, version = parse_release(text)
    registry = workspace.registries.of(name)
    line = registry.line(name, version)
    if line.kind not in ACTING_KINDS:
        return
    record = registry.record(line)
    origin = record.provenance.built_from[0]
    remedy = (
        f"it was made for {origin.name} {origin.version}. Name --base "
        f"{origin.name}=={origin.version}, and the new patch has both changes; for the new one "
        f"alone, publish the whole model ('modpkg patch apply --base {origin.name}=="
        f"{origin.version} {name}=={version}' writes that of a patch), and name it"
    )
    raise PatchError("M239", what=f"{name} {version}", kind=line.kind, remedy=remedy)


def is_published(base: PatchBase, workspace: Workspace) -> bool:
    """Return whether the registry that a patch would be published to has its base's weights.

    Whole tensors are then written as changes of the base's.
    """
    if base.parts:
        return False
    module = base.module
    try:
        options = workspace.options
        place = place_to_compare(workspace.manifest, options.registry, offline=options.offline)
        line = registry_at(place).line(module.name, module.version)
    except ModpkgError:
        return False
    return line.release == module.release
