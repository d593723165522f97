"""Planning: from a recipe and its modules to a composition. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import structs

from modpkg.compose.checks import (
    check_alone,
    check_rows,
    check_together,
    patched_whole,
    unverified_slices,
)
from modpkg.compose.composition import (
    Composition,
    ComputedTensor,
    ExpectedValues,
    PromptReader,
    RouterWeight,
    Term,
)
from modpkg.compose.layers import assemble, positions
from modpkg.compose.merged_layers import MergedRun, merged_runs
from modpkg.compose.merging import MergeMethod, PlannedStep
from modpkg.compose.nested import (
    expected_of,
    inputs_of,
    made_fields,
    of_modules,
    reached,
    unfolded_kept,
)
from modpkg.compose.operators import Effects, StepContext, find_operator
from modpkg.compose.operators.adapter import check_prompt
from modpkg.compose.operators.head import model_files
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.recipe_settings import check_settings
from modpkg.compose.settings import value_for
from modpkg.compose.tokenizer_files import settle
from modpkg.compose.untied import bind_untied, untied_base
from modpkg.compose.vocabulary import aligned
from modpkg.core.digests import digest_bytes, digest_file
from modpkg.core.dtypes import CONFIG_DTYPES, FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule, Prompt, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.records import canonical_json
from modpkg.core.tensors import canonical_identity
from modpkg.manifest.schema import UNION, Compose, Setting

COMPOSE_ENGINE = "5"
"""Raised whenever the same inputs would give other bytes."""


def plan(
    name: str,
    version: str,
    recipe: Compose,
    modules: Mapping[str, InstalledModule],
    *,
    part_of: Compose | None = None,
) -> Composition:
    """Return the composition that ``recipe`` describes; ``modules`` has its modules by name.

    Steps that commute are sorted and equal changes are summed before anything is computed, so the
    order in a manifest affects neither the bytes nor the key, and a change that is added and
    subtracted again leaves the base's bytes. ``part_of`` is the recipe that decides how the base
    is untied, if this one has only some of its steps.

    Raises:
        ComposeError: The recipe cannot be composed, its method or an operator is unknown, or a
            tensor of a module is not used.
        ComposeError, ReleaseError: A module does not fit the base.
    """
    reducer = check_settings(name, recipe)
    base = _module(name, modules, recipe.base)
    if base.kind not in ("base", "model") or not base.tensors:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{base.name} is of kind {base.kind!r} and cannot be its base; name the base "
            "that it acts on, and it in a step",
        )
    if CONFIG not in base.files:
        raise ComposeError("M601", model=name, reason=f"its base {base.name} has no {CONFIG}")
    config = read_json(base.files[CONFIG])
    named = [*recipe.modules(), *(part_of.modules() if part_of is not None else ())]
    modules = {each: _module(name, modules, each) for each in named}  # none that is not needed
    moved = None
    if recipe.vocabulary is not None:
        moved = aligned(name, recipe, recipe.vocabulary, config, modules)
        modules, config, base = moved.modules, moved.config, moved.modules[recipe.base]
        if recipe.tokenizer is None and recipe.vocabulary.source != UNION:
            recipe = structs.replace(recipe, tokenizer=recipe.vocabulary.source)
    scales: Mapping[str, tuple[Setting, str, float]] = {}
    merged: list[MergedRun] = []
    if recipe.layers:
        assembled = assemble(name, recipe.layers, base, config, modules)
        base, config, scales = assembled.base, assembled.config, assembled.scales
        merged = merged_runs(name, recipe, assembled.runs, modules)
    untied = None
    if recipe.tie_word_embeddings is False:
        untied = untied_base(name, part_of or recipe, base, config, modules)
        base, config = untied.base, untied.config
    merging = MergeMethod(name, recipe, reducer, modules, positions(list(base.tensors)))
    steps: list[PlannedStep] = []
    for number, step in enumerate(recipe.steps, start=1):
        operator = find_operator(step.op, f"step {number} of {name}")
        module = _module(name, modules, step.module)
        context = StepContext(
            model=name,
            step=step,
            module=module,
            base=base,
            config=config,
            recipe=recipe,
            modules=modules,
        )
        if untied is not None:
            effect = bind_untied(untied, operator, context)
        else:
            effect = operator.bind(context)
        _check_all_used(name, module, effect)
        if operator.name != "dense":  # a merge may include the base itself
            check_alone(name, number, module, base, effect)
        steps.append(PlannedStep(number, step, module, effect))
    check_together(name, steps)
    table = _table(name, base, steps)
    for planned in steps:
        for target in planned.effects.terms:
            if table.get(target) is not base.tensors[target]:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{planned.module.name} acts on {target!r}, which another step replaces",
                )
    check_rows(name, recipe, merging, steps)
    kept, computed = _split(name, base, recipe, table, merging, steps, scales, merged)
    used = [modules[each] for each in dict.fromkeys(recipe.modules())]
    inner, parts = of_modules(used)
    inner |= moved.inner if moved is not None else {}
    expected = expected_of(used)
    for planned in steps:
        for tensor, values in planned.effects.expected.items():
            file = base.tensors[tensor].file
            expected[file] = (*expected.get(file, ()), values)
    made = unfolded_kept(kept, inner)
    kept = {tensor: ref for tensor, ref in kept.items() if tensor not in made}
    computed = dict(sorted({**computed, **made}.items()))
    routers = {n: router for planned in steps for n, router in planned.effects.routers.items()}
    readers = [planned.effects.prompt_reader for planned in steps]
    prompt_reader = next((reader for reader in readers if reader is not None), None)
    patched = {(ref.file, ref.offset) for ref in patched_whole(used, steps)}
    prompt = _prompt(name, steps)
    edited = _config(name, config, recipe, steps)
    text = settle(name, recipe, modules, _files(name, base, steps), edited)
    if prompt is not None:
        check_prompt(name, prompt, edited)
    composition = Composition(
        name=name,
        version=version,
        key=composition_key(kept, computed, routers, prompt_reader, prompt, expected),
        kept=kept,
        computed=computed,
        require_finite=tuple(
            tensor for tensor, ref in kept.items() if (ref.file, ref.offset) in patched
        ),
        unverified=unverified_slices(used, steps),
        config={**edited, **text.config},
        files=text.files,
        documents=text.documents | (moved.documents if moved is not None else {}),
        notes=text.notes,
        routers=routers,
        prompt_reader=prompt_reader,
        prompt=prompt,
        expected=expected,
    )
    if not inner:
        return composition
    inner = reached(inputs_of(composition), inner)
    needed = {item.composition for item in inner.values()}
    parts = {key: part for key, part in parts.items() if key in needed}
    return structs.replace(composition, inner=inner, parts=parts)


def _module(name: str, modules: Mapping[str, InstalledModule], wanted: str) -> InstalledModule:
    if wanted not in modules:
        raise ComposeError(
            "M601", model=name, reason=f"it names {wanted}, which is not among its [dependencies]"
        )
    return modules[wanted]


def _check_all_used(name: str, module: InstalledModule, effect: Effects) -> None:
    """Refuse a step that leaves tensors of its module unused."""
    prompt = effect.prompt.tensors.values() if effect.prompt is not None else ()
    inputs = [ref for term in effect.terms.values() for ref in term.inputs.values()]
    used = {
        (ref.file, ref.offset) for ref in (*inputs, *effect.added.values(), *effect.unused, *prompt)
    }
    # A tensor that several layers share is in several terms; binding rejects duplicate targets.
    unused = [n for n, ref in module.tensors.items() if (ref.file, ref.offset) not in used]
    if unused:
        raise ComposeError(
            "M603", model=name, count=len(unused), module=module.name, example=min(unused)
        )


def _table(name: str, base: InstalledModule, steps: Sequence[PlannedStep]) -> dict[str, TensorRef]:
    """Return the result's tensors before their values are changed."""
    table = dict(base.tensors)
    for planned in steps:
        for removed in planned.effects.removed:
            table.pop(removed, None)
    for planned in steps:
        for tensor, ref in planned.effects.added.items():
            if tensor in table:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"tensor {tensor!r} of {planned.module.name} is also added by another "
                    "step",
                )
            table[tensor] = ref
    return table


