"""Loading an installed model as a ``torch.nn.Module`` with memory-mapped parameters."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modpkg.adapters.quantised import method_of, quantised
from modpkg.compose.backing import backed_by, parts_bounded
from modpkg.compose.confinement import confined
from modpkg.compose.mapping import DTYPE_NAMES, map_tensors
from modpkg.core.errors import EnvironmentDamaged, MissingExtra, RunError
from modpkg.core.installed import TensorRef, read_model
from modpkg.core.packs import read_pack_header
from modpkg.core.printable import error_text
from modpkg.core.records import TensorType
from modpkg.runtime.architecture import model_class
from modpkg.runtime.attention import choose_attention, not_with_attention
from modpkg.runtime.generation_config import add_generation_config
from modpkg.runtime.placement import Placement, StoredTensors, device_of
from modpkg.runtime.sentence_encoder import encoder_parts
from modpkg.runtime.sentence_modules import split_tensors
from modpkg.runtime.shared_parameters import SHARED
from modpkg.runtime.virtual_tokens import attach

_QUANTISERS = ("bitsandbytes", "gptq", "awq", "compressed-tensors", "hqq", "quanto", "aqlm")
"""Formats that an installed package runs, by ``quant_method``."""
_DEQUANTISED = ("fp8", "mxfp4")
"""Formats that transformers itself reads in full precision."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Those that a model may be run in."""

_CLASSIFIER = re.compile(r"For(?:\w+Classification|QuestionAnswering)$")
_OTHER_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|cls|pooler)\.|^decoder\.(?:weight|bias)$")
"""The output layers and poolers that models of language and of pictures have."""


def load_model(
    folder: Path,
    packs: Path,
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    share: bool = False,
) -> torch.nn.Module:
    """Return the model in ``folder``, in evaluation mode.

    Parameters are views on private mappings of the packs: nothing is randomly initialised or
    downloaded, only small tensors of equal content are copied, for each parameter has memory of its
    own; and training does not change the files. Only tensors of another dtype than
    ``config.json`` names, or for which the architecture keeps float32, are converted, as
    transformers does. Loading is strict: every parameter gets a tensor, and every tensor is used.
    On another device than the CPU parameters are read straight into its memory. With ``share`` they
    are frozen, and those whose stored tensor, dtype and device another model of this process has
    are in its memory. Of a sentence-transformers model this is the transformer; `embed` runs the
    modules after it.

    Raises:
        RunError: Config and weights do not match, or the architecture is unknown.
        MissingExtra: Transformers is not installed.
        EnvironmentDamaged: The model's record is missing or invalid, or a pack was written over.
        PackError: A pack is missing or damaged.
    """
    place = None if device is None else device_of(device)
    record = read_model(folder)
    own, _ = split_tensors(record.name, folder, record.tensors)
    tensors = map_tensors(own.items(), packs, apart=True)
    _check_headers(record.tensors.values(), packs)
    chosen = _dtype(dtype)
    with contextlib.ExitStack() as stack:
        placement = None
        if share or (place is not None and place.type != "cpu"):
            placement = Placement(
                record.name,
                place or torch.device("cpu"),
                StoredTensors(tensors, own, packs),
                shared=SHARED if share else None,
            )
            stack.enter_context(placement)
        model = build_model(
            record.name, folder, tensors, chosen, attention=attn_implementation, placement=placement
        )
    if record.prompt is not None:
        tensors = map_tensors(record.prompt.tensors.items(), packs)
        attach(record.name, model, record.prompt, tensors)
    return model


