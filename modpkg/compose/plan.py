"""From a recipe and modules to a composition. Pure, and imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modpkg.compose.checks import check_alone, check_together
from modpkg.compose.composition import Composition, ComputedTensor, PromptReader, RouterWeight, Term
from modpkg.compose.layers import assemble, positions
from modpkg.compose.merging import MergeMethod, PlannedStep
from modpkg.compose.operators import Effects, StepContext, find_operator
from modpkg.compose.operators.adapter import check_prompt
from modpkg.compose.operators.head import model_files
from modpkg.compose.operators.patch import PATCHED
from modpkg.compose.reducers import find_reducer
from modpkg.compose.settings import value_for
from modpkg.core.digests import digest_bytes, digest_file
from modpkg.core.dtypes import CONFIG_DTYPES, FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import CONFIG
from modpkg.core.installed import InstalledModule, Prompt, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.records import canonical_json
from modpkg.core.tensors import canonical_identity
from modpkg.manifest.schema import Compose, Setting

COMPOSE_ENGINE = "3"
"""Raised whenever the same inputs would give other bytes."""


def plan(
    name: str, version: str, recipe: Compose, modules: Mapping[str, InstalledModule]
) -> Composition:
    """Return the composition that ``recipe`` describes; ``modules`` are those it names, by name.

    Steps that commute are brought into one order, and equal changes are added up, before anything
    is computed: the order in which a manifest writes them changes neither a byte nor the key, and
    a change that is added and taken away leaves the base's bytes.

    Raises:
        ComposeError: the recipe cannot be composed; says why.
        ComposeError: a step's operator, or the method, is not known.
        ComposeError: a tensor of a module would not be used.
        ComposeError, ReleaseError: a module does not fit.
    """
    base = _module(name, modules, recipe.base)
    if base.kind not in ("base", "model") or not base.tensors:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{base.name} is of kind {base.kind!r} and cannot be its base",
        )
    if base.kind == "model" and recipe.steps:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"its base {base.name} is a model, and composing on top of a model is not "
            "implemented; name that model's own base and steps",
        )
    if CONFIG not in base.files:
        raise ComposeError("M601", model=name, reason=f"its base {base.name} has no {CONFIG}")
    config = read_json(base.files[CONFIG])
    for named in recipe.modules():
        _module(name, modules, named)
    scales: Mapping[str, tuple[Setting, str, float]] = {}
    if recipe.layers:
        assembled = assemble(name, recipe.layers, base, config, modules)
        base, config, scales = assembled.base, assembled.config, assembled.scales
    reducer = find_reducer(recipe.method, f"[compose] of {name}")
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
        effect = operator.bind(context)
        _balance(name, module, effect)
        if operator.name != "dense":  # a merge may weigh in the base itself
            check_alone(name, number, module, base, effect)
        steps.append(PlannedStep(number, step, module, effect))
    check_together(name, steps)
    table = _table(name, base, steps)
    for done in steps:
        for target in done.effects.terms:
            if table.get(target) is not base.tensors[target]:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{done.module.name} acts on {target!r}, which another step replaces",
                )
    kept, made = _made(name, base, recipe, table, merging, steps, scales)
    gates = {tensor: gate for done in steps for tensor, gate in done.effects.routers.items()}
    probe = next(
        (done.effects.prompt_reader for done in steps if done.effects.prompt_reader is not None),
        None,
    )
    brought = {(ref.file, ref.offset) for ref in _brought(steps)}
    prompt = _prompt(name, steps)
    edited = _config(name, config, recipe, steps)
    if prompt is not None:
        check_prompt(name, prompt, edited)
    return Composition(
        name=name,
        version=version,
        key=composition_key(kept, made, gates, probe, prompt),
        kept=kept,
        computed=made,
        require_finite=tuple(
            tensor for tensor, ref in kept.items() if (ref.file, ref.offset) in brought
        ),
        unverified=tuple(tensor for done in steps for tensor in done.effects.claimed),
        config=edited,
        files=_files(name, base, steps),
        routers=gates,
        prompt_reader=probe,
        prompt=prompt,
    )


def _module(name: str, modules: Mapping[str, InstalledModule], wanted: str) -> InstalledModule:
    if wanted not in modules:
        raise ComposeError(
            "M601", model=name, reason=f"it names {wanted}, which is not among its [dependencies]"
        )
    return modules[wanted]


def _balance(name: str, module: InstalledModule, effect: Effects) -> None:
    """Check that every tensor of the module is used."""
    prompt = effect.prompt.tensors.values() if effect.prompt is not None else ()
    inputs = [ref for term in effect.terms.values() for ref in term.inputs.values()]
    used = {
        (ref.file, ref.offset) for ref in (*inputs, *effect.added.values(), *effect.unused, *prompt)
    }
    # One that many layers share is in many terms; that no place is taken twice, binding checks.
    left = [n for n, ref in module.tensors.items() if (ref.file, ref.offset) not in used]
    if left:
        raise ComposeError(
            "M603", model=name, count=len(left), module=module.name, example=min(left)
        )


def _brought(steps: Sequence[PlannedStep]) -> list[TensorRef]:
    """Return the tensors that patches bring whole."""
    found: list[TensorRef] = []
    for done in steps:
        if done.step.op == PATCHED.name:
            found += done.effects.added.values()
            found += [t.inputs["whole"] for t in done.effects.terms.values() if "whole" in t.inputs]
    return found


def _table(name: str, base: InstalledModule, steps: Sequence[PlannedStep]) -> dict[str, TensorRef]:
    """Return the result's tensors before any change to their values."""
    table = dict(base.tensors)
    for done in steps:
        for removed in done.effects.removed:
            table.pop(removed, None)
    for done in steps:
        for tensor, ref in done.effects.added.items():
            if tensor in table:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"tensor {tensor!r} of {done.module.name} is also added by another step",
                )
            table[tensor] = ref
    return table


