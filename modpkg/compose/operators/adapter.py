"""Planning a step of any adapter that PEFT writes: what it changes, as terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modpkg.adapters import METHODS, bind_adapter, bind_head
from modpkg.adapters.changes import VirtualTokens
from modpkg.adapters.virtual_tokens import OPERATOR as PROMPT
from modpkg.adapters.virtual_tokens import PROMPTS, TASKS
from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, StepContext
from modpkg.core.dtypes import DTYPE_BYTES, FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ADAPTER_CONFIG
from modpkg.core.installed import Prompt
from modpkg.core.jsonfile import read_json
from modpkg.core.tensors import types_of

_INDICES = ("indices",)
_CLASS = re.compile(r"^(?P<stem>\w+?)(?:LMHead)?(?:Model|For[A-Z]\w*)$")


def bind(context: StepContext) -> Effects:
    """Return the adapter's terms by base tensor, and what it adds.

    Raises:
        ComposeError: the module is no adapter, another operator is for it, or it acts on tensors
            that are not plain floats.
        ComposeError, ReleaseError: see `bind_adapter`.
    """
    module, base, step = context.module, context.base, context.step

    def refuse(reason: str) -> ComposeError:
        return ComposeError("M601", model=context.model, reason=reason)

    if ADAPTER_CONFIG not in module.files:
        raise refuse(
            f"step {step.op!r} names {module.name}, which is no adapter: it has no {ADAPTER_CONFIG}"
        )
    config = read_json(module.files[ADAPTER_CONFIG])
    kind = str(config.get("peft_type"))
    if kind in PROMPTS and step.op != PROMPT:
        raise refuse(
            f"step {step.op!r} names {module.name}, which is of type {kind}: no weight can take up "
            f'its virtual tokens; write op = "{PROMPT}" to have them read when the model runs'
        )
    method = METHODS.get(kind)
    if method is not None and method.operator != step.op:
        raise refuse(
            f"step {step.op!r} names {module.name}, which is of type {kind}; "
            f'write op = "{method.operator}"'
        )
    bound = bind_adapter(
        module.name,
        types_of(module.tensors),
        config,
        base.tensors,
        architecture=context.config.get("model_type"),
        base_name=f"{base.name} {base.version}",
        model_config=context.config,
        digests={name: ref.digest for name, ref in module.tensors.items()},
        layers=_layers(context),
    )
    if step.replace and not bound.added:
        raise refuse(
            f"step {step.op!r} of {module.name} has replace, but an adapter replaces nothing"
        )
    prompt = _prompt(context, bound.prompt) if bound.prompt is not None else None
    terms: dict[str, Term] = {}
    for change in bound.changes:
        inputs = {role: module.tensors[name] for role, name in change.inputs.items()}
        floats = {change.target: base.tensors[change.target]}
        floats |= {change.inputs[r]: ref for r, ref in inputs.items() if r not in _INDICES}
        for name, ref in floats.items():
            if ref.dtype not in FLOATS:
                raise refuse(
                    f"{name!r} has dtype {ref.dtype} ({DTYPE_BYTES[ref.dtype]} byte per "
                    f"element), which {step.op!r} does not add to"
                )
        terms[change.target] = Term(
            op=change.op, weight=change.weight, inputs=inputs, parameters=change.parameters
        )
    added = {name: module.tensors[tensor] for name, tensor in bound.added.items()}
    removed: tuple[str, ...] = ()
    edits = dict(bound.config)
    if added:
        if step.scale != 1.0:
            raise refuse(
                f"step {step.op!r} of {module.name} has a scale, but it brings {min(added)!r}, "
                "which is not added up"
            )
        types = types_of(added)
        name = f"{base.name} {base.version}"
        head = bind_head(context.model, types, base.tensors, step.replace, base_name=name)
        removed = (*head.replaced, *head.removed)
        match = _CLASS.match(str((context.config.get("architectures") or [""])[0]))
        if match is None:
            raise refuse(f"the config.json of {base.name} does not say which architecture it is")
        edits["architectures"] = [match["stem"] + kind for kind in edits["architectures"]]
    unused = tuple(module.tensors[name] for name in bound.unused)
    return Effects(
        terms=terms, unused=unused, added=added, removed=removed, config=edits, prompt=prompt
    )


def _layers(context: StepContext) -> list[tuple[int, int]]:
    """Return the runs of the base's layers that a recipe has in place of all; none for others'."""
    runs = context.recipe.layers
    own = all(run.module == context.base.name for run in runs)
    return [run.range for run in runs] if own else []


def _prompt(context: StepContext, bound: VirtualTokens) -> Prompt:
    """Return the virtual tokens of a step: they are read as they are, and by a model for its task.

    Raises:
        ComposeError: the step has a scale, names no task of several, or the base is for another.
    """
    module, step = context.module, context.step

    def refuse(reason: str) -> ComposeError:
        return ComposeError(
            "M601", model=context.model, reason=f"step {step.op!r} of {module.name} {reason}"
        )

    if step.scale != 1.0:
        raise refuse("has a scale, but virtual tokens are not added up")
    tasks = module.tensors[bound.tensors["columns"]].shape[0] if "columns" in bound.tensors else 1
    index = step.parameters.get("task", 0.0 if tasks == 1 else None)
    if isinstance(index, bool) or not isinstance(index, float) or index not in range(tasks):
        raise refuse(f"is for {tasks} tasks; name one, as parameters = {{ task = 0 }}")
    return Prompt(
        module=module.name,
        count=bound.count,
        task=bound.task,
        heads=bound.heads,
        index=int(index),
        tensors={role: module.tensors[name] for role, name in bound.tensors.items()},
    )


def check_prompt(model: str, prompt: Prompt, config: Mapping[str, Any]) -> None:
    """Refuse virtual tokens that are for another sort of model than the result is.

    Raises:
        ComposeError
    """
    named = str((config.get("architectures") or [""])[0])
    if not named.endswith(TASKS[prompt.task]):
        raise ComposeError(
            "M601",
            model=model,
            reason=f"the virtual tokens of {prompt.module} are for {prompt.task}, and it is of the "
            f"architecture {named!r}",
        )
