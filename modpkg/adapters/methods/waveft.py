"""WaveFT: single coefficients of a weight's wavelet transform, or of the weight itself.

    delta = scaling · IDWT(S)        S[p, q] = spectrum

at positions that PEFT draws from ``random_loc_seed`` when it loads the adapter. S has four bands,
of lower and higher frequencies in rows and columns. Bilican et al. 2025,
https://arxiv.org/abs/2505.12532.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.changes import Adapter, Site, TensorChange
from modpkg.adapters.formula import BaseRows, Coefficients, Formula
from modpkg.adapters.method import PeftMethod
from modpkg.adapters.methods.fourierft import positions, spectral_changes
from modpkg.adapters.peft_config import check_keys, choice, number
from modpkg.adapters.wavelets import WAVELETS, high_pass
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.adapters.formula import Array

_READ = ("scaling", "random_loc_seed", "fan_in_fan_out", "use_idwt", "wavelet_family")
_TRAINING = (
    *("n_frequency", "n_frequency_pattern", "proportional_parameters", "init_weights", "bias"),
)


def bind(adapter: Adapter, sites: Sequence[Site], shared: Mapping[str, str]) -> list[TensorChange]:
    """Return the change to each site's weight."""
    check_keys(adapter, reads=_READ, ignores=_TRAINING)
    settings = {}
    if adapter.config.get("use_idwt", True):
        settings["wavelet"] = choice(adapter, "wavelet_family", "db1", WAVELETS)
    return spectral_changes(adapter, sites, "waveft", number(adapter, "scaling", 25.0), settings)


def prepare(inputs: Mapping[str, Array], term: Coefficients, source: BaseRows) -> Mapping[str, Any]:
    """Return the values with their places: in the weight, or in which band and where there.

    ``rows`` are of the weight as it is stored, and so are ``skip``, the rows and columns of the
    transform before the weight's first.
    """
    shape, rows, columns = positions(inputs, term, source)
    values = inputs["spectrum"]
    if "wavelet" not in term.parameters:
        if term.parameters.get("transposed"):
            rows, columns = columns, rows
        return {"rows": rows, "columns": columns, "values": values}
    length = len(WAVELETS[term.parameters["wavelet"]])
    # PEFT enlarges the matrix by what the transform takes away, and to even extents.
    padded = [extent + length - 2 + (extent + length) % 2 for extent in shape]
    halves = [extent // 2 for extent in padded]
    rows = rows + (padded[0] - shape[0]) // 2
    columns = columns + (padded[1] - shape[1]) // 2
    upper, left = rows < halves[0], columns < halves[1]
    rows, columns = rows % halves[0], columns % halves[1]
    # PEFT names the band at the right the one of higher frequencies in rows, and so on.
    high_rows, high_columns = ~left, ~upper
    # What remains after the filter is cut off at both sides, and then to the weight's extents.
    cut = (2 * length - 3) // 2
    skip = [
        cut + (2 * half + length - 2 - 2 * cut - extent) // 2
        for half, extent in zip(halves, shape, strict=True)
    ]
    if term.parameters.get("transposed"):
        rows, columns, high_rows, high_columns = columns, rows, high_columns, high_rows
        skip, halves = skip[::-1], halves[::-1]
    bands = {"high_rows": high_rows, "high_columns": high_columns}
    extents = {"skip": np.array(skip), "halves": np.array(halves)}
    return {"rows": rows, "columns": columns, "values": values, **bands, **extents}


def delta(
    inputs: Mapping[str, Any], term: Coefficients, start: int, stop: int, source: BaseRows
) -> Array:
    """Return rows of weight · IDWT(S), or of weight · S."""
    rows, columns, values = inputs["rows"], inputs["columns"], inputs["values"]
    if "high_rows" not in inputs:
        change: Array = np.zeros((stop - start, source.columns))
        here = (rows >= start) & (rows < stop)
        change[rows[here] - start, columns[here]] = values[here] * term.weight
        return change
    low = np.array(WAVELETS[term.parameters["wavelet"]])
    filters = np.stack([low, high_pass(low)])
    first, last = start + inputs["skip"][0], stop + inputs["skip"][0]
    half = int(inputs["halves"][1])
    bands = np.zeros((2, stop - start, half))
    for tap in range(len(low)):
        place = 2 * rows + tap
        here = (place >= first) & (place < last)
        factors = filters[inputs["high_rows"][here].astype(int), tap]
        band = inputs["high_columns"][here].astype(int)
        np.add.at(bands, (band, place[here] - first, columns[here]), factors * values[here])
    whole = np.zeros((stop - start, 2 * half + len(low) - 2))
    for tap in range(len(low)):
        whole[:, tap : tap + 2 * half : 2] += bands[0] * filters[0, tap]
        whole[:, tap : tap + 2 * half : 2] += bands[1] * filters[1, tap]
    skip = int(inputs["skip"][1])
    return whole[:, skip : skip + source.columns] * term.weight


WAVEFT = PeftMethod(
    peft_type="WAVEFT",
    operator="waveft",
    keys={"waveft_spectrum": "spectrum"},
    bind=bind,
    formulas=(
        Formula(name="waveft", delta=delta, prepare=prepare, arrays=True, null=("spectrum",)),
    ),
)
