"""Files of LoRA as kohya's sd-scripts, LyCORIS and diffusers write them, in PEFT's form.

One file may be for several models, its parts: text encoders and the model that makes pictures.
Every layer is scaled by alpha / rank; alpha is beside it, in the header of the file (diffusers), or
missing, which means the rank. kohya and LyCORIS write underscores for the dots in a layer's name:
then the base tells which layer it is.

LyCORIS applies a LoHa or LoKr once when it trains and runs (``forward``), which is what is taken
here. Its ``merge_to`` multiplies by alpha / rank twice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from modpkg.core.dtypes import FLOATS
from modpkg.core.errors import ConversionError
from modpkg.core.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from modpkg.core.files import write_atomically
from modpkg.core.jsonfile import json_text
from modpkg.core.packs import read_header, read_pack_header
from modpkg.interop.lora_names import MERGE, parsed
from modpkg.interop.module_names import (
    Shapes,
    UnknownModules,
    paths_of,
    weights_in_memory,
    weights_of,
    with_original_names,
)
from modpkg.release.base import Base

if TYPE_CHECKING:
    from torch import Tensor

FindBase = Callable[[], Base]
"""Return the release of the base that an adapter is for."""

_METADATA = "lora_adapter_metadata"
_NUMBERS = FLOATS | {"I16", "I32", "I64"}
_METHODS = {"lora": "LORA", "hada": "LOHA", "lokr": "LOKR"}


class _Layer(Struct):
    """One layer of a file: the names of its tensors by role."""

    name: str
    """As in the file, without the part."""
    tensors: dict[str, str]
    underscored: bool


class _Converted(Struct):
    """One layer in PEFT's form."""

    tensors: dict[str, Any]
    """By key of PEFT."""
    rank: int
    alpha: float
    divided: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    """(out, in) of the factors of a LoKr, without a kernel."""


def convert_lora_file(source: Path, out: Path, part: str | None, find: FindBase | None) -> None:
    """Write one part of a file as an adapter in PEFT's form.

    Args:
        source: The file.
        out: The folder that the adapter is written to.
        part: The part; may be left out if there is one.
        find: Returns the base. Without it only names with dots can be converted.

    Raises:
        ConversionError: PEFT has no such adapter, or the base does not tell the layers.
        PackError: The file is damaged.
        RegistryError, NotFound: The base is not found.
    """
    try:
        _Conversion(source, out, part, find).run()
    except UnknownModules as error:
        raise ConversionError("M801", path=source, reason=str(error)) from None


