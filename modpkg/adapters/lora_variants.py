"""LoRA's variants whose change is still a product, but of other factors.

KaSA (``kasa_config``) takes the part of W with the r smallest singular values out, and scales the
ranks by a trained vector: delta = scale · B @ diag(d) @ A − that part. Wang et al. 2024,
https://arxiv.org/abs/2412.06071. BD-LoRA (``use_bdlora``) has a block-diagonal A or B, of which it
stores the blocks. QALoRA (``use_qalora``) has an A for the means of groups of inputs, times the
number of groups. VeLoRA and MonteCLoRA train otherwise, and run as plain LoRA.

PiSSA and OLoRA (``init_lora_weights``) move a part of W into the adapter before training: that of
the r largest singular values, or scale · Q R of the first r columns of Q. delta = scale · B @ A −
that part. Meng, Wang & Zhang 2024, https://arxiv.org/abs/2404.02948; Büyükakyüz 2024,
https://arxiv.org/abs/2406.01775. PEFT takes that part out of the base when it loads the adapter,
unless it converted the adapter when saving. CorDA, LoftQ, LoRA-GA and PiSSA's fast way move parts
that depend on data, rounding or random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import (
    BaseRows,
    Coefficients,
    Elements,
    Error,
    Extent,
    Formula,
    Sizes,
    UndefinedChange,
)
from modpkg.adapters.singular import split, whole
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from torch import Tensor

    from modpkg.adapters.formula import Array

MOVING_INITS = ("pissa", "olora")
"""Initialisations that move a part of the base, computed from it alone, into the adapter."""


_ANY_CASE = ("gaussian", "mica", "olora")

EMBEDDINGS = "embeddings"


def initialisation(adapter: Adapter) -> Any:
    """Return ``init_lora_weights``, spelled as here where PEFT does not look at the case."""
    init = adapter.config.get("init_lora_weights", True)
    plain = init.lower() if isinstance(init, str) else init
    return plain if plain in _ANY_CASE else init


def variant_change(
    adapter: Adapter, site: Site, rank: int, scale: float, parameters: Mapping[str, Any]
) -> TensorChange | None:
    """Return the change to a linear layer's weight if it is a variant's, or None.

    Raises:
        ComposeError: The layer is not one that the variant is for.
    """
    inputs = {"a": site.roles["a"], "b": site.roles["b"]}
    if (diagonal := site.roles.get("diagonal")) is not None:
        shape = adapter.target_shape(site.target)
        if parameters or len(shape) != 2 or rank >= min(shape):
            raise adapter.refuse(
                f"{site.target!r} is not of a linear layer with more than {rank} singular values, "
                "which KaSA needs"
            )
        adapter.expect(diagonal, inputs["a"], (rank,))
        return TensorChange(
            target=site.target,
            op="kasa",
            inputs={**inputs, "diagonal": diagonal},
            parameters={"scaling": scale},
        )
    init = initialisation(adapter)
    if init in MOVING_INITS:
        if (
            site.times != 1
            or len(adapter.target_shape(site.target)) != 2
            or (parameters and init == "olora")
        ):
            raise adapter.refuse(
                f"{site.target!r} is not of a linear layer, as init_lora_weights = {init!r} needs"
            )
        own = {**parameters, "scaling": scale}
        if (magnitude := site.roles.get("magnitude")) is not None:
            expect_magnitude(adapter, site, magnitude, parameters)
            return TensorChange(
                target=site.target,
                op="dora",
                inputs={**inputs, "magnitude": magnitude},
                parameters={**own, "init": init},
            )
        return TensorChange(target=site.target, op=str(init), inputs=inputs, parameters=own)
    if group := pooled_group(adapter, site):
        if parameters:
            raise adapter.refuse(f"{site.target!r} is stored as (in, out), which QALoRA has not")
        return TensorChange(
            target=site.target,
            op="qalora",
            inputs=inputs,
            weight=scale,
            parameters={"group": group},
        )
    if factor := diagonal_factor(adapter, site, rank):
        return TensorChange(
            target=site.target,
            op="bdlora",
            inputs=inputs,
            weight=scale,
            parameters={"blocks": blocks_of(adapter), "diagonal": factor},
        )
    return None


def expect_magnitude(
    adapter: Adapter, site: Site, magnitude: str, parameters: Mapping[str, Any]
) -> None:
    """Check that DoRA has a magnitude for each output, or for each column of an embedding.

    Raises:
        ComposeError: It has another number of them.
    """
    extent = adapter.target_shape(site.target)[1 if parameters.get("transposed") else 0]
    if math.prod(adapter.shape(magnitude)) != extent:
        raise adapter.misfit(magnitude, site.target, [extent])


def refuse_variants(adapter: Adapter, what: str) -> None:
    """Check that no variant changes the base itself, which it does for linear layers only.

    PEFT initialises embeddings as usual, whatever ``init_lora_weights`` says.

    Raises:
        ComposeError: One does.
    """
    for key in ("kasa_config", "use_bdlora", "init_lora_weights"):
        value = initialisation(adapter) if key == "init_lora_weights" else adapter.config.get(key)
        moves = value in MOVING_INITS and what != EMBEDDINGS
        if value and (key != "init_lora_weights" or moves):
            raise adapter.refuse(f"it has {key} = {value!r}, which is not for {what}")


def blocks_of(adapter: Adapter) -> int:
    """Return the number of blocks of a block-diagonal factor; 1 if there are none.

    Raises:
        ComposeError: The configuration has something else.
    """
    settings = adapter.config.get("use_bdlora") or {}
    count = settings.get("nblocks", 1) if isinstance(settings, dict) else 0
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise adapter.refuse(f"its use_bdlora is {settings!r}, which has no number of blocks")
    return count


def diagonal_factor(adapter: Adapter, site: Site, rank: int) -> str:
    """Return which factor consists of the blocks of a diagonal: ``a``, ``b`` or neither, "".

    BD-LoRA is for linear layers, whose shape tells.
    """
    blocks = blocks_of(adapter)
    a, b = adapter.shape(site.roles["a"]), adapter.shape(site.roles["b"])
    shape = adapter.target_shape(site.target)
    if blocks == 1 or not len(a) == len(b) == len(shape) == 2 or rank % blocks:
        return ""
    if a[1] != shape[1] and a[1] * blocks == shape[1]:
        return "a"
    return "b" if b[1] * blocks == rank and b[0] % blocks == 0 else ""


def pooled_group(adapter: Adapter, site: Site) -> int:
    """Return how many inputs QALoRA takes the mean of; 0 if none.

    PEFT pools the inputs of layers that GPTQ quantised, and of no others: A's shape tells.

    Raises:
        ComposeError: The configuration has no such number, or one with which the shape is the same.
    """
    shape, a = adapter.target_shape(site.target), adapter.shape(site.roles["a"])
    if not adapter.config.get("use_qalora") or len(shape) != 2:
        return 0
    group: Any = adapter.config.get("qalora_group_size", 16)
    if isinstance(group, bool) or not isinstance(group, int) or group < 2:
        raise adapter.refuse(
            f"its qalora_group_size is {group!r}, so whether it pools is not known"
        )
    return group if len(a) == 2 and a[1] * group == shape[1] else 0


def qalora_prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return A with its columns repeated, since the sum of means is scaled by their number."""
    group, a = term.parameters["group"], inputs["a"]
    return {**inputs, "a": a.repeat(group, axis=1) * (a.shape[1] / group)}


