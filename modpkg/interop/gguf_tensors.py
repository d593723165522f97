"""The accounts of a GGUF file's tensors: each fills its place in the model, and no place is empty.

transformers' reader drops tensors that it does not know, and draws at random what a file lacks. The
accounts are made on a model without memory, before any tensor is read: settings that do not belong
to the tensors cannot exhaust memory either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from typing import Any

from modpkg.core.lazy_numpy import np
from modpkg.interop.gguf_header import GgufHeader, damaged
from modpkg.interop.gguf_rope import FACTOR_TENSORS

_SHOWN = 3


def check_tensors(model: Any, header: GgufHeader) -> list[str]:
    """Check that a model on the meta device and a file need each other entirely.

    Returns:
        Tensors that the architecture in transformers declares to ignore.

    Raises:
        ConversionError: A tensor is missing, left over, of a type that transformers cannot
            dequantise, or of another size than its place.
    """
    places, sources = _places(model, header)
    names, sizes = _parameters(model)
    ignored = [name for name, place in places.items() if _ignorable(model, place)]
    over = [
        name
        for name, place in places.items()
        if (place is None or place not in names)
        and name not in ignored
        and name not in FACTOR_TENSORS
    ]
    if over:
        raise damaged(
            header.path,
            f"it has {len(over)} tensor(s) that {type(model).__name__} has no place for: "
            f"{_some(over)}; import the model that it was made from",
        )
    _check_types(header, new_reader=not sources)
    filled: dict[int, int] = {}
    for name, place in places.items():
        if place is not None and place in names:
            key = names[place]
            filled[key] = filled.get(key, 0) + header.tensors[name].count
    missing = {
        source
        for place, key in names.items()
        if filled.get(key, 0) < sizes[key]
        for source in sources.get(place, (place,))
        if source not in header.tensors and (key not in filled or place in sources)
    }
    if missing:
        shown = sorted(_gguf_name(name, model, header) for name in missing)
        raise damaged(
            header.path,
            f"it lacks {len(missing)} tensor(s) that {type(model).__name__} needs: "
            f"{_some(shown)}; it is incomplete, or not a whole model",
        )
    for name, place in places.items():
        if place is not None and place in names and filled[names[place]] != sizes[names[place]]:
            raise damaged(
                header.path,
                f"its tensor {name[:80]!r} has {list(header.tensors[name].shape)}, which does not "
                f"fill {place!r} of {type(model).__name__}",
            )
    return ignored


def _check_types(header: GgufHeader, *, new_reader: bool) -> None:
    """Refuse by name a type that the reader of the architecture cannot dequantise."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    known: set[str] | None = None
    if new_reader:
        from transformers.integrations.gguf.dequant import GGML_NAME

        known = {"F32", "F16", "BF16", *GGML_NAME.values()}
    for kind, name in {tensor.type: tensor.name for tensor in header.tensors.values()}.items():
        readable = known is None or kind in known
        if known is None and kind != "F32":
            number = GGMLQuantizationType[kind]
            try:
                dequantize(np.zeros((1, GGML_QUANT_SIZES[number][1]), np.uint8), number)
            except NotImplementedError:
                readable = False
        if not readable:
            raise damaged(
                header.path,
                f"its tensor {name[:80]!r} has the type {kind}, which transformers cannot "
                "dequantise for this architecture; quantise the model in another way",
            )


def _parameters(model: Any) -> tuple[dict[str, int], dict[int, int]]:
    """Return an identity by name, equal for tied tensors, and the number of elements of each."""
    names: dict[str, int] = {}
    sizes: dict[int, int] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names[name] = id(tensor)
        sizes[id(tensor)] = prod(tensor.shape)
    return names, sizes


def _places(model: Any, header: GgufHeader) -> tuple[dict[str, str | None], dict[str, list[str]]]:
    """Return the place of each tensor in the model (None: it has none), and what fills each place.

    The second is empty for transformers' new reader, which only knows the first direction.
    """
    architecture = str(header.text("general.architecture"))
    mapping = _conversions(model, architecture)
    if mapping is not None:
        return _renamed(mapping, header), {}
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    known: dict[str, str] = get_gguf_hf_weights_map(model, processor)
    if architecture == "gpt2":  # the reader puts it there itself
        known["output.weight"] = "lm_head.weight"
    experts = getattr(processor, "GGUF_MOE_WEIGHTS_PATTERN", None)
    if experts is not None:
        known |= {
            f"{name}.weight": place
            for name, place in known.items()
            if experts.fullmatch(f"{name}.weight")
        }
    sources: dict[str, list[str]] = {}
    for name, place in known.items():
        if experts is None or not experts.fullmatch(f"{name}.weight"):
            sources.setdefault(place, []).append(name)
    return {name: known.get(name) for name in header.tensors}, sources


def _conversions(model: Any, architecture: str) -> list[Any] | None:
    """Return the conversions of transformers' new reader; None if it has none for it."""
    try:
        from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
    except ImportError:  # an older transformers
        return None
    builder = GGUF_ARCHS.get(architecture)
    return None if builder is None else list(builder(model.config))


def _renamed(mapping: Iterable[Any], header: GgufHeader) -> dict[str, str | None]:
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        rename_source_key,
    )

    entries = list(mapping)
    renamings = [entry for entry in entries if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in entries if isinstance(entry, WeightConverter)]
    return {name: rename_source_key(name, renamings, converters)[0] for name in header.tensors}


def _ignorable(model: Any, place: str | None) -> bool:
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return place is not None and any(re.search(pattern, place) for pattern in patterns)


def _gguf_name(place: str, model: Any, header: GgufHeader) -> str:
    """Return the name in GGUF of a parameter, if gguf knows one, for a message."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    written = header.text("general.architecture")
    for architecture, name in MODEL_ARCH_NAMES.items():
        if name == written:
            names = get_tensor_name_map(architecture, model.config.num_hidden_layers)
            for suffix in (".weight", ".bias", ""):
                if place.endswith(suffix) and (found := names.get_name(place.removesuffix(suffix))):
                    return f"{found}{suffix}"
    return place


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and others"