def _split(
    name: str,
    base: InstalledModule,
    recipe: Compose,
    table: dict[str, TensorRef],
    merging: MergeMethod,
    steps: Sequence[PlannedStep],
    scales: Mapping[str, tuple[Setting, str, float]],
    merged: Sequence[MergedRun],
) -> tuple[dict[str, TensorRef], dict[str, ComputedTensor]]:
    """Split the tensors into those that are kept as stored and those to compute."""
    terms, by = merging.terms(base, steps), dict.fromkeys(table, merging)
    everywhere = {} if merged else merging.everywhere(_floats(table))
    for run in merged:
        terms |= run.terms
        by |= dict.fromkeys(run.base.tensors, run.merging)
        everywhere |= run.merging.everywhere(_floats(run.base.tensors))
    for tensor, (setting, source, height) in scales.items():
        scale = value_for(setting, source, height)
        if scale is None or table[tensor].dtype not in FLOATS:
            continue
        everywhere.pop(tensor, None)
        if scale != 1.0:
            everywhere[tensor] = {"scale": scale}
    rows = {tensor: count for step in steps for tensor, count in step.effects.rows.items()}
    own = sorted({ref.dtype for ref in base.tensors.values() if ref.dtype in FLOATS})
    kept: dict[str, TensorRef] = {}
    computed: dict[str, ComputedTensor] = {}
    for tensor, ref in sorted(table.items()):
        dtype = _dtype(name, base, own, recipe, tensor, ref)
        if tensor in rows:
            computed[tensor] = ComputedTensor(
                source=ref, dtype=dtype, terms=terms.get(tensor, ()), rows=rows[tensor]
            )
            continue
        if tensor not in terms and tensor not in everywhere:
            if dtype == ref.dtype:
                kept[tensor] = ref
            else:
                computed[tensor] = ComputedTensor(source=ref, dtype=dtype)
            continue
        if tensor not in everywhere and (whole := _whole(recipe, terms[tensor], dtype)) is not None:
            kept[tensor] = whole
            continue
        computed[tensor] = ComputedTensor(
            source=ref,
            dtype=dtype,
            terms=terms.get(tensor, ()),
            reducer=by[tensor].method,
            settings=everywhere.get(tensor) or by[tensor].settings(tensor),
        )
    return kept, computed