def _check_headers(refs: Collection[TensorRef], packs: Path) -> None:
    """Check that the headers of packs still have these tensors where they were.

    A folder of ``modpkg.path`` may link a pack, and another program may write into it all the same.
    Bytes are not hashed.

    Raises:
        EnvironmentDamaged: A header has other tensors.
        PackError: A pack is missing or damaged.
    """
    held = {
        file: {
            (place.offset, place.length, place.dtype)
            for place in read_pack_header(packs / file).values()
        }
        for file in {ref.file for ref in refs}
    }
    for ref in refs:
        if (ref.offset, ref.length, ref.dtype) not in held[ref.file]:
            raise EnvironmentDamaged(
                "M506",
                path=packs / ref.file,
                reason="another program wrote into it",
                remedy="'modpkg store verify' repairs it",
            )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype that may be given by its name.

    Raises:
        RunError: It is not one of floating-point numbers.
    """
    if dtype is None or dtype == "auto":
        return None
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in _DTYPES:
        names = ", ".join(repr(str(kind).removeprefix("torch.")) for kind in _DTYPES)
        reason = f"a model is run in one of 'auto', {names}"
        raise RunError("M709", choice=f"dtype {dtype!r}", reason=reason)
    return found


def build_model(
    name: str,
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None = None,
    *,
    attention: str | None = None,
    placement: Placement | None = None,
) -> torch.nn.Module:
    """Return the model that the configs in ``folder`` describe, with these tensors.

    They are converted to ``dtype``, but for those that the architecture keeps in float32.

    Args:
        name: The model's name, for errors.
        folder: The folder with its configs.
        tensors: Its tensors.
        dtype: None for the one of ``config.json``.
        attention: The attention to use, as transformers names it; None for transformers' choice.
        placement: What puts the model on a device; None if the tensors stay where they are.

    Raises:
        RunError: Config and tensors do not match, or the architecture is unknown; or the attention
            or the device cannot be used.
        MissingExtra: Transformers is not installed.
    """
    cls, config = model_class(name, folder)
    cls, tensors = encoder_parts(name, cls, config, tensors)
    if attention is not None:
        choose_attention(name, cls, config, attention)
    with _default_dtype(tensors, config, dtype):
        _set_dtype(config, torch.get_default_dtype())
        model = None
        settings = _quantisation(config)
        if settings is None:
            convert = torch.Tensor.to if placement is None else placement.convert
            model = _by_assignment(name, cls, config, tensors, convert)
        else:
            config.quantization_config = _quantiser(name, settings, tensors)
        if model is None:
            if placement is not None:
                placement.read_from_memory()
            model = _by_transformers(name, cls, config, tensors)
    if placement is not None:
        placement.place(model)
    model.eval()
    add_generation_config(name, model, folder)
    return model


def _set_dtype(config: Any, dtype: torch.dtype) -> None:
    """Set the dtype in a config and in those within it: models build their parts by them."""
    config.dtype = dtype
    for key in getattr(config, "sub_configs", None) or {}:
        if (part := getattr(config, key, None)) is not None:
            _set_dtype(part, dtype)


@contextlib.contextmanager
def _default_dtype(
    tensors: Mapping[str, torch.Tensor], config: Any, dtype: torch.dtype | None
) -> Iterator[None]:
    """Set torch's default dtype to ``dtype``, or that of the model that is built.

    It is the one that ``config.json`` names, to which other tensors are converted, as transformers
    does; where it names none, that of the first tensor by name.
    """
    stored = [tensor.dtype for _, tensor in sorted(tensors.items()) if tensor.dtype in _DTYPES]
    before = torch.get_default_dtype()
    named = getattr(config, "dtype", None)
    if dtype is not None:
        torch.set_default_dtype(dtype)
    elif isinstance(named, torch.dtype) and named.is_floating_point:
        torch.set_default_dtype(named)
    elif stored:
        torch.set_default_dtype(stored[0])
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _by_assignment(
    name: str,
    cls: Any,
    config: Any,
    tensors: Mapping[str, torch.Tensor],
    convert: Callable[[torch.Tensor, torch.dtype], torch.Tensor],
) -> torch.nn.Module | None:
    """Build the model without initialising weights, and assign the tensors to its parameters.

    Works if the tensors have the model's parameter names, with or without the base model's prefix.
    ``convert`` returns a tensor for a parameter of a dtype, which may be converted later. Returns
    None if transformers has to convert names or layouts.

    Raises:
        RunError: Two tensors are for the same parameter, or the config is invalid.
    """
    from transformers.initialization import no_init_weights

    try:
        with no_init_weights(), confined(), backed_by(name, cls, config, tensors):
            model: Any = cls(config)
    except RunError:
        raise
    except Exception as error:  # transformers' constructors raise errors of many types
        if (refused := not_with_attention(name, config, str(error))) is not None:
            raise refused from None
        if isinstance(error, ImportError):
            text = " ".join(str(error).split())[:300]
            raise MissingExtra("M723", name=name, reason=text) from None
        text = error_text(error)
        raise RunError("M704", name=name, reason=f"config.json is invalid ({text})") from None
    wanted = set(model.state_dict().keys())
    placed: dict[str, torch.Tensor] = {}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for disk, tensor in tensors.items():
        for candidate in (disk, prefix + disk, disk.removeprefix(prefix)):
            if candidate in wanted:
                if candidate in placed:
                    reason = f"{disk!r} exists with and without the prefix {prefix!r}"
                    raise RunError("M704", name=name, reason=reason)
                placed[candidate] = tensor
                break
        else:
            if not _may_be_left_out(model, disk):
                return None
    dtypes = _dtypes(model, wanted)
    for place, stored in placed.items():
        owner, _, attribute = place.rpartition(".")
        module = model.get_submodule(owner)
        if getattr(module, attribute).shape != stored.shape:
            return None
        tensor = placed[place] = convert(stored, dtypes[place]) if place in dtypes else stored
        if attribute in module._parameters:
            floating = tensor.is_floating_point()
            module._parameters[attribute] = torch.nn.Parameter(tensor, requires_grad=floating)
        else:
            module._buffers[attribute] = tensor
    model.tie_weights()
    # After tying weights, every parameter must still hold a mapped tensor, and a tensor may only
    # have been replaced by an equal one.
    mapped = {tensor.data_ptr() for tensor in placed.values()}
    for place, value in model.state_dict(keep_vars=True).items():
        if value.numel() and value.data_ptr() not in mapped:
            return None
        own = placed.get(place)
        if own is None or own.data_ptr() == value.data_ptr():
            continue
        kind = dtypes.get(place, own.dtype)
        if not torch.equal(own.to(kind), value.to(kind)):
            reason = f"config.json ties {place!r} to another tensor, but the two differ"
            raise RunError("M704", name=name, reason=reason)
    return model  # type: ignore[no-any-return]


def _dtypes(model: Any, places: Collection[str]) -> dict[str, torch.dtype]:
    """Return the dtype that transformers gives to each parameter and buffer.

    It is the default dtype, but where the architecture is built in another or keeps float32.
    """
    kept = model._get_dtype_plan(torch.get_default_dtype())
    pattern = re.compile("|".join(name.replace("*", ".*") for name in kept)) if kept else None
    dtypes = {}
    for place, value in model.state_dict().items():
        strict = pattern is not None and pattern.search(place) is not None
        dtypes[place] = torch.float32 if strict and value.is_floating_point() else value.dtype
    return {place: dtype for place, dtype in dtypes.items() if place in places}


def _may_be_left_out(model: Any, name: str) -> bool:
    """Return whether the architecture ignores tensors of this name, of those that it lacks.

    It declares some; and a classifier does not use the output layer or pooler of its base.
    """
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    if _CLASSIFIER.search(type(model).__name__) and _OTHER_HEAD.search(name):
        return True
    return any(re.search(pattern, name) for pattern in patterns)


def _by_transformers(
    name: str, cls: Any, config: Any, tensors: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """Load with transformers, which converts names and layouts.

    Raises:
        RunError: Tensors are missing, unexpected or of other shapes.
    """
    try:
        with confined(), parts_bounded(name, len(tensors)):
            model, info = cls.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                dtype=torch.get_default_dtype(),
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
            )
    except RunError:
        raise
    except Exception as error:  # quantisers and conversions raise errors of many types
        text = " ".join(str(error).split())[:300].rstrip(".")
        if (settings := getattr(config, "quantization_config", None)) is not None:
            raise _not_here(name, settings, tensors, text) from None
        raise RunError("M704", name=name, reason=text) from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, info[what]))
        if what == "unexpected_keys":
            keys = [key for key in keys if not _may_be_left_out(model, key)]
        if keys:
            reason = f"{what.replace('_', ' ')}: {', '.join(keys[:3])}"
            raise RunError("M704", name=name, reason=reason)
    return model  # type: ignore[no-any-return]


def _quantisation(config: Any) -> Any:
    """Return the settings by which a model is quantised, where transformers looks for them."""
    own = getattr(config, "quantization_config", None)
    return own or getattr(config.get_text_config(decoder=True), "quantization_config", None)


def _not_here(
    name: str, settings: Any, tensors: Mapping[str, torch.Tensor], reason: str
) -> RunError:
    """Return the error for a model that says it is quantised, and cannot be loaded here."""
    types = {
        tensor: TensorType(DTYPE_NAMES.get(value.dtype, ""), list(value.shape))
        for tensor, value in tensors.items()
    }
    stored = quantised(types, {"quantization_config": settings})
    if stored is not None and stored.tensor:
        how = " ('modpkg import hf --dequantize')" if stored.known else ""
        remedy = f"Install what it needs, or import the model in full precision{how}."
    else:
        remedy = (
            "Its tensors are in full precision: take quantization_config out of its config.json "
            "and import it again, or install what quantises it when it is loaded."
        )
    form = method_of(settings)
    return RunError("M722", name=name, form=form, reason=reason, remedy=remedy)


def _quantiser(name: str, settings: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the settings with which transformers runs a quantised model.

    Formats that it would run with kernels from a hub are read in full precision instead: no code is
    fetched.

    Raises:
        RunError: The format is not one that an installed package runs.
    """
    method = method_of(settings)
    if not isinstance(settings, dict) or method not in (*_QUANTISERS, *_DEQUANTISED):
        reason = "no installed package is known to run this format"
        raise _not_here(name, settings, tensors, reason)
    return {**settings, "dequantize": True} if method in _DEQUANTISED else settings
