"""Planning a step of any adapter that PEFT writes: what it changes, as terms."""

from __future__ import annotations

import re

from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, Situation
from modpkg.errors import ComposeError
from modpkg.packs import DTYPE_BYTES
from modpkg.release.binding import METHODS, bind_adapter, bind_head
from modpkg.release.data import read_json

CONFIG = "adapter_config.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_INDICES = ("indices",)
_CLASS = re.compile(r"^(?P<stem>\w+?)(?:LMHead)?(?:Model|For[A-Z]\w*)$")


def bind(situation: Situation) -> Effects:
    """Return the adapter's terms by base tensor, and what it adds.

    Raises:
        ComposeError: the module is no adapter, another operator is for it, or it acts on tensors
            that are not plain floats.
        AdapterUnsupported, NothingMatches, UnboundTensor, ShapeMismatch: see `bind_adapter`.
    """
    module, base, step = situation.module, situation.base, situation.step

    def refuse(reason: str) -> ComposeError:
        return ComposeError(model=situation.model, reason=reason)

    if CONFIG not in module.files:
        raise refuse(
            f"step {step.op!r} names {module.name}, which has no {CONFIG} and so is no adapter"
        )
    config = read_json(module.files[CONFIG])
    method = METHODS.get(str(config.get("peft_type")))
    if method is not None and method.operator != step.op:
        raise refuse(
            f"step {step.op!r} names {module.name}, which is of type {config['peft_type']}; "
            f'write op = "{method.operator}"'
        )
    bound = bind_adapter(
        module.name,
        {name: (ref.dtype, ref.shape) for name, ref in module.tensors.items()},
        config,
        base.tensors,
        architecture=situation.config.get("model_type"),
        base_name=f"{base.name} {base.version}",
        model_config=situation.config,
        digests={name: ref.digest for name, ref in module.tensors.items()},
    )
    if step.replace and not bound.added:
        raise refuse(
            f"step {step.op!r} of {module.name} has replace, but an adapter replaces nothing"
        )
    terms: dict[str, Term] = {}
    for change in bound.changes:
        inputs = {role: module.tensors[name] for role, name in change.inputs.items()}
        floats = {change.target: base.tensors[change.target]}
        floats |= {change.inputs[r]: ref for r, ref in inputs.items() if r not in _INDICES}
        for name, ref in floats.items():
            if ref.dtype not in _FLOATS:
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
        types = {name: (ref.dtype, ref.shape) for name, ref in added.items()}
        name = f"{base.name} {base.version}"
        head = bind_head(situation.model, types, base.tensors, step.replace, base_name=name)
        removed = (*head.replaced, *head.removed)
        match = _CLASS.match(str((situation.config.get("architectures") or [""])[0]))
        if match is None:
            raise refuse(f"the config.json of {base.name} does not say which architecture it is")
        edits["architectures"] = [match["stem"] + kind for kind in edits["architectures"]]
    same = tuple(module.tensors[name] for name in bound.same)
    return Effects(terms=terms, same=same, added=added, removed=removed, config=edits)
