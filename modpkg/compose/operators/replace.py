"""``replace``: whole tensors take the place of the base's.

composed[t] = module[t]
"""

from __future__ import annotations

from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.errors import ComposeError


def bind(context: StepContext) -> Effects:
    """Return the module's tensors, each in the place of one that the base has.

    Raises:
        ComposeError: the base has no such tensor, or the step has a scale.
        ComposeError: the tensor has another shape.
    """
    module, base, step = context.module, context.base, context.step
    if step.scale != 1.0 or step.replace:
        raise ComposeError(
            "M601",
            model=context.model,
            reason=f"step 'replace' of {module.name} has {'replace' if step.replace else 'a scale'}"
            ", but it takes all of its tensors as they are",
        )
    if not module.tensors:
        raise ComposeError(
            "M601", model=context.model, reason=f"{module.name} holds no tensor at all"
        )
    for name, ref in sorted(module.tensors.items()):
        own = base.tensors.get(name)
        if own is None:
            raise ComposeError(
                "M601",
                model=context.model,
                reason=f"{module.name} replaces {name!r}, which {base.name} {base.version} does "
                "not have",
            )
        if list(own.shape) != list(ref.shape):
            raise ComposeError(
                "M604",
                module=module.name,
                tensor=name,
                actual=list(ref.shape),
                target=name,
                base=f"{base.name} {base.version}",
                expected=list(own.shape),
            )
    return Effects(added=dict(module.tensors), removed=tuple(sorted(module.tensors)))


REPLACE = Operator(name="replace", bind=bind)
