"""``router``: chooses, for each token, which experts of a mixture process it.

    p = softmax(G x);  y = Σ over the k largest p_e of  p_e / Σ p · expert_e(x)

G has a row for each expert, in the order of the recipe's steps. Rows come from a router module,
from the experts themselves (``vectors``), from the base's activations for prompts (``hidden``: at
the last token; ``hidden_avg``: the mean over all tokens; ``cheap_embed``: its embeddings, the same
for all layers), or are 0 (``uniform``). Shazeer et al. 2017, https://arxiv.org/abs/1701.06538, as
Mixtral has it: Jiang et al. 2024, https://arxiv.org/abs/2401.04088. From prompts: mergekit's
mixtures, Goddard et al. 2024, https://arxiv.org/abs/2403.13257.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modpkg.adapters import bind_router
from modpkg.adapters.expert import Layer, experts_of, layers_of
from modpkg.compose.composition import ModuleRow, PromptReader, PromptRow, RouterWeight
from modpkg.compose.mixture import MixtureArchitecture, dense_of, mixture_config
from modpkg.compose.named_tokens import VOCABULARY
from modpkg.compose.operators.expert import (
    DROPS,
    OTHERS,
    PROMPTS,
    ROUTER_OP,
    VECTORS,
    binding_of,
    check_mixture,
    experts_in,
    router_of,
    texts,
)
from modpkg.compose.operators.operator import Effects, Operator, StepContext
from modpkg.compose.parameter import Parameter
from modpkg.core.digests import digest_file
from modpkg.core.dtypes import CONFIG_DTYPES
from modpkg.core.errors import ComposeError
from modpkg.core.filenames import ROUTER as ROUTER_FILE
from modpkg.core.filenames import TOKENIZER, TOKENIZER_CONFIG
from modpkg.core.tensors import types_of
from modpkg.manifest.schema import Compose, Step

ACTIVE_EXPERTS = "experts_per_token"
UNIFORM = "uniform"
FROM_PROMPTS = ("hidden", "hidden_avg", "cheap_embed")
_GATES = (*FROM_PROMPTS, VECTORS, UNIFORM)
_TOKENIZER = (
    *(TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
)

LayerRows = Mapping[int, tuple[ModuleRow | PromptRow | None, ...]]
Refuse = Callable[[str], ComposeError]


def bind(context: StepContext) -> Effects:
    """Return the router of each layer, without the dense blocks, and the mixture's config.

    Raises:
        ComposeError: The recipe is not that of a mixture, the base cannot become one exactly, or
            a module does not fit.
        ReleaseError: A module was made for another base.
        RecordError: The router module has no valid record.
    """
    module, base, step = context.module, context.base, context.step
    refuse = context.refuse_mixture
    experts = experts_in(context.recipe)
    layers = layers_of(base.tensors)
    dense = dense_of(context.config, base.tensors, layers, refuse)
    prompt_reader = None
    if step.module == context.recipe.base:
        mode = step.parameters["gates"]
        if mode in FROM_PROMPTS:
            prompt_reader = _prompt_reader(context, str(mode))
        rows = _rows(context, layers, experts, str(mode), refuse)
    else:
        mode = ROUTER_FILE
        rows = _module_rows(context, experts, refuse)
    per_token = _per_token(step, len(experts), mode == UNIFORM, refuse)
    dtype = CONFIG_DTYPES.get(
        context.recipe.dtype or "", base.tensors[layers[0].block("up_proj")].dtype
    )
    if dtype not in (*CONFIG_DTYPES.values(), "F64"):
        raise refuse(f"its base's blocks are {dtype}, and a router needs floats")
    weights = {
        layer.prefix + dense.into.gate: RouterWeight(
            dtype=dtype, shape=(len(experts), layer.width), rows=rows[layer.number]
        )
        for layer in layers
    }
    for layer in layers:
        weights |= _zero_shared_expert(dense.into, layer, dtype)
    return Effects(
        routers=weights,
        prompt_reader=prompt_reader,
        removed=tuple(layer.block(part) for layer in layers for part in dense.into.parts),
        config=mixture_config(context.config, dense, len(experts), per_token, refuse),
        unused=tuple(module.tensors.values()),
    )


def check_router(model: str, recipe: Compose) -> None:
    """Check a mixture's steps, and that its router has what it chooses by; see `check_mixture`.

    Raises:
        ComposeError: They do not go together.
    """
    check_mixture(model, recipe)
    step, experts = router_of(model, recipe), experts_in(recipe)

    def refuse(reason: str) -> ComposeError:
        return ComposeError("M609", model=model, reason=reason)

    mode = step.parameters.get("gates")
    if step.module != recipe.base and mode is not None:
        raise refuse(f"its router is {step.module}, and gates needs the base as the module")
    if step.module == recipe.base and not isinstance(mode, str):
        raise refuse(f"gates of its router is {mode!r}; supported are {', '.join(_GATES)}")
    for expert in experts:
        written = [key for key in PROMPTS if key in expert.parameters]
        if written and mode not in FROM_PROMPTS:
            raise refuse(f"{expert.module} has prompts, which its router does not use")
        positive, negative = (texts(expert.parameters, key) for key in PROMPTS)
        if mode in FROM_PROMPTS and (not positive or negative is None):
            raise refuse(f"gates is {mode!r}, and {expert.module} has no prompts")
    _per_token(step, len(experts), mode == UNIFORM, refuse)


def _per_token(step: Step, experts: int, uniform: bool, refuse: Refuse) -> int:
    """Return how many experts a token is sent to."""
    if not experts:
        raise refuse('it has a router and no experts; add { op = "expert", module = … }')
    value = step.parameters.get(ACTIVE_EXPERTS, float(experts if uniform else min(2, experts)))
    if not isinstance(value, float):
        raise refuse(f"{ACTIVE_EXPERTS} is {value!r}, and has to be one integer")
    if not 1 <= value <= experts:
        raise refuse(f"{ACTIVE_EXPERTS} is {value:g}, and has to be from 1 to {experts}")
    if uniform and value < experts:
        raise refuse(
            f"{ACTIVE_EXPERTS} is {value:g} of {experts}, and gates = 'uniform' does not "
            "distinguish experts: the same ones would be chosen for every token"
        )
    return int(value)


def _module_rows(context: StepContext, experts: list[Step], refuse: Refuse) -> LayerRows:
    """Return the rows of a router module."""
    module, base, step = context.module, context.base, context.step
    if ROUTER_FILE not in module.files:
        raise refuse(f"{module.name} is not a router: it has no {ROUTER_FILE}")
    names = experts_of(module.files[ROUTER_FILE])
    types = types_of(module.tensors)
    routers = bind_router(module.name, types, names, base.tensors, base_name=context.base_name)
    for expert in experts:
        if expert.module not in names:
            raise refuse(
                f"{module.name} has no row for {expert.module}; it is for {', '.join(names)}"
            )
    used = {expert.module for expert in experts}
    unused = [name for name in names if name not in used]
    if unused and step.parameters.get(OTHERS) != "drop":
        raise refuse(
            f"{module.name} has a row for {unused[0]}, which is not one of its experts; to drop "
            'it, write parameters = { others = "drop" } in the step of the router'
        )
    places = {name: place for place, name in enumerate(names)}
    return {
        number: tuple(ModuleRow(module.tensors[name], places[e.module]) for e in experts)
        for number, name in routers.items()
    }


def _rows(
    context: StepContext,
    layers: tuple[Layer, ...],
    experts: list[Step],
    mode: str,
    refuse: Refuse,
) -> LayerRows:
    """Return the rows that are the experts' vectors, or that are computed from their prompts."""
    if mode == UNIFORM:
        return dict.fromkeys((layer.number for layer in layers), ())
    columns: list[list[ModuleRow | PromptRow | None]] = []
    for expert in experts:
        if mode == VECTORS:
            columns.append(_vectors(context, expert, layers, refuse))
            continue
        positive, negative = (texts(expert.parameters, key) or () for key in PROMPTS)
        columns.append([PromptRow(place, positive, negative) for place in range(len(layers))])
    return {
        layer.number: tuple(column[place] for column in columns)
        for place, layer in enumerate(layers)
    }