def _floats(table: Mapping[str, TensorRef]) -> dict[str, TensorRef]:
    return {tensor: ref for tensor, ref in table.items() if ref.dtype in FLOATS}


def _whole(recipe: Compose, terms: Sequence[Term], dtype: str) -> TensorRef | None:
    """Return the tensor that a patch provides whole, if no other step changes it, else None."""
    if recipe.method != "sum" or len(terms) != 1 or terms[0].op != PATCHED.name:
        return None
    whole = terms[0].inputs.get("whole")
    return whole if whole is not None and terms[0].weight == 1.0 and whole.dtype == dtype else None


def _dtype(
    name: str,
    base: InstalledModule,
    own: Sequence[str],
    recipe: Compose,
    tensor: str,
    ref: TensorRef,
) -> str:
    """Return the result's dtype of a tensor; ``own`` are the base's dtypes of floats."""
    if recipe.dtype is not None and ref.dtype.startswith("F8_"):
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{tensor!r} is {ref.dtype}, which cannot be converted to {recipe.dtype} "
            "without its scales",
        )
    if recipe.dtype is None and ref.dtype in FLOATS and own and ref.dtype not in own:
        choice = next(key for key, value in CONFIG_DTYPES.items() if value in (*own, "F32"))
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{tensor!r} is {ref.dtype}, but {base.name} is {', '.join(own)}; "
            f'set the dtype of the result: dtype = "{choice}" in its compose table',
        )
    return CONFIG_DTYPES[recipe.dtype] if recipe.dtype and ref.dtype in FLOATS else ref.dtype


