"""Quantised weights of a folder, and the file of full precision that they make."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.digests import file_chunks
from modpkg.core.errors import ConversionError
from modpkg.core.filenames import CONFIG, WEIGHTS
from modpkg.core.files import write_atomically
from modpkg.core.installed import TensorRef
from modpkg.core.jsonfile import json_text, read_json
from modpkg.core.packs import pack_chunks, read_pack_header
from modpkg.core.tensors import DTypeShape, types_of
from modpkg.interop.dequantise import dequantised
from modpkg.interop.dequantise.weight import Weight

_QUANTIZATION = "quantization_config"


class FullPrecision(Struct, frozen=True):
    """What a quantised model's tensors become."""

    made: dict[str, Weight]
    """Weights that are computed, by name."""
    kept: dict[str, TensorRef]
    """Tensors that stay as they are."""

    def types(self) -> dict[str, DTypeShape]:
        """Return dtype and shape of every tensor of the result."""
        return {
            name: (weight.dtype, weight.shape) for name, weight in self.made.items()
        } | types_of(self.kept)

    def without(self, names: Collection[str]) -> FullPrecision:
        """Return the same without some tensors."""
        return FullPrecision(
            {name: weight for name, weight in self.made.items() if name not in names},
            {name: ref for name, ref in self.kept.items() if name not in names},
        )


def refs_of(source: Path, files: Collection[str]) -> dict[str, TensorRef]:
    """Return the tensors in a folder's files of weights, by name; their digests are not computed.

    Raises:
        PackError: A file is damaged.
    """
    return {
        name: TensorRef(
            file=str(real),
            offset=place.offset,
            length=place.length,
            dtype=place.dtype,
            shape=list(place.shape),
            digest="",
        )
        for real in ((source / file).resolve() for file in files)
        for name, place in read_pack_header(real).items()
    }


def full_precision(config: Mapping[str, Any], refs: Mapping[str, TensorRef]) -> FullPrecision:
    """Return what the tensors of a quantised model become in full precision.

    Raises:
        ValueError: They have no exact definition here.
    """
    from modpkg.compose.mapping import map_tensors

    def read(name: str) -> Any:
        return map_tensors([(name, refs[name])])[name]

    made, kept = dequantised(config, types_of(refs), read)
    names = [weight.name for weight in made]
    if len(set(names)) != len(names) or set(names) & set(kept):
        raise ValueError("two tensors make one weight")
    return FullPrecision({w.name: w for w in made}, {name: refs[name] for name in kept})


def write_full_precision(source: Path, staged: Path, weights: FullPrecision) -> None:
    """Write the weights as one file, each computed when it is written, and mend the config.

    Raises:
        ConversionError: A weight turns out to have no exact definition.
    """
    try:
        data = {name: _bytes(weight) for name, weight in weights.made.items()}
        data |= {
            name: file_chunks(Path(ref.file), ref.offset, ref.length)
            for name, ref in weights.kept.items()
        }
        write_atomically(staged / WEIGHTS, pack_chunks(weights.types(), data))
    except ValueError as error:
        raise ConversionError(
            "M801", path=source, reason=f"its weights cannot be dequantised exactly: {error}"
        ) from None
    config = read_json(staged / CONFIG)
    config.pop(_QUANTIZATION, None)
    write_atomically(staged / CONFIG, json_text(config))


def _bytes(weight: Weight) -> Iterator[bytes]:
    import torch

    tensor = weight.compute().contiguous()
    if tuple(tensor.shape) != weight.shape:
        raise ValueError(f"{weight.name!r} has shape {list(tensor.shape)}")
    yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