def _vectors(
    context: StepContext, expert: Step, layers: tuple[Layer, ...], refuse: Refuse
) -> list[ModuleRow | PromptRow | None]:
    """Return an expert's vectors; the base's are 0, the reference for the others'."""
    if expert.module == context.recipe.base:
        return [None] * len(layers)
    vectors = binding_of(context, expert).vectors
    if not vectors:
        raise refuse(f"gates is {VECTORS!r}, and {expert.module} has none")
    tensors = context.modules[expert.module].tensors
    return [ModuleRow(tensors[vectors[layer.number]], 0) for layer in layers]


def _prompt_reader(context: StepContext, mode: str) -> PromptReader:
    """Return the base with its tokenizer, to compute activations for prompts."""
    base = context.base
    files = {path: base.files[path] for path in _TOKENIZER if path in base.files}
    if not any(map(VOCABULARY.fullmatch, files)):
        raise ComposeError(
            "M601",
            model=context.model,
            reason=f"its router reads texts with {base.name}, which has no tokenizer (no "
            f"{TOKENIZER})",
        )
    # A release's record has the digests of its files before they are fetched.
    known = {path: entry.digest for path, entry in base.record.files.items()}
    return PromptReader(
        mode=mode,
        config=dict(context.config),
        tensors=dict(base.tensors),
        files=files,
        digests={path: known.get(path) or digest_file(blob) for path, blob in files.items()},
    )


def _zero_shared_expert(
    into: MixtureArchitecture, layer: Layer, dtype: str
) -> dict[str, RouterWeight]:
    """Return a shared expert of zeros, if the architecture has one that processes every token."""
    if not into.shared:
        return {}
    name = layer.prefix + into.shared
    row, column = (1, layer.width), (layer.width, 1)
    shapes = {".gate_proj": row, ".up_proj": row, ".down_proj": column, "_gate": row}
    return {
        f"{name}{part}.weight": RouterWeight(dtype=dtype, shape=s) for part, s in shapes.items()
    }


ROUTER = Operator(
    name=ROUTER_OP,
    bind=bind,
    parameters={
        "gates": Parameter(default="", type=str, choices=_GATES),
        ACTIVE_EXPERTS: Parameter(default=2, type=int, least=1),
        OTHERS: DROPS,
    },
    check=check_router,
)
