"""``expert``: a feed-forward block for every layer, among which a router chooses.

    composed[layer.experts[e]] = module[layer.mlp]    e counts the recipe's experts, from 0

The module is an expert, the base itself, or another model of its shape, of which only the blocks
are used. The blocks are in the result unchanged. Shazeer et al. 2017,
https://arxiv.org/abs/1701.06538; of dense models: Sukhbaatar et al. 2024,
https://arxiv.org/abs/2403.07816.
"""

from __future__ import annotations

from collections.abc import Mapping

from modpkg.adapters import ExpertBinding, bind_expert
from modpkg.adapters.expert import PARTS, layers_of
from modpkg.compose.mixture import dense_of
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.compose.parameter import Parameter
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ROUTER
from modpkg.core.tensors import identity_of, types_of
from modpkg.manifest.schema import Compose, Setting, Step

PROMPTS = ("prompts", "negative_prompts")
OTHERS = "others"
"""The parameter of a step that drops tensors that the mixture does not use: ``"drop"``."""
VECTORS = "vectors"
ROUTER_OP = "router"
"""The operator of the step that is a mixture's router."""


def bind(context: StepContext) -> Effects:
    """Return the blocks by their names in the mixture.

    Raises:
        ComposeError: The step is not valid, or the module has more than blocks.
        ReleaseError: The module was made for another base.
    """
    module, base, step = context.module, context.base, context.step
    refuse = context.refuse_mixture
    experts = experts_in(context.recipe)
    router = router_of(context.model, context.recipe)
    if ROUTER in module.files:
        raise refuse(f'{module.name} is a router, not an expert; write op = "router"')
    is_base = step.module == context.recipe.base
    tensors = base.tensors if is_base else module.tensors
    binding = binding_of(context, step)
    dense = dense_of(context.config, base.tensors, layers_of(base.tensors), refuse)
    drops = step.parameters.get(OTHERS) == "drop"
    dropped = [*module.tensors.values()] if is_base else [tensors[n] for n in binding.others]
    for name in binding.others:
        own = base.tensors[name]
        if not drops and identity_of(tensors[name]) != identity_of(own):
            raise refuse(
                f"{module.name} has {name!r}, which differs from the one of {base.name} and is no "
                "part of an expert; to use its blocks only, write parameters = "
                '{ others = "drop" }'
            )
    used = uses_vectors(context.recipe, router)
    if binding.vectors and not (used or drops):
        raise refuse(
            f"{module.name} has {min(binding.vectors.values())!r}, which the router does not use; "
            'to drop it, write parameters = { others = "drop" }'
        )
    number = [one.module for one in experts].index(step.module)
    added = {
        layer.prefix
        + dense.into.expert.format(number=number, part=dense.into.parts[part]): tensors[
            layer.block(part)
        ]
        for layer in binding.layers
        for part in PARTS
    }
    vectors = (tensors[name] for name in binding.vectors.values())
    return Effects(added=added, unused=(*dropped, *vectors))


def binding_of(context: StepContext, step: Step) -> ExpertBinding:
    """Return what the tensors of one of the recipe's experts are for."""
    base = context.base
    module = base if step.module == context.recipe.base else context.modules[step.module]
    types = types_of(module.tensors)
    return bind_expert(module.name, types, base.tensors, base_name=context.base_name)


def check_mixture(model: str, recipe: Compose) -> None:
    """Check the steps of a mixture among each other, and the recipe's method.

    Raises:
        ComposeError: A key or the method is not supported for mixtures, a module is an expert
            twice, or there is not one router.
    """
    for step in recipe.steps:
        if step.op in (EXPERT.name, ROUTER_OP) and (step.scale != 1.0 or step.replace):
            reason = "has scale or replace, which a mixture does not support"
            raise _refuse(model, f"step {step.op!r} of {step.module} {reason}")
    if recipe.method != "sum":
        raise _refuse(model, f"it needs method 'sum', but the recipe has {recipe.method!r}")
    names = [one.module for one in experts_in(recipe)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise _refuse(model, f"its recipe has {twice[0]} as an expert twice")
    router_of(model, recipe)


def _refuse(model: str, reason: str) -> ComposeError:
    return ComposeError("M609", model=model, reason=reason)


def experts_in(recipe: Compose) -> list[Step]:
    """Return the steps of a recipe that are its experts."""
    return [step for step in recipe.steps if step.op == EXPERT.name]


def router_of(model: str, recipe: Compose) -> Step:
    """Return the one step of a recipe that is its router.

    Raises:
        ComposeError: The recipe has no router, or more than one.
    """
    routers = [step for step in recipe.steps if step.op == ROUTER_OP]
    if len(routers) != 1:
        raise _refuse(
            model,
            f'it has {len(routers)} routers; experts need one, like {{ op = "router", '
            f'module = "{recipe.base}", parameters = {{ gates = "uniform" }} }}',
        )
    return routers[0]


def uses_vectors(recipe: Compose, router: Step) -> bool:
    """Return whether the router consists of vectors of the experts."""
    return router.module == recipe.base and router.parameters.get("gates") == VECTORS


def texts(parameters: Mapping[str, Setting], key: str) -> tuple[str, ...] | None:
    """Return a parameter that is a text or several, or None if it is something else."""
    value = parameters.get(key, ())
    items = value if isinstance(value, tuple) else (value,)
    return tuple(map(str, items)) if all(isinstance(item, str) for item in items) else None


DROPS = Parameter(default="", type=str, choices=("drop",))

EXPERT = Operator(
    name="expert",
    bind=bind,
    parameters={**{key: Parameter(default="", type=str) for key in PROMPTS}, OTHERS: DROPS},
    check=check_mixture,
)