def qalora_exact(inputs: Mapping[str, Any], term: Coefficients, elements: Elements) -> Any:
    """Return the change at single elements, without rounding."""
    group, a, number = term.parameters["group"], inputs["a"], elements.number
    products = number(inputs["b"][elements.row]) * number(a[:, elements.column // group].T)
    return products.sum() * term.weight * a.shape[1] / group


def qalora_error(inputs: Mapping[str, Extent], term: Coefficients, sizes: Sizes) -> Error:
    """Return a bound of the error of each element of the change."""
    own = {role: inputs[role] for role in "ab"}
    own["e"] = Extent((), inputs["a"].shape[1] / term.parameters["group"])
    return Error(low_rank.size_of(own, term.weight)[1])


def kasa_prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = [scale · B, −U₀ S₀] and a = [diag(d) A, V₀]."""
    a, b, diagonal = inputs["a"], inputs["b"], inputs["diagonal"]
    kept = min(source.shape) - len(diagonal)
    u, s, v = split(whole(source), kept, what="the part that KaSA takes out")
    return {
        "b": np.concatenate([b * term.parameters["scaling"], -u[:, kept:] * s[kept:]], axis=1),
        "a": np.concatenate([diagonal[:, None] * a, v[kept:]]),
    }


def pissa_prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = [scale · B, −U₀ S₀] and a = [A, V₀]."""
    a, b = inputs["a"], inputs["b"]
    matrix = whole(source)
    if term.parameters.get("transposed"):
        matrix = matrix.T
    rank = len(a)
    u, s, v = split(matrix, rank, what="the part that PiSSA moved into the adapter")
    return {
        "b": np.concatenate([b * term.parameters["scaling"], -u[:, :rank] * s[:rank]], axis=1),
        "a": np.concatenate([a, v[:rank]]),
    }


def olora_prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = scale · [B, −Q₀] and a = [A, R₀]."""
    a, b = inputs["a"], inputs["b"]
    q, r = np.linalg.qr(whole(source))
    rank = len(a)
    factors = np.concatenate([b, -q[:, :rank]], axis=1)
    return {"b": factors * term.parameters["scaling"], "a": np.concatenate([a, r[:rank]])}


class _MatrixRows:
    """A torch tensor, as formulas on arrays read the base."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self.shape, self.count = tuple(matrix.shape), matrix.numel()
        self.columns = matrix.shape[1]

    def peek(self, start: int, stop: int) -> Array:
        rows: Array = self._matrix[start:stop].double().numpy()
        return rows


def without_moved(
    inputs: Mapping[str, Tensor], term: Coefficients, source: Tensor
) -> dict[str, Tensor]:
    """Return DoRA's inputs with factors that take out what its initialisation moved.

    Raises:
        UndefinedChange: What was moved is not defined.
    """
    import torch

    if not (scaling := term.parameters["scaling"]):
        raise UndefinedChange("its scale is 0, so what was moved into it is not defined")
    move = pissa_prepare if term.parameters["init"] == "pissa" else olora_prepare
    factors = move({role: inputs[role].numpy() for role in "ab"}, term, _MatrixRows(source))
    b, a = torch.from_numpy(factors["b"] / scaling), torch.from_numpy(factors["a"])
    return {**inputs, "a": a, "b": b}


def bdlora_prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return both factors whole, with zeros outside of the blocks."""
    count, role = term.parameters["blocks"], term.parameters["diagonal"]
    rows, columns = inputs[role].shape
    wide = np.zeros((count, rows // count, count, columns))
    for number, block in enumerate(inputs[role].reshape(count, -1, columns)):
        wide[number, :, number] = block
    return {**inputs, role: wide.reshape(rows, -1)}


VARIANTS = (
    *(
        Formula(name=name, delta=low_rank.delta, prepare=prepare, arrays=True, multiplies=True)
        for name, prepare in (
            ("kasa", kasa_prepare),
            ("pissa", pissa_prepare),
            ("olora", olora_prepare),
        )
    ),
    Formula(
        name="bdlora",
        delta=low_rank.delta,
        prepare=bdlora_prepare,
        exact=low_rank.exact,
        error=low_rank.error,
        arrays=True,
        null=("a", "b"),
    ),
    Formula(
        name="qalora",
        delta=low_rank.delta,
        prepare=qalora_prepare,
        prepare_rounds=True,
        exact=qalora_exact,
        error=qalora_error,
        arrays=True,
        null=("a", "b"),
    ),
)