class _Conversion:
    """One conversion: the file, and what is known of it."""

    def __init__(self, source: Path, out: Path, part: str | None, find: FindBase | None) -> None:
        self._source = source
        self._out = out
        self._find = find
        self._types = read_pack_header(source)
        self._part, self._layers = self._chosen(part)
        self._method = self._only_method()
        self._config = self._own_config()
        self._base: Shapes = {}
        with_alpha = sum("alpha" in layer.tensors for layer in self._layers)
        if 0 < with_alpha < len(self._layers):
            raise self.refuse("some of its layers have an alpha and some do not")
        if not with_alpha and self._config is None and self._part == "model":
            raise self.refuse(
                "it has neither alphas nor a configuration that says how its layers are scaled"
            )

    def run(self) -> None:
        """Write the adapter."""
        from safetensors import safe_open
        from safetensors.torch import save_file

        paths = self._paths()
        converted: dict[str, _Converted] = {}
        convert = {"LORA": self._lora, "LOHA": self._loha, "LOKR": self._lokr}[self._method]
        with safe_open(self._source, "pt") as file:
            for layer in self._layers:
                given = {role: file.get_tensor(name) for role, name in layer.tensors.items()}
                if any(tensor.numel() == 0 for tensor in given.values()):
                    raise self.refuse(f"{layer.name!r} has a tensor without values")
                path = paths[layer.name]
                if path in converted:
                    raise self.refuse(f"{layer.name!r} and another of its names are for {path!r}")
                converted[path] = convert(layer, given, self._base.get(path))
        tensors = {
            f"base_model.model.{path}.{key}": tensor.contiguous()
            for path, each in converted.items()
            for key, tensor in each.tensors.items()
        }
        config = self._config or _config(self._method, converted)
        save_file(tensors, self._out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        write_atomically(self._out / ADAPTER_CONFIG, json_text(config))

    def refuse(self, reason: str) -> ConversionError:
        """Return the error for a file that has no counterpart in PEFT."""
        return ConversionError("M801", path=self._source, reason=reason)

    # What the file has -------------------------------------------------------------------------

    def _chosen(self, part: str | None) -> tuple[str, list[_Layer]]:
        """Return the part to convert, and its layers."""
        parts: dict[str, dict[str, _Layer]] = {}
        for name, tensor in self._types.items():
            own, path, role, underscored = parsed(self._source, name)
            if tensor.dtype not in (FLOATS if role != "alpha" else _NUMBERS):
                raise self.refuse(f"the dtype of {name!r} is {tensor.dtype}, not one to add with")
            layer = parts.setdefault(own, {}).setdefault(path, _Layer(path, {}, underscored))
            if role in layer.tensors:
                raise self.refuse(f"{layer.tensors[role]!r} and {name!r} are the same")
            layer.tensors[role] = name
        shown = ", ".join(sorted(parts))
        if not parts:
            raise self.refuse("it has no tensors")
        if part is None and len(parts) > 1:
            raise self.refuse(f"it is for several models; choose one by its part (--part): {shown}")
        chosen = min(parts) if part is None else part
        if chosen not in parts:
            raise self.refuse(f"it has no part {chosen!r}; it has {shown or 'none'}")
        return chosen, list(parts[chosen].values())

    def _only_method(self) -> str:
        """Return the ``peft_type`` of all layers."""
        methods: dict[str, str] = {}
        for layer in self._layers:
            for role, name in layer.tensors.items():
                stem = role[:4] if role[:4] in _METHODS else "lora"
                if role not in ("alpha", "magnitude"):
                    methods.setdefault(_METHODS[stem], name)
        if len(methods) != 1:
            examples = " and ".join(repr(name) for name in methods.values())
            several = f"an adapter of PEFT has one method, and this has {examples}; {MERGE}"
            raise self.refuse(several if methods else f"its part {self._part!r} has no layers")
        return next(iter(methods))

    def _own_config(self) -> dict[str, Any] | None:
        """Return the configuration that diffusers wrote into the file, if any."""
        try:
            header = msgspec.json.decode(
                read_header(self._source)[0][8:], type=dict[str, msgspec.Raw]
            )
            metadata = msgspec.json.decode(header.get("__metadata__", b"{}"), type=dict[str, str])
            if not metadata.get(_METADATA):
                return None
            table = msgspec.json.decode(metadata[_METADATA].encode(), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise self.refuse(f"{_METADATA} in its header is not valid") from None
        prefix = "" if self._part == "model" else f"{self._part}."
        own = {k.removeprefix(prefix): v for k, v in table.items() if k.startswith(prefix)}
        if not own:
            raise self.refuse(f"{_METADATA} in its header has nothing for {self._part!r}")
        if any("alpha" in layer.tensors for layer in self._layers):
            raise self.refuse(f"it has alphas and {_METADATA}, of which one counts")
        if own.get("peft_type", "LORA") != self._method:
            raise self.refuse(f"{_METADATA} in its header is for another method")
        return {"base_model_name_or_path": None, **own, "peft_type": self._method}

    def _paths(self) -> dict[str, str]:
        """Return the paths of the base's modules by the names of layers."""
        dotted = {layer.name: layer.name for layer in self._layers if not layer.underscored}
        names = {layer.name for layer in self._layers if layer.underscored}
        if not names:
            return dotted
        if self._find is None:
            raise self.refuse("its names have no dots, and without the base they tell no layer")
        base = self._find()
        label = f"{base.record.name} {base.record.version}"
        disk = weights_of(base.provides.tensors)
        try:
            self._base = disk
            return {**dotted, **paths_of(names, disk)}
        except UnknownModules as error:
            reason = f"the base {label} does not tell its layers: {error}"
        for shapes, own in (with_original_names(disk), weights_in_memory(label, base)):
            try:
                found = paths_of(names, shapes) if shapes else {}
            except UnknownModules:
                continue
            if found:
                self._base = {own(path): shape for path, shape in shapes.items()}
                return {**dotted, **{name: own(path) for name, path in found.items()}}
        raise self.refuse(reason)

    # Methods -----------------------------------------------------------------------------------

    def _lora(
        self, layer: _Layer, given: Mapping[str, Tensor], shape: tuple[int, ...] | None
    ) -> _Converted:
        self._require(layer, {"a", "b"}, {"mid", "alpha", "magnitude", "b_bias"})
        a, b = given["a"], given["b"]
        if a.ndim < 2 or b.ndim != a.ndim or b[0].numel() != b.shape[1] or b.shape[1] != a.shape[0]:
            raise self._misfit(layer, a, b)
        rank = a.shape[0]
        if "mid" in given:
            a = self._with_core(layer, a, b, given["mid"])
        if shape is not None and len(shape) != a.ndim:
            a, b = self._as_base(layer, a, b, shape)
        tensors = {"lora_A.weight": a, "lora_B.weight": b}
        if "b_bias" in given:
            tensors["lora_B.bias"] = given["b_bias"]
        if "magnitude" in given:
            magnitude = given["magnitude"]
            kohya = layer.tensors["magnitude"].endswith(".dora_scale")
            if magnitude.numel() != b.shape[0] or (kohya and magnitude.shape[0] != b.shape[0]):
                raise self.refuse(
                    f"{layer.tensors['magnitude']!r} has shape {list(magnitude.shape)}: PEFT has "
                    f"one magnitude for each of the {b.shape[0]} outputs"
                )
            ones = [1] * (a.ndim - 2)
            tensors["lora_magnitude_vector"] = (
                magnitude.reshape(1, -1, *ones) if ones else magnitude.flatten()
            )
        return _Converted(tensors, rank, self._alpha(layer, given, rank))

    def _with_core(self, layer: _Layer, a: Tensor, b: Tensor, core: Tensor) -> Tensor:
        """Return A with the core of a convolution (``lora_mid``) in it, in float64."""
        import torch

        rank = a.shape[0]
        if core.ndim != a.ndim or core.shape[:2] != (rank, rank) or a[0, 0].numel() != 1:
            raise self._misfit(layer, a, core)
        flat = a.double().reshape(rank, -1)
        return torch.einsum("pq...,qi->pi...", core.double(), flat)

    def _as_base(
        self, layer: _Layer, a: Tensor, b: Tensor, shape: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return A and B of a 1x1 convolution as matrices, or the reverse, as the base has it."""
        kernel = shape[2:] if len(shape) > 2 else tuple(a.shape[2:])
        if set(kernel) - {1} or (len(shape) > 2 and a.ndim > 2):
            raise self._misfit(layer, a, b)
        ones = (1,) * (len(shape) - 2)
        return (
            a.reshape(a.shape[0], a.shape[1], *ones),
            b.reshape(b.shape[0], b.shape[1], *ones),
        )

    def _loha(
        self, layer: _Layer, given: Mapping[str, Tensor], shape: tuple[int, ...] | None
    ) -> _Converted:
        factors = {f"hada_w{n}_{side}" for n in "12" for side in "ab"}
        cores = {"hada_t1", "hada_t2"} & given.keys()
        self._require(layer, factors | ({"hada_t1", "hada_t2"} if cores else set()), {"alpha"})
        if any(given[role].ndim != 2 for role in factors):
            raise self._misfit(layer, given["hada_w1_a"], given["hada_w1_b"])
        rank = given["hada_w1_b"].shape[0]
        tensors = {role: given[role] for role in factors | cores}
        if layer.underscored:
            tensors |= {role: _core(given[role]) for role in cores}
        return _Converted(tensors, rank, self._alpha(layer, given, rank))

    def _lokr(
        self, layer: _Layer, given: Mapping[str, Tensor], shape: tuple[int, ...] | None
    ) -> _Converted:
        required: set[str] = set()
        for n in "12":
            whole = f"lokr_w{n}" in given
            required |= {f"lokr_w{n}"} if whole else {f"lokr_w{n}_a", f"lokr_w{n}_b"}
        core = {"lokr_t2"} if "lokr_t2" in given and "lokr_w2" not in given else set()
        self._require(layer, required | core, {"alpha"})
        tensors = {role: given[role] for role in required | core}
        if any(tensor.ndim < 2 for tensor in tensors.values()):
            raise self._misfit(layer, *list(tensors.values())[:2])
        if layer.underscored:  # names with dots are from PEFT, by way of diffusers
            if core:
                tensors["lokr_t2"] = _core(tensors["lokr_t2"])
            elif "lokr_w2_b" in tensors:
                tensors["lokr_w2_b"] = tensors["lokr_w2_b"].flatten(1)
            elif tensors["lokr_w2"].ndim != 4 or (shape is not None and len(shape) == 2):
                # PEFT pairs the axes of a factor with three in another way.
                tensors["lokr_w2"] = tensors["lokr_w2"].flatten(1)
        ranks = {tensors[role].shape[0] for role in ("lokr_w1_b", "lokr_w2_b") if role in tensors}
        if len(ranks) > 1:
            raise self.refuse(f"the factors of {layer.name!r} have several ranks")
        divided = _divided(tensors, max(1, math.prod((shape or ())[2:])))
        if not ranks:  # LyCORIS: the scale is 1 if both factors are whole, whatever alpha says
            rank = max(extent for pair in divided for extent in pair)
            return _Converted(tensors, rank, float(rank), divided)
        rank = ranks.pop()
        return _Converted(tensors, rank, self._alpha(layer, given, rank), divided)

    def _require(self, layer: _Layer, required: set[str], optional: set[str]) -> None:
        """Check that a layer has these tensors and no others."""
        if missing := required - layer.tensors.keys():
            one = min(layer.tensors.values())
            raise self.refuse(f"beside {one!r} there is no {_key(min(missing))!r}")
        if other := layer.tensors.keys() - required - optional:
            name = layer.tensors[min(other)]
            method = self._method
            raise self.refuse(
                f"its {name!r} is DoRA of a {method}, which PEFT does not have; {MERGE}"
                if "magnitude" in other
                else f"its {name!r} does not belong to its {method}"
            )

    def _misfit(self, layer: _Layer, one: Tensor, other: Tensor) -> ConversionError:
        return self.refuse(
            f"the tensors of {layer.name!r} do not fit together: {list(one.shape)} and "
            f"{list(other.shape)}"
        )

    def _alpha(self, layer: _Layer, given: Mapping[str, Tensor], rank: int) -> float:
        """Return the alpha of a layer; it is the rank where the file has none."""
        if "alpha" not in given:
            return float(rank)
        if given["alpha"].numel() != 1:
            raise self.refuse(f"{layer.tensors['alpha']!r} is not one number")
        alpha = float(given["alpha"].double().item())
        if not math.isfinite(alpha) or alpha == 0:
            # Trained with alpha 0 a layer has its rank there; what reads a 0 takes it for either.
            raise self.refuse(f"{layer.tensors['alpha']!r} is {alpha}, which is no scale")
        return alpha


def _core(tensor: Tensor) -> Tensor:
    """Return the core of a convolution as PEFT has it: in one dimension with a second one."""
    return tensor.unsqueeze(-1) if tensor.ndim == 3 else tensor


def _divided(tensors: Mapping[str, Tensor], kernel: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (out, in) of both factors of a LoKr; ``kernel`` is the size of the base's."""
    sizes = []
    for n in "12":
        if (whole := tensors.get(f"lokr_w{n}")) is not None:
            out, inner, size = whole.shape[0], whole.shape[1], math.prod(whole.shape[2:])
        else:
            one, other = tensors[f"lokr_w{n}_a"], tensors[f"lokr_w{n}_b"]
            core = n == "2" and "lokr_t2" in tensors
            out, inner, size = one.shape[1 if core else 0], other.shape[1], kernel if core else 1
        flat = n == "2" and size == 1 and inner % kernel == 0
        sizes.append((out, inner // kernel if flat else inner))
    return sizes[0], sizes[1]


def _key(role: str) -> str:
    return {"a": "lora_down", "b": "lora_up", "mid": "lora_mid"}.get(role, role)


def _config(method: str, layers: Mapping[str, _Converted]) -> dict[str, Any]:
    """Return PEFT's configuration of layers that have a scale each."""
    rank = Counter(layer.rank for layer in layers.values()).most_common()[0][0]
    alphas = {path: layer.alpha for path, layer in layers.items()}
    alpha = Counter(alphas.values()).most_common()[0][0]
    dora = any("lora_magnitude_vector" in layer.tensors for layer in layers.values())
    bias = any("lora_B.bias" in layer.tensors for layer in layers.values())
    return {
        "peft_type": method,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha" if method == "LORA" else "alpha": alpha,
        "rank_pattern": {
            f"^{re.escape(path)}": layer.rank
            for path, layer in layers.items()
            if layer.rank != rank
        },
        "alpha_pattern": {
            f"^{re.escape(path)}": own for path, own in alphas.items() if own != alpha
        },
        "target_modules": sorted(layers),
        **({"use_dora": dora, "lora_bias": bias, "bias": "none"} if method == "LORA" else {}),
        **_decomposition(method, layers),
    }


def _decomposition(method: str, layers: Mapping[str, _Converted]) -> dict[str, Any]:
    """Return what PEFT needs to know of how factors are divided, to make them of these shapes."""
    if method == "LORA":
        return {}
    cores = any(key.endswith(("_t1", "_t2")) for each in layers.values() for key in each.tensors)
    if method == "LOHA":
        return {"use_effective_conv2d": cores}
    divided = [each.divided for each in layers.values()]
    factors = sorted({-1, *(max(first) for first, _ in divided)})
    return {
        "decompose_both": any("lokr_w1_a" in each.tensors for each in layers.values()),
        "decompose_factor": next(
            (f for f in factors if all(_divides(f, *pair) for pair in divided)), -1
        ),
        "use_effective_conv2d": cores,
    }


def _divides(factor: int, first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Return whether PEFT divides a LoKr's outputs and inputs in this way, with this factor."""
    pairs = zip(first, second, strict=True)
    return all(_division(one * other, factor) == one for one, other in pairs)


def _division(extent: int, factor: int) -> int:
    """Return the first number of `peft.tuners.lokr.layer.factorization`."""
    if factor > 0 and extent % factor == 0:
        return factor
    most = math.isqrt(extent) if factor < 0 else min(factor, math.isqrt(extent))
    return next(number for number in range(most, 0, -1) if extent % number == 0)
