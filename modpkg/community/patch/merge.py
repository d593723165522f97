"""Merging changed copies of one base: compatible changes combined, conflicts decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct, structs

from modpkg.community.modules.same_names import config_of
from modpkg.community.modules.view import ModuleView
from modpkg.community.patch.apply import apply_patch
from modpkg.community.patch.candidate import Origin
from modpkg.community.patch.conflicts import Overlap, Overlaps, blocks, find_overlaps
from modpkg.community.patch.merge_files import MergedFiles, merge_files
from modpkg.community.patch.resolution_file import Choice, Choices
from modpkg.compose.executor import compose
from modpkg.compose.plan import plan
from modpkg.compose.recipe_settings import check_settings, takes
from modpkg.compose.reducers import find_reducer
from modpkg.core.digests import digest_file
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import PatchError
from modpkg.core.filenames import CONFIG, PATCH
from modpkg.core.files import write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.names import module_name
from modpkg.core.packs import pack_chunks, pack_header
from modpkg.core.progress import Progress
from modpkg.core.same_values import as_copied_from
from modpkg.core.tensors import type_of
from modpkg.manifest.schema import IMPORTANCE, Compose, Setting, Step
from modpkg.store.store import Store

MEAN = "mean"
_OF_COPIES: dict[str, dict[str, Setting]] = {
    MEAN: {"with_base": False},
    "linear": {"base_weight": 0.0},
    "karcher": {"with_base": False},
}
"""Parameters that differ from the method's defaults here: the base is not one of the parents."""


class MergePlan(Struct, frozen=True, kw_only=True):
    """A base, the copies to merge, and their conflicts."""

    base: InstalledModule
    parents: tuple[ModuleView, ...]
    overlaps: Overlaps
    files: MergedFiles
    """Merged without the resolution file."""
    chosen: Mapping[str, Choice] = {}
    """Choices of the resolution file, by tensor in conflict."""
    chosen_files: Mapping[str, Choice] = {}

    @property
    def label(self) -> str:
        return f"{self.base.name} {self.base.version}"

    @property
    def open(self) -> list[Overlap]:
        """Tensors in conflict that the resolution file does not decide."""
        return [item for item in self.overlaps.conflicts if item.name not in self.chosen]


class ConflictMethod(Struct, frozen=True, kw_only=True):
    """How tensors in conflict are merged: a reducer and its parameters."""

    name: str
    parameters: Mapping[str, Setting] = {}
    importance: tuple[Mapping[str, TensorRef], ...] = ()
    """For each parent, the weights of its values."""
    weights: tuple[float, ...] = ()
    """For each parent, its weight; empty: 1."""

    def recipe(self, model: str, numbers: Sequence[int]) -> Compose:
        """Return the recipe that merges the copies of parents, called ``parent-1`` and so on.

        Raises:
            ComposeError: The method does not merge so many, or its parameters are wrong.
        """
        steps = []
        for number in numbers:
            parameters: dict[str, Setting] = {}
            if self.importance:
                parameters[IMPORTANCE] = f"importance-{number + 1}"
            scale = self.weights[number] if self.weights else 1.0
            name = module_name(f"parent-{number + 1}")
            steps.append(Step(op="dense", module=name, scale=scale, parameters=parameters))
        values = {**_OF_COPIES.get(self.name, {}), **self.parameters}
        recipe = Compose(
            base=module_name("base"),
            method=self.name,
            parameters=dict(sorted(values.items())),
            steps=tuple(steps),
        )
        check_settings(model, recipe)
        return recipe


def plan_merge(
    base: InstalledModule,
    parents: Sequence[ModuleView],
    store: Store,
    progress: Progress,
    choices: Choices | None = None,
) -> MergePlan:
    """Compare what parents changed in a base; nothing is merged yet.

    Copies of tied tensors, and buffers that a model computes itself, are no changes where only one
    side has them.

    Args:
        base: The base.
        parents: Patches for it, or changed copies of it.
        store: Where tensors of applied patches go.
        progress: Who shows progress.
        choices: The resolution file.

    Raises:
        PatchError: There is only one parent, or one has no tensor in common with the base.
        PatchError: An entry of the resolution file matches no conflict.
        What applying a patch can raise.
    """
    if len(parents) < 2:
        raise PatchError(
            "M742", what="A single parent", reason="name two patches, copies or releases"
        )
    copies = []
    for view in parents:
        if PATCH in view.files:
            copies.append(apply_patch(base, view, store, progress))
        elif not view.tensors.keys() & base.tensors.keys():
            raise PatchError(
                "M742",
                what=view.label,
                reason=f"it has no tensor in common with {base.name} {base.version}",
            )
        else:
            copies.append(view)
    progress.stage("Comparing")
    own = read_json(base.files[CONFIG]) if CONFIG in base.files else {}
    tensors = [
        as_copied_from(view.refs(), base.tensors, config_of(view) or own, own) for view in copies
    ]
    progress.total(sum(ref.length for refs in tensors for ref in refs.values()))
    overlaps = find_overlaps(base.tensors, tensors, progress.advance)
    files = merge_files(base.files, [view.paths() for view in copies])
    merge = MergePlan(base=base, parents=tuple(copies), overlaps=overlaps, files=files)
    if choices is None:
        return merge
    names = [view.name for view in copies]
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
    """The tensors and files of a merge."""

    tensors: dict[str, TensorRef]
    files: dict[str, Path]


