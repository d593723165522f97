"""``expert``: a feed-forward block for every layer, one of those that a router chooses from.

    composed[layer.experts[e]] = module[layer.mlp]    e counts the recipe's experts, from 0

The module is an expert, the base itself, or another model of its shape; of the last two it is the
blocks that are taken. They lie in the result as they lie in the module. Shazeer et al. 2017,
https://arxiv.org/abs/1701.06538; of dense models: Sukhbaatar et al. 2024,
https://arxiv.org/abs/2403.07816.
"""

from __future__ import annotations

from collections.abc import Mapping

from modpkg.adapters import ExpertBinding, bind_expert
from modpkg.adapters.expert import PARTS, layers_of
from modpkg.compose.mixture import dense_of
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ROUTER
from modpkg.core.tensors import identity_of, types_of
from modpkg.manifest.schema import Compose, Setting, Step

PROMPTS = ("prompts", "negative_prompts")
OTHERS = "others"
"""The parameter of a step that leaves behind what the mixture has no use for: ``"drop"``."""
VECTORS = "vectors"


def bind(context: StepContext) -> Effects:
    """Return the blocks under the names that they have in the mixture.

    Raises:
        ComposeError: the step cannot be meant, or the module has more than blocks.
        ComposeError, ReleaseError: it was made for another base.
    """
    module, base, step = context.module, context.base, context.step

    def refuse(reason: str) -> ComposeError:
        return ComposeError("M609", model=context.model, reason=reason)

    check_step(context, (*PROMPTS, OTHERS))
    experts = experts_in(context.recipe)
    if [one.module for one in experts].count(step.module) > 1:
        raise refuse(f"{module.name} is an expert of it twice")
    router = router_of(context)
    if ROUTER in module.files:
        raise refuse(f'{module.name} is a router, not an expert; write op = "router"')
    is_base = step.module == context.recipe.base
    tensors = base.tensors if is_base else module.tensors
    bound = binding_of(context, step)
    dense = dense_of(context.config, base.tensors, layers_of(base.tensors), refuse)
    drops = step.parameters.get(OTHERS) == "drop"
    left = [*module.tensors.values()] if is_base else [tensors[name] for name in bound.others]
    for name in bound.others:
        own = base.tensors[name]
        if not drops and identity_of(tensors[name]) != identity_of(own):
            raise refuse(
                f"{module.name} has {name!r}, which is not that of {base.name} and no part of an "
                'expert; to take its blocks alone, write parameters = { others = "drop" }'
            )
    used = uses_vectors(context.recipe, router)
    if bound.vectors and not (used or drops):
        raise refuse(
            f"{module.name} brings {min(bound.vectors.values())!r}, which the router has no use "
            'for; to leave it, write parameters = { others = "drop" }'
        )
    number = [one.module for one in experts].index(step.module)
    added = {
        layer.prefix
        + dense.into.expert.format(number=number, part=dense.into.parts[part]): tensors[
            layer.block(part)
        ]
        for layer in bound.layers
        for part in PARTS
    }
    return Effects(added=added, unused=(*left, *(tensors[n] for n in bound.vectors.values())))


def binding_of(context: StepContext, step: Step) -> ExpertBinding:
    """Return what the tensors of one of the recipe's experts are."""
    base = context.base
    module = base if step.module == context.recipe.base else context.modules[step.module]
    types = types_of(module.tensors)
    return bind_expert(module.name, types, base.tensors, base_name=f"{base.name} {base.version}")


def check_step(context: StepContext, known: tuple[str, ...]) -> None:
    """Refuse a step of a mixture that says what no such step can mean.

    Raises:
        ComposeError
    """
    step, model = context.step, context.model

    def refuse(reason: str) -> ComposeError:
        return ComposeError(
            "M609", model=model, reason=f"step {step.op!r} of {step.module} {reason}"
        )

    if step.scale != 1.0 or step.replace:
        raise refuse("has a scale or replace, but nothing is added up or replaced")
    for key in step.parameters:
        if key not in known:
            raise refuse(f"has no parameter {key!r}; it has {', '.join(known)}")
    if step.parameters.get(OTHERS, "drop") != "drop":
        raise refuse('has a parameter others, which can be "drop" alone')
    if context.recipe.method != "sum":
        raise refuse(f"is beside method {context.recipe.method!r}; mixtures go with 'sum' alone")


def experts_in(recipe: Compose) -> list[Step]:
    """Return the steps of a recipe that are its experts."""
    return [step for step in recipe.steps if step.op == EXPERT.name]


def router_of(context: StepContext) -> Step:
    """Return the one step of a recipe that is its router.

    Raises:
        ComposeError: there is none, or another.
    """
    found = [step for step in context.recipe.steps if step.op == "router"]
    if len(found) != 1:
        raise ComposeError(
            "M609",
            model=context.model,
            reason=f'it has {len(found)} routers; experts go with one, like {{ op = "router", '
            f'module = "{context.recipe.base}", parameters = {{ gates = "uniform" }} }}',
        )
    return found[0]


def uses_vectors(recipe: Compose, router: Step) -> bool:
    """Say whether the router is made of vectors that the experts bring."""
    return router.module == recipe.base and router.parameters.get("gates") == VECTORS


def words(parameters: Mapping[str, Setting], key: str) -> tuple[str, ...] | None:
    """Return a parameter that is a text or several; None where it is something else."""
    value = parameters.get(key, ())
    found = value if isinstance(value, tuple) else (value,)
    return tuple(map(str, found)) if all(isinstance(item, str) for item in found) else None


EXPERT = Operator(name="expert", bind=bind)
