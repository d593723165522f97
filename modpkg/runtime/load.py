"""Loading: an installed model as a ``torch.nn.Module`` whose parameters are mapped from packs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modpkg.compose.mapping import map_tensors
from modpkg.core.errors import RunError
from modpkg.core.filenames import GENERATION_CONFIG
from modpkg.core.installed import read_model
from modpkg.runtime.architecture import model_class
from modpkg.runtime.sentence import apart
from modpkg.runtime.virtual import attach


def load_model(folder: Path, packs: Path) -> torch.nn.Module:
    """Return the model in ``folder``, in evaluation mode.

    Parameters keep the dtype they have on disk and are views on private mappings of the packs:
    nothing is copied, initialised at random or fetched, and training does not reach the files.
    Strict: every parameter gets its tensor, and every tensor is a parameter's; of a
    sentence-transformers model it is the transformer, and `embed` does the rest.

    Raises:
        RunError, MissingExtra, EnvironmentDamaged.
    """
    record = read_model(folder)
    own, _ = apart(record.name, folder, record.tensors)
    model = build_model(record.name, folder, map_tensors(own.items(), packs))
    if record.prompt is not None:
        tensors = map_tensors(record.prompt.tensors.items(), packs)
        attach(record.name, model, record.prompt, tensors)
    return model


def build_model(name: str, folder: Path, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return the model that the configuration in ``folder`` describes, of these tensors.

    Raises:
        RunError, MissingExtra.
    """
    cls, config = model_class(name, folder)
    with _dtype_of(tensors):
        model = _by_assignment(name, cls, config, tensors)
        if model is None:
            model = _by_transformers(name, cls, config, tensors)
    model.eval()
    _add_generation_config(model, folder)
    return model


@contextlib.contextmanager
def _dtype_of(tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Build the architecture in the weights' commonest floating dtype."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.numel()
    before = torch.get_default_dtype()
    if sizes:
        torch.set_default_dtype(max(sizes, key=lambda dtype: sizes[dtype]))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _by_assignment(
    name: str, cls: Any, config: Any, tensors: Mapping[str, torch.Tensor]
) -> torch.nn.Module | None:
    """Build the model without initialising it and put each tensor in its place.

    Works when the names on disk are the model's, with or without the base's prefix. Returns None
    when they are not, and transformers has to convert them.

    Raises:
        RunError: two tensors are for one place, or the config describes no model.
    """
    from transformers.initialization import no_init_weights

    try:
        with no_init_weights():
            model: Any = cls(config)
    except Exception as error:  # a config can be wrong in any way that a constructor can fail
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise RunError("M704", name=name, reason=f"config.json is refused ({text})") from None
    wanted = set(model.state_dict().keys())
    placed: dict[str, torch.Tensor] = {}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for disk, tensor in tensors.items():
        for candidate in (disk, prefix + disk, disk.removeprefix(prefix)):
            if candidate in wanted:
                if candidate in placed:
                    reason = f"{disk!r} is there with and without the prefix {prefix!r}"
                    raise RunError("M704", name=name, reason=reason)
                placed[candidate] = tensor
                break
        else:
            if not _may_be_left_out(model, disk):
                return None
    for place, tensor in placed.items():
        owner, _, attribute = place.rpartition(".")
        module = model.get_submodule(owner)
        if getattr(module, attribute).shape != tensor.shape:
            return None
        if attribute in module._parameters:
            floating = tensor.is_floating_point()
            module._parameters[attribute] = torch.nn.Parameter(tensor, requires_grad=floating)
        else:
            module._buffers[attribute] = tensor
    model.tie_weights()
    # Tying makes two places one: each place now holds a tensor of the files, and no tensor of the
    # files was pushed out by another that differs from it.
    mapped = {tensor.data_ptr() for tensor in placed.values()}
    for place, value in model.state_dict(keep_vars=True).items():
        if value.numel() and value.data_ptr() not in mapped:
            return None
        own = placed.get(place)
        if own is not None and own.data_ptr() != value.data_ptr() and not torch.equal(own, value):
            reason = f"config.json ties {place!r} to another tensor, and the two differ"
            raise RunError("M704", name=name, reason=reason)
    return model  # type: ignore[no-any-return]


def _may_be_left_out(model: Any, name: str) -> bool:
    """Say whether the architecture itself declares that it ignores a tensor of this name."""
    import re

    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return any(re.search(pattern, name) for pattern in patterns)


def _by_transformers(
    name: str, cls: Any, config: Any, tensors: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """Let transformers convert names and layouts; refuse what is missing, left over or reshaped."""
    try:
        model, info = cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=torch.get_default_dtype(),
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise RunError("M704", name=name, reason=text) from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := sorted(map(str, info[what])):
            reason = f"{what.replace('_', ' ')}: {', '.join(found[:3])}"
            raise RunError("M704", name=name, reason=reason)
    return model  # type: ignore[no-any-return]


def _add_generation_config(model: Any, folder: Path) -> None:
    if (folder / GENERATION_CONFIG).exists() and hasattr(model, "generation_config"):
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
