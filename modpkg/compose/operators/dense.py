"""``dense``: a fine-tune, as its difference from the base.

    delta = x − base

The step's scale interpolates from the base (0) to the fine-tune (1). Ilharco et al. 2023,
https://arxiv.org/abs/2212.04089. With the parameter ``within``, a prefix like ``language_model.``
or several, it is a fine-tune of only that part of the base: one tower of a model of text and
images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs

from modpkg.adapters.formula import LEAST, BaseRows, Elements, Error, Extent, Sizes, gamma
from modpkg.adapters.vocabulary import has_token_rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.compose.output_layer import config_of, untied_by, with_tied_output
from modpkg.compose.parameter import Parameter
from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ComposeError
from modpkg.core.installed import TensorRef
from modpkg.core.same_values import in_terms_of
from modpkg.core.tensors import identity_of
from modpkg.core.text_config import text_part
from modpkg.core.untied import TIES

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

WITHIN = "within"


def bind(context: StepContext) -> Effects:
    """Return a term for each tensor of floats.

    Copies of tied tensors and computed buffers may be on one side only, see `in_terms_of`; the
    output layer of a tied fine-tune of an untied base is its embedding.

    Raises:
        ComposeError: The module and the base have different names, shapes, or integer tensors; or
            the base has no part that the step names.
    """
    if WITHIN in context.step.parameters:
        return _bind_part(context)
    module, base = context.module, context.base
    config = config_of(module)
    own_tensors = with_tied_output(
        in_terms_of(module.tensors, base.tensors, config, context.config),
        base.tensors,
        config,
        context.config,
    )
    wanted = in_terms_of(base.tensors, own_tensors, context.config, config)
    for one, other, names in (
        (module, base, own_tensors.keys() - base.tensors.keys()),
        (base, module, wanted.keys() - own_tensors.keys()),
    ):
        if names:
            remedy = ""
            if one is module and untied_by(module, base, context.config) is not None:
                remedy = f"; {TIES} = false in the recipe gives the base an output layer of its own"
            raise context.refuse(
                f"step 'dense' names {module.name}, but {one.name} has {min(names)!r} and "
                f"{other.name} does not{remedy}"
            )
    tensors = context.on_base()
    terms: dict[str, Term] = {}
    for name, ref in own_tensors.items():
        own = base.tensors[name]
        if list(ref.shape) != list(own.shape):
            if has_token_rows(name) and list(ref.shape[1:]) == list(own.shape[1:]):
                raise ComposeError("M226",
                    model=context.model, tensor=name, module=module.name, rows=ref.shape[0],
                    base=base.name, expected=own.shape[0],
                )  # fmt: skip
            tensors.expect(name, name, own.shape)
        if own.dtype in FLOATS and ref.dtype in FLOATS:
            terms[name] = Term(op="dense", weight=1.0, inputs={"values": ref})
        elif identity_of(own) != identity_of(ref):
            raise context.refuse(
                f"{name!r} has dtype {ref.dtype} and differs from the one of {base.name}"
            )
    left = tuple(ref for name, ref in module.tensors.items() if name not in own_tensors)
    return Effects(terms=terms, unused=left)


def _bind_part(context: StepContext) -> Effects:
    """Return the terms of a step on a part of the base.

    The module is such a model too, of which only that part is used; or it is that part alone, with
    the base's names without the prefix, if there is one prefix.
    """
    module, base, given = context.module, context.base, context.step.parameters[WITHIN]
    prefixes = [str(each) for each in given] if isinstance(given, tuple) else [str(given)]
    part: dict[str, TensorRef] = {}
    own: dict[str, TensorRef] = {}
    for prefix in prefixes:
        if not prefix.endswith("."):
            raise context.refuse_step(
                f"has {WITHIN} = {prefix!r}, which is no prefix of names that ends with a dot, "
                'like "language_model."'
            )
        found = {name: ref for name, ref in base.tensors.items() if name.startswith(prefix)}
        if not found:
            raise context.refuse_step(
                f"names {prefix!r}, but no tensor of {base.name} begins with it"
            )
        part |= found
        own |= {name: ref for name, ref in module.tensors.items() if name.startswith(prefix)}
    if not own and len(prefixes) == 1:
        own = {f"{prefixes[0]}{name}": ref for name, ref in module.tensors.items()}
    step = structs.replace(context.step, parameters={})
    effects = bind(
        structs.replace(
            context,
            step=step,
            base=structs.replace(base, tensors=part),
            module=structs.replace(module, tensors=own),
            config=text_part(context.config)[1],
        )
    )
    used = {id(ref) for ref in own.values()}
    left = tuple(ref for ref in module.tensors.values() if id(ref) not in used)
    return structs.replace(effects, unused=effects.unused + left)


def delta(
    inputs: Mapping[str, Array], term: Term, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows [start, stop) of weight · (x − base)."""
    change = inputs["values"]
    change -= source.peek(start, stop)
    if term.weight != 1.0:
        change *= term.weight
    return change


def exact(inputs: Mapping[str, Array], term: Term, elements: Elements) -> Any:
    """Return `delta` at single elements, without rounding."""
    return (elements.number(inputs["values"]) - elements.base) * term.weight


def error(inputs: Mapping[str, Extent], term: Term, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of `delta`: a difference, and a product."""
    return Error(0.0 if term.weight == 1.0 else LEAST, gamma(4))


DENSE = Operator(
    name="dense",
    bind=bind,
    delta=delta,
    exact=exact,
    error=error,
    arrays=True,
    by_rows=("values",),
    becomes="values",
    parameters={WITHIN: Parameter(default="", type=str)},
)
