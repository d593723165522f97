"""Plans a step with an adapter that PEFT wrote: its changes as terms, and what it adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modpkg.adapters import METHODS, bind_adapter, bind_head
from modpkg.adapters.changes import INDEX_ROLES, AdapterChanges, VirtualTokens
from modpkg.adapters.head import class_stem
from modpkg.adapters.memory import read_memory
from modpkg.adapters.methods.virtual_tokens import TASKS
from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, StepContext
from modpkg.core.dtypes import DTYPE_BYTES, FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ADAPTER_CONFIG, CONFIG
from modpkg.core.installed import Prompt, TensorRef
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed
from modpkg.core.records import UntiedRecord
from modpkg.core.same_values import tied_output
from modpkg.core.tensors import types_of
from modpkg.core.text_config import edit_text, vocabulary
from modpkg.core.untied import TIES


def bind(context: StepContext) -> Effects:
    """Return the adapter's terms by base tensor, and what it adds.

    Raises:
        ComposeError: The module is not an adapter, is of a method with another operator, acts on
            tensors that are not floats, or see `bind_adapter`.
        ReleaseError: See `bind_adapter`.
    """
    module, base, step = context.module, context.base, context.step
    if ADAPTER_CONFIG not in module.files:
        raise context.refuse(
            f"step {step.op!r} names {module.name}, which is not an adapter: it has no "
            f"{ADAPTER_CONFIG}"
        )
    config = read_json(module.files[ADAPTER_CONFIG])
    method = METHODS.get(str(config.get("peft_type")))
    if method is not None and method.operator != step.op:
        raise context.refuse(
            f"step {step.op!r} names {module.name}, which is of type {method.peft_type}; write "
            f'op = "{method.operator}"'
        )
    architecture = context.config.get("model_type")
    memory = read_memory(module.files, module.name)
    if memory is not None and memory.untied is not None:
        _check_untied(context, memory.untied)
    tensors = dict(base.tensors)
    tied = tied_output(base.tensors, context.config)
    if tied is not None:
        del tensors[tied[0]]
    changes = bind_adapter(
        module.name,
        types_of(module.tensors),
        config,
        tensors,
        architecture=architecture if isinstance(architecture, str) else None,
        base_name=context.base_name,
        model_config=context.config,
        digests={name: ref.digest for name, ref in module.tensors.items()},
        layers=_layer_ranges(context),
        memory=memory,
    )
    if step.replace and not changes.added:
        raise context.refuse_step("has replace, but an adapter replaces nothing")
    added = {name: module.tensors[tensor] for name, tensor in changes.added.items()}
    edits = dict(changes.config)
    if changes.rows:
        edits |= _vocabulary(context, max(changes.rows.values()))
    removed: tuple[str, ...] = ()
    if added:
        removed = _removed(context, added)
        stem = class_stem(context.config)
        if stem is None:
            raise context.refuse(f"the {CONFIG} of {base.name} does not name an architecture")
        edits["architectures"] = [stem + suffix for suffix in edits["architectures"]]
    terms = _terms(context, changes)
    for target in changes.resized:
        # It was the base's when the adapter was trained: no scale applies, and live models keep it.
        ref = terms[target].inputs["values"]
        if ref.dtype == base.tensors[target].dtype:
            del terms[target]
            added[target], removed = ref, (*removed, target)
    if tied is not None and (tied[1] in terms or tied[1] in added or tied[1] in changes.rows):
        removed = (*removed, tied[0])
    return Effects(
        terms=terms,
        unused=tuple(module.tensors[name] for name in changes.unused),
        added=added,
        removed=removed,
        config=edits,
        rows={target: count for target, count in changes.rows.items() if target not in added},
        prompt=None if changes.prompt is None else _prompt(context, changes.prompt),
    )


def _check_untied(context: StepContext, untied: UntiedRecord) -> None:
    """Check that the recipe unties what an adapter changes in part.

    Raises:
        ComposeError: It does not.
    """
    if context.recipe.tie_word_embeddings is not False:
        tied = listed({*untied.tensors, *untied.tensors.values()}, 4)
        raise ComposeError(
            "M606",
            module=context.module.name,
            reason=f"it changes only some of the tensors that {context.base_name} ties ({tied}); "
            f"write {TIES} = false in the recipe of {context.model}, beside its base, to give "
            "each its own",
        )


def _vocabulary(context: StepContext, count: int) -> dict[str, Any]:
    """Return the edits of ``config.json`` that set the number of tokens.

    Raises:
        ComposeError: It names none.
    """
    named = vocabulary(context.config)
    if named is None:
        raise context.refuse(
            f"{context.module.name} is for a vocabulary of {count} tokens, and the {CONFIG} of "
            f"{context.base.name} does not say how many it has"
        )
    return edit_text(context.config, {named[0]: count})


def _layer_ranges(context: StepContext) -> list[tuple[int, int]]:
    """Return the ranges of the base's layers that the recipe assembles; empty if others' too."""
    layers = context.recipe.layers
    from_base = all(each.module == context.base.name for each in layers)
    return [each.range for each in layers if each.range is not None] if from_base else []


def _terms(context: StepContext, changes: AdapterChanges) -> dict[str, Term]:
    """Return the terms by base tensor.

    Raises:
        ComposeError: A tensor that is computed with is not of floats.
    """
    terms: dict[str, Term] = {}
    for change in changes.changes:
        inputs = {role: context.module.tensors[name] for role, name in change.inputs.items()}
        floats = {change.target: context.base.tensors[change.target]}
        floats |= {change.inputs[r]: ref for r, ref in inputs.items() if r not in INDEX_ROLES}
        inputs |= {role: context.base.tensors[name] for role, name in change.reads.items()}
        for name, ref in floats.items():
            if ref.dtype not in FLOATS:
                raise context.refuse(
                    f"{name!r} has dtype {ref.dtype} ({DTYPE_BYTES[ref.dtype]} byte per "
                    f"element), which {context.step.op!r} cannot add to"
                )
        terms[change.target] = Term(
            op=change.op, weight=change.weight, inputs=inputs, parameters=change.parameters
        )
    return terms


def _removed(context: StepContext, added: Mapping[str, TensorRef]) -> tuple[str, ...]:
    """Return the base's tensors that an adapter's own classifier replaces or removes."""
    if context.step.scale != 1.0:
        raise context.refuse_step(
            f"has a scale, but it adds {min(added)!r} whole, which cannot be scaled"
        )
    head = bind_head(
        context.model,
        types_of(added),
        context.base.tensors,
        (*context.step.replace, *sorted(added.keys() & context.base.tensors.keys())),
        base_name=context.base_name,
    )
    return (*head.replaced, *head.removed)


def _prompt(context: StepContext, tokens: VirtualTokens) -> Prompt:
    """Return the virtual tokens of a step, for one of its tasks.

    Raises:
        ComposeError: The step has a scale, or does not choose one of several tasks.
    """
    module, step = context.module, context.step
    if step.scale != 1.0:
        raise context.refuse_step("has a scale, but virtual tokens cannot be scaled")
    tasks = module.tensors[tokens.tensors["columns"]].shape[0] if "columns" in tokens.tensors else 1
    index = step.parameters.get("task", 0.0 if tasks == 1 else None)
    if isinstance(index, bool) or not isinstance(index, float) or index not in range(tasks):
        raise context.refuse_step(
            f"is for {tasks} task(s); choose one, like parameters = {{ task = 0 }}"
        )
    return Prompt(
        module=module.name,
        count=tokens.count,
        task=tokens.task,
        heads=tokens.heads,
        index=int(index),
        tensors={role: module.tensors[name] for role, name in tokens.tensors.items()},
    )


def check_prompt(model: str, prompt: Prompt, config: Mapping[str, Any]) -> None:
    """Check that virtual tokens are for the kind of model that the result is.

    Raises:
        ComposeError: The virtual tokens are for another task.
    """
    architecture = str((config.get("architectures") or [""])[0])
    if not architecture.endswith(TASKS[prompt.task]):
        raise ComposeError(
            "M601",
            model=model,
            reason=f"the virtual tokens of {prompt.module} are for {prompt.task}, and its "
            f"architecture is {architecture!r}",
        )