def composition_key(
    kept: dict[str, TensorRef],
    computed: dict[str, ComputedTensor],
    routers: Mapping[str, RouterWeight] = MappingProxyType({}),
    prompt_reader: PromptReader | None = None,
    prompt: Prompt | None = None,
    expected: Mapping[str, Sequence[ExpectedValues]] = MappingProxyType({}),
) -> str:
    """Return the digest of everything that decides the result's bytes."""
    fields: dict[str, Any] = {
        "engine": COMPOSE_ENGINE,
        "kept": {name: canonical_identity(ref) for name, ref in kept.items()},
        "made": {name: made_fields(item) for name, item in computed.items()},
    }
    if routers:
        fields["gates"] = {name: router.key_fields() for name, router in routers.items()}
    if prompt_reader is not None:
        fields["probe"] = prompt_reader.key_fields()
    if prompt is not None:
        tensors = {role: canonical_identity(ref) for role, ref in prompt.tensors.items()}
        fields["prompt"] = [prompt.task, prompt.count, prompt.heads, prompt.index, tensors]
    if expected:
        digests = {file: sorted({e.digest for e in each}) for file, each in expected.items()}
        fields["expected"] = digests
    return digest_bytes(canonical_json(fields))


def _prompt(name: str, steps: Sequence[PlannedStep]) -> Prompt | None:
    """Return the virtual tokens of the one step that has some."""
    prompts = [planned.effects.prompt for planned in steps if planned.effects.prompt is not None]
    if len(prompts) > 1:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{prompts[0].module} and {prompts[1].module} both have virtual tokens; a "
            "model can read those of only one module",
        )
    return prompts[0] if prompts else None


def _config(
    name: str,
    config: dict[str, Any],
    recipe: Compose,
    steps: Sequence[PlannedStep],
) -> dict[str, Any]:
    edited: dict[str, tuple[str, Any]] = {}
    for planned in steps:
        for key, value in planned.effects.config.items():
            other, before = edited.setdefault(key, (planned.module.name, value))
            if before != value:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{other} and {planned.module.name} both set {key!r} of {CONFIG}",
                )
    unset = {key: planned.module.name for planned in steps for key in planned.effects.unset}
    if both := sorted(unset.keys() & edited.keys()):
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{unset[both[0]]} removes {both[0]!r} from {CONFIG}, but "
            f"{edited[both[0]][0]} sets it",
        )
    merged = {key: value for key, value in config.items() if key not in unset}
    merged |= {key: value for key, (_, value) in edited.items()}
    if recipe.dtype is not None:
        merged["torch_dtype" if "torch_dtype" in merged else "dtype"] = recipe.dtype
    return merged


def _files(name: str, base: InstalledModule, steps: Sequence[PlannedStep]) -> dict[str, Path]:
    files = {
        path: blob
        for path, blob in base.files.items()
        if path != CONFIG and not path.endswith(".index.json")
    }
    removed: dict[str, str] = {}
    for planned in steps:
        for path in planned.effects.replaced:
            files.pop(path, None)
            if path not in planned.effects.files:
                removed[path] = planned.module.name
    for planned in steps:
        for path, blob in model_files(planned.effects.files).items():
            if path in removed:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{removed[path]} removes {path!r}, but {planned.module.name} changes "
                    "it",
                )
            if path in files and digest_file(files[path]) != digest_file(blob):
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{planned.module.name} and another module have different files "
                    f"{path!r}",
                )
            files[path] = blob
    return files
