"""What a merge was, as its manifest remembers it, and what it takes to make it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.merge import ConflictMethod, MergePlan
from modpkg.community.patch.resolution_file import Choices
from modpkg.core.errors import PatchError, UsageError
from modpkg.core.installed import TensorRef
from modpkg.core.interface import weights_digest
from modpkg.manifest.schema import MergeChoice, MergeConflicts, MergedParent, RememberedMerge


def remember_merge(
    merge: MergePlan,
    method: ConflictMethod | None,
    choices: Choices | None,
    tensors: Mapping[str, TensorRef],
) -> RememberedMerge:
    """Return what a merge was.

    Args:
        merge: Its base, its parents and their conflicts.
        method: How those were decided that ``choices`` left; only remembered if there were some.
        choices: The resolution file.
        tensors: The result.
    """
    used = method if merge.open else None
    resolution = () if choices is None else tuple(_entries(choices))
    conflicts = merge.overlaps.conflicts
    return RememberedMerge(
        base=f"{merge.base.name}=={merge.base.version}",
        parents=tuple(_parent(merge, number, used) for number in range(len(merge.parents))),
        method=None if used is None else used.name,
        parameters={} if used is None else dict(used.parameters),
        resolution=resolution,
        conflicts=MergeConflicts(
            tensors=len(conflicts),
            values=sum(item.different for item in conflicts),
            opposite=sum(item.opposite for item in conflicts),
            files=len(merge.files.conflicts),
        ),
        result=weights_digest(tensors),
    )


def _parent(merge: MergePlan, number: int, method: ConflictMethod | None) -> MergedParent:
    view = merge.parents[number]
    released = view.name is not None and view.version is not None
    weighs = method.importance[number] if method is not None and method.importance else None
    return MergedParent(
        release=f"{view.name}=={view.version}" if released else "",
        folder="" if released else _folder(view),
        weights=weights_digest(merge.overlaps.parents[number]),
        weight=method.weights[number] if method is not None and method.weights else 1.0,
        importance="" if weighs is None else weights_digest(weighs),
    )


def _folder(view: ModuleView) -> str:
    """Return the name of a copy's folder, without where it is on this machine."""
    return Path(view.label).absolute().name or view.label


def _entries(choices: Choices) -> Iterator[MergeChoice]:
    for table, entries in (("tensors", choices.tensors), ("files", choices.files)):
        for pattern, choice in entries.items():
            yield MergeChoice(table, pattern, choice)


def parents_again(recipe: RememberedMerge, folders: Sequence[str]) -> list[str]:
    """Return what to name as the parents of a merge that is made again.

    Args:
        recipe: What it was.
        folders: Those of its parents that are no releases, in their order.

    Raises:
        UsageError: It has another number of them.
    """
    wanted = [parent.folder for parent in recipe.parents if not parent.release]
    if len(folders) != len(wanted):
        named = f": {', '.join(wanted)}" if wanted else ""
        message = f"It takes {len(wanted)} folders to make that merge again{named}."
        raise UsageError("M901", message=message)
    given = iter(folders)
    return [parent.release or next(given) for parent in recipe.parents]


def choices_again(recipe: RememberedMerge, source: str) -> Choices | None:
    """Return the resolution file of a merge that is made again; ``source`` names its manifest."""
    if not recipe.resolution:
        return None
    tables: dict[str, dict[str, str]] = {"tensors": {}, "files": {}}
    for one in recipe.resolution:
        tables[one.table].setdefault(one.pattern, one.choice)
    return Choices(Path(source), tables["tensors"], tables["files"])


def check_same_merge(before: RememberedMerge, now: RememberedMerge, what: str) -> None:
    """Check that a merge that was made again is the same.

    Raises:
        PatchError: A parent has other weights than the one that was merged, or the result differs.
    """
    for old, new in zip(before.parents, now.parents, strict=True):
        if (old.weights, old.importance) != (new.weights, new.importance):
            raise PatchError("M236", what=what, parent=old.release or old.folder)
    if before.result != now.result:
        raise PatchError("M237", what=what, expected=before.result, actual=now.result)
