"""MergePlan changed copies of one base: what they agree on, and a choice where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct, structs

from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.apply import apply_patch
from modpkg.community.patch.candidate import Origin
from modpkg.community.patch.conflicts import Overlap, Overlaps, blocks, find_overlaps
from modpkg.community.patch.merge_files import MergedFiles, merge_files
from modpkg.community.patch.resolution_file import Choice, Choices
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.core.digests import digest_file
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import PatchError
from modpkg.core.filenames import CONFIG, PATCH
from modpkg.core.files import write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.names import module_name
from modpkg.core.packs import pack_chunks, pack_header
from modpkg.core.progress import Progress
from modpkg.core.tensors import type_of
from modpkg.manifest.schema import IMPORTANCE, Compose, Setting, Step
from modpkg.store.store import Store

MEAN = "mean"
_OF_COPIES: dict[str, dict[str, Setting]] = {MEAN: {"with_base": False}}
"""Parameters that a method has by itself here: the base is no parent."""


class MergePlan(Struct, frozen=True, kw_only=True):
    """What is to be merged, and where it is at odds."""

    base: InstalledModule
    parents: tuple[ModuleView, ...]
    overlaps: Overlaps
    files: MergedFiles
    """Without any choice."""
    chosen: Mapping[str, Choice] = {}
    """By tensor in conflict, what a resolution file says."""
    chosen_files: Mapping[str, Choice] = {}

    @property
    def label(self) -> str:
        return f"{self.base.name} {self.base.version}"

    @property
    def open(self) -> list[Overlap]:
        """Tensors in conflict that no resolution file decides."""
        return [item for item in self.overlaps.conflicts if item.name not in self.chosen]


class ConflictMethod(Struct, frozen=True, kw_only=True):
    """How tensors that conflict are made one: a reducer and its parameters."""

    name: str
    parameters: Mapping[str, Setting] = {}
    importance: tuple[Mapping[str, TensorRef], ...] = ()
    """For each parent, tensors that say how much each of its values counts."""


def plan_merge(
    base: InstalledModule,
    parents: Sequence[ModuleView],
    store: Store,
    progress: Progress,
    choices: Choices | None = None,
) -> MergePlan:
    """Return what parents (patches, or whole copies) did to a base; nothing is merged yet.

    Raises:
        PatchError: there are not two, or they have nothing in common with the base.
        PatchError: an entry of the resolution file names no conflict, or nothing at all.
        Everything that applying a patch can raise.
    """
    if len(parents) < 2:
        raise PatchError(
            "M742", what="One parent alone", reason="name two patches, copies or releases"
        )
    copies = []
    for side in parents:
        if PATCH in side.files:
            copies.append(apply_patch(base, side, store, progress))
        elif not side.tensors.keys() & base.tensors.keys():
            raise PatchError(
                "M742",
                what=side.label,
                reason=f"it has no tensor in common with {base.name} {base.version}",
            )
        else:
            copies.append(side)
    progress.stage("Comparing")
    tensors = [view.refs() for view in copies]
    progress.total(sum(ref.length for refs in tensors for ref in refs.values()))
    overlaps = find_overlaps(base.tensors, tensors, progress.advance)
    files = merge_files(base.files, [view.paths() for view in copies])
    merge = MergePlan(base=base, parents=tuple(copies), overlaps=overlaps, files=files)
    if choices is None:
        return merge
    names = [side.name for side in copies]
    known = [*overlaps.clean, *(tensor.name for tensor in overlaps.tensors)]
    conflicting = [tensor.name for tensor in overlaps.conflicts]
    return structs.replace(
        merge,
        chosen=choices.resolve("tensors", conflicting, known, names),
        chosen_files=choices.resolve(
            "files", [item.path for item in files.conflicts], files.known, names
        ),
    )


def merge_origins(merge: MergePlan) -> list[Origin]:
    """Return what a merge is made from: the base, and the parents that are modules."""
    parents = [
        (view.name, view.version, "merged")
        for view in merge.parents
        if view.name is not None and view.version is not None
    ]
    return [(merge.base.name, merge.base.version, "built"), *parents]


class MergeResult(Struct, frozen=True):
    """A merge: where its tensors and files lie."""

    tensors: dict[str, TensorRef]
    files: dict[str, Path]


def run_merge(
    merge: MergePlan, method: ConflictMethod | None, store: Store, scratch: Path, progress: Progress
) -> MergeResult:
    """Return the merge; ``scratch`` is a folder for what has to be put together.

    What one parent changed alone, or several alike, is taken; a tensor that they changed at
    different places has the changes of all. Where values conflict, the tensor is what the
    resolution file says, else what the method makes of the copies of those who changed it.

    Raises:
        PatchError: a choice is left open. PatchError: the method cannot decide it.
        ComposeError: the method cannot do it.
    """
    _refuse_open(merge, method)
    base, parents = merge.base.tensors, merge.overlaps.parents
    tensors: dict[str, TensorRef | None] = {}
    for name, number in merge.overlaps.clean.items():
        tensors[name] = base.get(name) if number is None else parents[number].get(name)
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    together = []
    for item in merge.overlaps.tensors:
        chosen = merge.chosen.get(item.name)
        if not item.conflicts:
            together.append(item)
        elif chosen == "base":
            tensors[item.name] = base.get(item.name)
        elif isinstance(chosen, int):
            tensors[item.name] = parents[chosen].get(item.name)
        else:
            name = MEAN if chosen == MEAN or method is None else method.name
            _check_method(item, name, base)
            groups.setdefault((name, item.parents), []).append(item.name)
    for (name, numbers), names in sorted(groups.items()):
        how = method if method is not None and method.name == name else ConflictMethod(name=name)
        tensors |= _reduced(merge, how, numbers, names, store, scratch, progress)
    tensors |= _united(merge, together, scratch / "united.safetensors")
    files = merge_files(
        merge.base.files,
        [view.paths() for view in merge.parents],
        _choice_of(merge.chosen_files),
    )
    found = dict(files.files)
    for path, data in files.written.items():
        found[path] = scratch / "files" / path
        write_atomically(found[path], data)
    there = {name: ref for name, ref in tensors.items() if ref is not None}
    return MergeResult(dict(sorted(there.items())), found)


def _choice_of(chosen: Mapping[str, Choice]) -> Callable[[str], str | int | None]:
    return chosen.get


def _refuse_open(merge: MergePlan, method: ConflictMethod | None) -> None:
    """Refuse to choose silently."""
    files = [item for item in merge.files.conflicts if item.path not in merge.chosen_files]
    tensors = merge.open if method is None else []
    if not files and not tensors:
        return
    told = []
    if tensors:
        values = sum(item.different for item in tensors)
        opposite = sum(item.opposite for item in tensors)
        told.append(
            f"{len(tensors)} tensors ({tensors[0].name!r} …; {values} values, {opposite} moved in "
            "opposite directions)"
        )
    if files:
        told.append("; ".join(f"{item.path} ({item.reason})" for item in files))
    labels = ", ".join(side.label for side in merge.parents)
    raise PatchError(
        "M740",
        conflicts=f"{labels} conflict in {' and in '.join(told)}",
        table="tensors" if tensors else "files",
        example=tensors[0].name if tensors else files[0].path,
    )


def _check_method(item: Overlap, method: str, base: Mapping[str, TensorRef]) -> None:
    reason = item.reason
    if not reason and base[item.name].dtype not in FLOATS:
        reason = f"of dtype {base[item.name].dtype}"
    if reason:
        raise PatchError(
            "M742",
            what=repr(item.name),
            reason=f"it is {reason}, which method {method!r} cannot decide; say ours, theirs or "
            "base for it under [tensors] of a file, and name it with --resolution",
        )


def _reduced(
    merge: MergePlan,
    method: ConflictMethod,
    numbers: Sequence[int],
    names: Sequence[str],
    store: Store,
    scratch: Path,
    progress: Progress,
) -> dict[str, TensorRef]:
    """Return what a method makes of the copies of these parents."""
    own = merge.base
    config = scratch / CONFIG
    config.write_text("{}")

    def module(name: str, tensors: Mapping[str, TensorRef]) -> InstalledModule:
        wanted = {key: tensors[key] for key in names if key in tensors}
        return structs.replace(own, name=name, kind="base", tensors=wanted, files={CONFIG: config})

    modules = {"base": module("base", own.tensors)}
    steps = []
    for number in numbers:
        name = f"parent-{number + 1}"
        modules[name] = module(name, merge.overlaps.parents[number])
        parameters: dict[str, Setting] = {}
        if method.importance:
            weighs = f"importance-{number + 1}"
            modules[weighs] = module(weighs, method.importance[number])
            parameters[IMPORTANCE] = weighs
        steps.append(Step(op="dense", module=module_name(name), parameters=parameters))
    recipe = Compose(
        base=module_name("base"),
        method=method.name,
        parameters=dict(sorted({**_OF_COPIES.get(method.name, {}), **method.parameters}.items())),
        steps=tuple(steps),
    )
    progress.stage(f"MergePlan by {method.name}")
    composed = compose(plan(f"merge of {merge.label}", "0", recipe, modules), store.root)
    return composed.tensors


def _united(merge: MergePlan, overlaps: Sequence[Overlap], target: Path) -> dict[str, TensorRef]:
    """Write tensors with the changes of all who changed them, each at its own places."""
    if not overlaps:
        return {}
    base = merge.base.tensors
    types = {item.name: type_of(base[item.name]) for item in overlaps}

    def data(item: Overlap) -> Any:
        refs = [merge.overlaps.parents[number][item.name] for number in item.parents]
        for old, copies, moved in blocks(base[item.name], refs):
            found = old.clone()
            for copy, mask in zip(copies, moved, strict=True):
                found[mask] = copy[mask]
            yield found.view(torch.uint8).numpy().tobytes()

    write_atomically(target, pack_chunks(types, {item.name: data(item) for item in overlaps}))
    _, places = pack_header(types)
    return {
        name: TensorRef(
            file=str(target),
            offset=place.offset,
            length=place.length,
            dtype=place.dtype,
            shape=list(place.shape),
            digest=digest_file(target, place.offset, place.length),
        )
        for name, place in places.items()
    }