def _made(
    name: str,
    base: InstalledModule,
    recipe: Compose,
    table: dict[str, TensorRef],
    merging: MergeMethod,
    steps: Sequence[PlannedStep],
    scales: Mapping[str, tuple[Setting, str, float]],
) -> tuple[dict[str, TensorRef], dict[str, ComputedTensor]]:
    """Part the tensors into those that are kept and those that are made."""
    terms = merging.terms(base, steps)
    everywhere = merging.everywhere(
        {tensor: ref for tensor, ref in table.items() if ref.dtype in FLOATS}
    )
    for tensor, (setting, own, height) in scales.items():
        scale = value_for(setting, own, height)
        if scale is None or table[tensor].dtype not in FLOATS:
            continue
        if recipe.method != "passthrough":
            raise ComposeError(
                "M601",
                model=name,
                reason='layers with a scale go with method = "passthrough" alone',
            )
        everywhere.pop(tensor, None)
        if scale != 1.0:
            everywhere[tensor] = {"scale": scale}
    kept: dict[str, TensorRef] = {}
    made: dict[str, ComputedTensor] = {}
    for tensor, ref in sorted(table.items()):
        dtype = _dtype(name, base, recipe, tensor, ref)
        if tensor not in terms and tensor not in everywhere:
            if dtype == ref.dtype:
                kept[tensor] = ref
            else:
                made[tensor] = ComputedTensor(source=ref, dtype=dtype)
            continue
        if tensor not in everywhere and (whole := _whole(recipe, terms[tensor], dtype)) is not None:
            kept[tensor] = whole
            continue
        made[tensor] = ComputedTensor(
            source=ref,
            dtype=dtype,
            terms=terms.get(tensor, ()),
            reducer=recipe.method,
            settings=everywhere.get(tensor) or merging.settings(tensor),
        )
    return kept, made


def _whole(recipe: Compose, terms: Sequence[Term], dtype: str) -> TensorRef | None:
    """Return the tensor that is the result as it is: a patch brings it whole, and nothing else
    changes it."""
    if recipe.method != "sum" or len(terms) != 1 or terms[0].op != PATCHED.name:
        return None
    found = terms[0].inputs.get("whole")
    return found if found is not None and terms[0].weight == 1.0 and found.dtype == dtype else None


def _dtype(name: str, base: InstalledModule, recipe: Compose, tensor: str, ref: TensorRef) -> str:
    """Return the dtype of a tensor of the result."""
    own = sorted({other.dtype for other in base.tensors.values() if other.dtype in FLOATS})
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
            f'say what the result is to be: dtype = "{choice}" under its compose table',
        )
    return CONFIG_DTYPES[recipe.dtype] if recipe.dtype and ref.dtype in FLOATS else ref.dtype


def composition_key(
    kept: dict[str, TensorRef],
    made: dict[str, ComputedTensor],
    gates: Mapping[str, RouterWeight] = MappingProxyType({}),
    probe: PromptReader | None = None,
    prompt: Prompt | None = None,
) -> str:
    """Return the digest of everything that decides a byte of the result."""
    account: dict[str, Any] = {
        "engine": COMPOSE_ENGINE,
        "kept": {name: canonical_identity(ref) for name, ref in kept.items()},
        "made": {
            name: {
                "source": canonical_identity(item.source),
                "dtype": item.dtype,
                "reducer": item.reducer,
                "settings": item.settings,
                "terms": [term.key_fields() for term in item.terms],
            }
            for name, item in made.items()
        },
    }
    if gates:
        account["gates"] = {name: gate.key_fields() for name, gate in gates.items()}
    if probe is not None:
        account["probe"] = probe.key_fields()
    if prompt is not None:
        tensors = {role: canonical_identity(ref) for role, ref in prompt.tensors.items()}
        account["prompt"] = [prompt.task, prompt.count, prompt.heads, prompt.index, tensors]
    return digest_bytes(canonical_json(account))


def _prompt(name: str, steps: Sequence[PlannedStep]) -> Prompt | None:
    """Return the virtual tokens of the one step that brings some."""
    found = [done.effects.prompt for done in steps if done.effects.prompt is not None]
    if len(found) > 1:
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{found[0].module} and {found[1].module} both bring virtual tokens, and a "
            "model reads those of one",
        )
    return found[0] if found else None


def _config(
    name: str,
    config: dict[str, Any],
    recipe: Compose,
    steps: Sequence[PlannedStep],
) -> dict[str, Any]:
    edited: dict[str, tuple[str, Any]] = {}
    for done in steps:
        for key, value in done.effects.config.items():
            other, before = edited.setdefault(key, (done.module.name, value))
            if before != value:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{other} and {done.module.name} both set {key!r} of {CONFIG}",
                )
    unset = {key: done.module.name for done in steps for key in done.effects.unset}
    if both := sorted(unset.keys() & edited.keys()):
        raise ComposeError(
            "M601",
            model=name,
            reason=f"{unset[both[0]]} takes {both[0]!r} out of {CONFIG}, and "
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
    gone: dict[str, str] = {}
    for done in steps:
        for path in done.effects.replaced:
            files.pop(path, None)
            if path not in done.effects.files:
                gone[path] = done.module.name
    for done in steps:
        for path, blob in model_files(done.effects.files).items():
            if path in gone:
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{gone[path]} takes {path!r} away, and {done.module.name} changes it",
                )
            if path in files and digest_file(files[path]) != digest_file(blob):
                raise ComposeError(
                    "M601",
                    model=name,
                    reason=f"{done.module.name} and another of its modules have different {path!r}",
                )
            files[path] = blob
    return files
