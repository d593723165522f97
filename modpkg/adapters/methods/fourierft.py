"""FourierFT: single coefficients of a weight's Fourier transform.

    delta = scaling · Re F⁻¹(S)        S[p, q] = spectrum

at positions that PEFT draws from ``random_loc_seed`` when it loads the adapter: the first of a
permutation of all. Gao et al. 2024, https://arxiv.org/abs/2405.03003.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod, linear_shape, require
from modpkg.adapters.orientation import transposed
from modpkg.adapters.peft_config import check_keys, number
from modpkg.adapters.torch_random import beginning_of_permutation, permutes
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("scaling", "random_loc_seed", "fan_in_fan_out")
_TRAINING = ("n_frequency", "n_frequency_pattern", "init_weights", "bias")


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING)
    scale = number(adapter, "scaling", 150.0)
    return spectral_changes(adapter, sites, "fourierft", scale, {})


def spectral_changes(
    adapter: Adapter, sites: Sequence[Site], op: str, scale: float, settings: Mapping[str, Any]
) -> list[TensorChange]:
    """Return the change to each site's weight, of a method that draws positions from a seed.

    Raises:
        ComposeError: A spectrum does not fit, or its positions cannot be reproduced.
    """
    seed = adapter.config.get("random_loc_seed", 777)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise adapter.refuse(f"its random_loc_seed is {seed!r}, which is not a seed of torch's")
    for site in sites:
        require(adapter, site, "spectrum")
        count = math.prod(linear_shape(adapter, site))
        shape = adapter.shape(site.roles["spectrum"])
        if len(shape) != 1 or shape[0] > count:
            raise adapter.misfit(site.roles["spectrum"], site.target, [count])
        if not permutes(count):
            raise adapter.refuse(
                f"{site.target!r} has {count} elements, and how torch draws positions among so "
                "many is not reproduced"
            )
    # A spectrum fits a weight either way.
    ways = transposed(adapter, sites, lambda site: (None, None, site.roles["spectrum"]))
    return [
        TensorChange(
            target=site.target,
            op=op,
            inputs=dict(site.roles),
            weight=scale,
            parameters={
                "seed": seed,
                **settings,
                **({"transposed": True} if ways[site.target] else {}),
            },
        )
        for site in sites
    ]


def positions(
    inputs: Mapping[str, Array], term: Coefficients, source: BaseRows
) -> tuple[tuple[int, int], Any, Any]:
    """Return the shape (out, in) of a change, and the rows and columns of its spectrum."""
    out, inner = source.shape
    if term.parameters.get("transposed"):
        out, inner = inner, out
    places = beginning_of_permutation(term.parameters["seed"], out * inner, len(inputs["spectrum"]))
    return (out, inner), places // inner, places % inner


def prepare(inputs: Mapping[str, Array], term: Coefficients, source: BaseRows) -> Mapping[str, Any]:
    """Return the transform along the first axis of the weight, of the columns that have values."""
    shape, rows, columns = positions(inputs, term, source)
    if term.parameters.get("transposed"):
        shape, rows, columns = shape[::-1], columns, rows
    used, places = np.unique(columns, return_inverse=True)
    half = np.zeros((shape[0], len(used)), dtype=np.complex128)
    half[rows, places.reshape(-1)] = inputs["spectrum"]
    return {"half": np.fft.ifft(half, axis=0), "columns": used}


def delta(
    inputs: Mapping[str, Any], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · Re F⁻¹(S)."""
    whole = np.zeros((stop - start, source.columns), dtype=np.complex128)
    whole[:, inputs["columns"]] = inputs["half"][start:stop]
    change: Array = np.fft.ifft(whole, axis=1).real * term.weight
    return change


FOURIERFT = PeftMethod(
    peft_type="FOURIERFT",
    operator="fourierft",
    keys={"fourierft_spectrum": "spectrum"},
    bind=bind,
    formulas=(
        Formula(name="fourierft", delta=delta, prepare=prepare, arrays=True, null=("spectrum",)),
    ),
)