def run_merge(
    merge: MergePlan, method: ConflictMethod | None, store: Store, scratch: Path, progress: Progress
) -> MergeResult:
    """Merge.

    A tensor that one parent changed, or several alike, is taken from it. Changes at different
    places of a tensor are combined. A tensor in conflict is decided by the resolution file, else
    by the method, applied to the copies of the parents that changed it.

    Args:
        merge: What to merge.
        method: How conflicts are decided that the resolution file leaves; None to refuse them.
        store: Where merged tensors go.
        scratch: A folder for combined tensors and files.
        progress: Who shows progress.

    Raises:
        PatchError: A conflict is undecided, or the method cannot decide it.
        ComposeError: The method cannot merge these parents.
    """
    _refuse_open(merge, method)
    base, parents = merge.base.tensors, merge.overlaps.parents
    tensors: dict[str, TensorRef | None] = {}
    for name, number in merge.overlaps.clean.items():
        tensors[name] = base.get(name) if number is None else parents[number].get(name)
    label = f"merge of {merge.label}"
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
    recipes = {}
    for name, numbers in groups:  # all of them before anything is computed
        how = method if method is not None and method.name == name else ConflictMethod(name=MEAN)
        recipes[name, numbers] = how, how.recipe(label, numbers)
    for group, names in sorted(groups.items()):
        tensors |= _reduced(merge, *recipes[group], group[1], names, store, scratch, progress)
    tensors |= _combined(merge, together, scratch / "combined.safetensors")
    files = merge_files(
        merge.base.files,
        [view.paths() for view in merge.parents],
        _choice_of(merge.chosen_files),
    )
    paths = dict(files.files)
    for path, data in files.written.items():
        paths[path] = scratch / "files" / path
        write_atomically(paths[path], data)
    there = {name: ref for name, ref in tensors.items() if ref is not None}
    return MergeResult(dict(sorted(there.items())), paths)


def check_method(method: ConflictMethod, parents: int) -> None:
    """Check, before anything is read, that a method can merge some of so many parents.

    Raises:
        ComposeError: It merges another number, or its parameters or weights are wrong.
    """
    reducer = find_reducer(method.name, "--method")
    count = next((n for n in range(parents, 1, -1) if takes(reducer, n)), parents)
    method.recipe(f"--method {method.name}", range(count))


def _choice_of(chosen: Mapping[str, Choice]) -> Callable[[str], str | int | None]:
    return chosen.get


def _refuse_open(merge: MergePlan, method: ConflictMethod | None) -> None:
    """Refuse undecided conflicts."""
    files = [item for item in merge.files.conflicts if item.path not in merge.chosen_files]
    tensors = merge.open if method is None else []
    if not files and not tensors:
        return
    conflicts = []
    if tensors:
        values = sum(item.different for item in tensors)
        opposite = sum(item.opposite for item in tensors)
        conflicts.append(
            f"{len(tensors)} tensors ({tensors[0].name!r} …; {values} values, {opposite} changed "
            "in opposite directions)"
        )
    if files:
        conflicts.append("; ".join(f"{item.path} ({item.reason})" for item in files))
    labels = ", ".join(view.label for view in merge.parents)
    raise PatchError(
        "M740",
        conflicts=f"{labels} conflict in {' and in '.join(conflicts)}",
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
            reason=f"it is {reason}, which method {method!r} cannot decide; choose ours, theirs or "
            "base for it under [tensors] of a --resolution file",
        )


def _reduced(
    merge: MergePlan,
    method: ConflictMethod,
    recipe: Compose,
    numbers: Sequence[int],
    names: Sequence[str],
    store: Store,
    scratch: Path,
    progress: Progress,
) -> dict[str, TensorRef]:
    """Return tensors merged by a method from the copies of these parents."""
    own = merge.base
    config = scratch / CONFIG
    config.write_bytes(b"{}")

    def module(name: str, tensors: Mapping[str, TensorRef]) -> InstalledModule:
        wanted = {key: tensors[key] for key in names if key in tensors}
        return structs.replace(own, name=name, kind="base", tensors=wanted, files={CONFIG: config})

    modules = {"base": module("base", own.tensors)}
    for number in numbers:
        name = f"parent-{number + 1}"
        modules[name] = module(name, merge.overlaps.parents[number])
        if method.importance:
            weighs = f"importance-{number + 1}"
            modules[weighs] = module(weighs, method.importance[number])
    progress.stage(f"Merging by {method.name}")
    composition = plan(f"merge of {merge.label}", "0", recipe, modules)
    composed = compose(composition, store.root, verified=store.verified)
    return composed.tensors


def _combined(merge: MergePlan, overlaps: Sequence[Overlap], target: Path) -> dict[str, TensorRef]:
    """Write tensors with the changes of all parents, which are at different places."""
    if not overlaps:
        return {}
    base = merge.base.tensors
    types = {item.name: type_of(base[item.name]) for item in overlaps}

    def data(item: Overlap) -> Any:
        refs = [merge.overlaps.parents[number][item.name] for number in item.parents]
        for old, copies, moved in blocks(base[item.name], refs):
            combined = old.clone()
            for copy, mask in zip(copies, moved, strict=True):
                combined[mask] = copy[mask]
            yield combined.view(torch.uint8).numpy().tobytes()

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
