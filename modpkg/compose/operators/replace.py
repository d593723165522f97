"""``replace``: whole tensors replace the base's.

composed[t] = module[t]
"""

from __future__ import annotations

from modpkg.compose.operators.operator import Effects, Operator, StepContext


def bind(context: StepContext) -> Effects:
    """Return the module's tensors, each in place of the base's tensor of that name.

    Raises:
        ComposeError: The base lacks one or has it in another shape, or the step has a scale.
    """
    module, base, step = context.module, context.base, context.step
    if step.scale != 1.0 or step.replace:
        raise context.refuse_step(
            f"has {'replace' if step.replace else 'a scale'}, but it replaces tensors by all of "
            "its own, unscaled"
        )
    if not module.tensors:
        raise context.refuse(f"{module.name} has no tensors")
    tensors = context.on_base()
    for name in sorted(module.tensors):
        if name not in base.tensors:
            raise context.refuse(
                f"{module.name} replaces {name!r}, which {context.base_name} does not have"
            )
        tensors.expect(name, name, base.tensors[name].shape)
    return Effects(added=dict(module.tensors), removed=tuple(sorted(module.tensors)))


REPLACE = Operator(name="replace", bind=bind)
