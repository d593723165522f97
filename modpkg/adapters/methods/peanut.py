"""PEANuT: a change that a small network computes from the weight itself.

    delta = scaling · (f(Wᵀ))ᵀ        f: r numbers from each column of W, layers on them, then B

Each layer is a matrix and an activation; a decoder adds what its encoder got. Zhong et al. 2024,
https://arxiv.org/abs/2410.01870.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters import low_rank
from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula, all_rows
from modpkg.adapters.method import PeftMethod, linear_shape, matrix_shape, require
from modpkg.adapters.peft_config import check_keys, choice, number
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array


def _gelu(x: Any) -> Any:
    return x * 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2.0)))


def _gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


def _tanh(x: Any) -> Any:
    return np.tanh(x)


def _mish(x: Any) -> Any:
    return x * np.tanh(np.logaddexp(0.0, x))


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python": _gelu,
    "leaky_relu": lambda x: x * ((x > 0) + 0.01 * (x <= 0)),
    "linear": lambda x: x,
    "mish": _mish,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu": lambda x: x * (x > 0),
    "relu2": lambda x: (x * (x > 0)) ** 2,
    "relu6": lambda x: (x * (x > 0)).clip(None, 6.0),
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": _tanh,
}
"""By their name in transformers."""


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=("act_fn", "scaling", "depth"), ignores=("r", "init_weights"))
    name, depth = choice(adapter, "act_fn", "relu", _ACTIVATIONS), adapter.config.get("depth", 0)
    if not isinstance(depth, int) or not 0 <= depth < 1000:
        raise adapter.refuse(f"its depth is {depth!r}, which is not a number of layers")
    changes = []
    for site in sites:
        layers = [f"{kind}{n}" for kind in ("encoder", "decoder") for n in range(depth)]
        require(adapter, site, "a", "b", *layers)
        if len(site.roles) != 2 + len(layers):
            raise adapter.refuse(f"the tensors of {site.path!r} do not agree with its depth")
        out, _ = linear_shape(adapter, site)
        rank, _ = matrix_shape(adapter, site.roles["a"])
        adapter.expect(site.roles["a"], site.target, (rank, out))
        adapter.expect(site.roles["b"], site.target, (out, rank))
        for layer in layers:
            adapter.expect(site.roles[layer], site.target, (rank, rank))
        changes.append(
            TensorChange(
                target=site.target,
                op="peanut",
                inputs=dict(site.roles),
                weight=number(adapter, "scaling", 1.0),
                parameters={"activation": name, "depth": depth},
            )
        )
    return changes


def prepare(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> Mapping[str, Array]:
    """Return the factors b = B and a, the network's last numbers for each column of W."""
    activate, depth = _ACTIVATIONS[term.parameters["activation"]], term.parameters["depth"]
    values = activate(sum(inputs["a"][:, place] @ rows for place, rows in all_rows(source)))
    kept = []
    for layer in range(depth):
        kept.append(values)
        values = activate(inputs[f"encoder{layer}"] @ values)
    for layer in range(depth):
        values = activate(inputs[f"decoder{layer}"] @ values) + kept[depth - 1 - layer]
    return {"b": inputs["b"], "a": values}


PEANUT = PeftMethod(
    peft_type="PEANUT",
    operator="peanut",
    keys={
        "peanut_A.weight": "a",
        "peanut_B.weight": "b",
        "peanut_encoders.*.weight": "encoder",
        "peanut_decoders.*.weight": "decoder",
    },
    bind=bind,
    formulas=(
        Formula(
            name="peanut",
            delta=low_rank.delta,
            prepare=prepare,
            arrays=True,
            null=("b",),
            multiplies=True,
        ),
    ),
)
