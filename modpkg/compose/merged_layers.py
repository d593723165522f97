"""Runs of layers into which layers of other models are merged: each is a composition of its own.

    composed[layer k] = method( module[layer j], [ scale_i · (model_i[layer j_i] − it) ] )

In mergekit, slices with several sources. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from modpkg.compose.composition import Term
from modpkg.compose.layers import AssembledRun, height_in, matches, path_in, positions
from modpkg.compose.merging import MergeMethod, PlannedStep
from modpkg.compose.operators import StepContext, find_operator
from modpkg.compose.operators.dense import DENSE
from modpkg.compose.recipe_settings import recipe_of_run
from modpkg.compose.reducers import find_reducer
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import read_json
from modpkg.manifest.schema import Compose


class MergedRun(Struct, frozen=True):
    """What is merged into a run of layers."""

    merging: MergeMethod
    base: InstalledModule
    """The run's tensors before the merge, by their names in the result."""
    terms: dict[str, tuple[Term, ...]]


def merged_runs(
    name: str,
    recipe: Compose,
    runs: Sequence[AssembledRun],
    modules: Mapping[str, InstalledModule],
) -> list[MergedRun]:
    """Return the runs of a recipe that have steps.

    Raises:
        ComposeError: A step is no merge of as many layers with the same names and shapes, or
            the method cannot merge a part of a model.
    """
    return [_merged(name, recipe, run, modules) for run in runs if run.layers.steps]


def _merged(
    name: str, recipe: Compose, run: AssembledRun, modules: Mapping[str, InstalledModule]
) -> MergedRun:
    layers, owner = run.layers, modules[run.layers.module]

    def refuse(reason: str) -> ComposeError:
        what = f"tensors {', '.join(layers.tensors)}"
        if layers.range is not None:
            what = f"layers {list(layers.range)}"
        return ComposeError("M601", model=name, reason=f"{what} of {owner.name}: {reason}")

    if recipe.steps:
        raise refuse(
            "they have steps of their own, so the recipe cannot have others; make a module of this "
            "merge, and name it as the base of those"
        )
    if layers.scale is not None:
        raise refuse("they have steps and a scale; give each step the scale that it should have")
    base = structs.replace(owner, tensors=run.tensors)
    config = read_json(owner.files[CONFIG]) if CONFIG in owner.files else {}
    own = recipe_of_run(recipe, layers)
    reducer = find_reducer(own.method, f"[compose] of {name}")
    if reducer.across:
        raise refuse(
            f"method {own.method!r} measures the whole model; choose one that merges tensor by "
            "tensor"
        )
    wanted = layers.range or (0, 0)
    count = wanted[1] - wanted[0]
    steps = []
    for number, step in enumerate(layers.steps, start=1):
        if step.op != DENSE.name:
            raise refuse(f"step {step.op!r} cannot be merged into layers; only 'dense' can")
        extent = step.range or wanted
        if extent[1] - extent[0] != count:
            raise refuse(f"step {number} has {extent[1] - extent[0]} layers, not {count}")
        module, names = _renamed(modules[step.module], owner, run, extent[0], count)
        context = StepContext(
            model=name,
            step=step,
            module=module,
            base=base,
            config=config,
            recipe=own,
            modules=modules,
        )
        effects = find_operator(step.op, name).bind(context)
        steps.append(PlannedStep(number, step, module, effects, names))
    places = positions(list(owner.tensors))  # of other towers; outside of layers it is 0
    for tensor in run.tensors:
        if path_in(run.stack, tensor) is not None:
            places[tensor] = height_in(tensor, run.stack, run.first, count)
    merging = MergeMethod(name, own, reducer, modules, places)
    return MergedRun(merging, base, merging.terms(base, steps))


def _renamed(
    module: InstalledModule, owner: InstalledModule, run: AssembledRun, first: int, count: int
) -> tuple[InstalledModule, dict[str, str]]:
    """Return a module with only its tensors for a run, and their names in the module.

    Their names are those in the result. The layers are ``count`` from the ``first`` one on;
    ``owner`` is the run's own module.
    """
    names: dict[str, str] = {}
    for tensor in module.tensors:
        place = path_in(run.stack, tensor)
        if place is not None:
            if first <= place.layer < first + count:
                names[f"{run.stack}.{run.first + place.layer - first}.{place.rest}"] = tensor
        elif tensor in run.tensors or (
            # What the run's own module does not have is found out by binding.
            tensor not in owner.tensors
            and any(matches(tensor, each) for each in run.layers.tensors)
        ):
            names[tensor] = tensor
    tensors = {target: module.tensors[tensor] for target, tensor in names.items()}
    return structs.replace(module, tensors=tensors), names
