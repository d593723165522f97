"""Which files of a folder are a model's weights: by its index, or ``model.safetensors``.

A folder may hold more than one set of tensors (several adapters, the weights a second time in
another layout, what a trainer left). They are never poured into one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from modpkg.core.errors import InvalidValue, ReleaseError
from modpkg.core.filenames import ADAPTER_WEIGHTS, CONFIG, WEIGHTS, WEIGHTS_INDEX
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed
from modpkg.core.packs import read_pack_header
from modpkg.core.release_path import safe_path
from modpkg.release.content import Content
from modpkg.release.packing import folders_apart

_SHARD = re.compile(r"(?P<stem>[^/]+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_DIFFUSERS = "diffusion_pytorch_model.safetensors"
_NAMED = "transformers_weights"
"""Key of ``config.json`` that names the file of weights, or the index."""


class Checkpoint(Struct, frozen=True):
    """The files of a folder that are its model's weights."""

    files: tuple[str, ...]
    """Their paths in the folder; empty where it has none that can be known."""
    why: str = ""
    """What chose them, as the end of "… are left out, because"; or why there are none."""


def checkpoint_of(folder: Path, config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Return the weights of the model in a folder, every shard checked to be there and whole.

    They are what ``config.json`` names, else what the index names, else ``model.safetensors``, else
    all shards of one name if none is missing. A part of a pipeline of diffusers, whose
    ``config.json`` has a ``_class_name``, has diffusers' names in place of these.

    Raises:
        ReleaseError: A shard is missing, or lacks a tensor that the index finds in it.
        PackError: A file is damaged.
        RecordError: The index is malformed.
    """
    there = {path.name for path in folder.glob("*.safetensors") if path.is_file()}
    named = (config or {}).get(_NAMED)
    whole, index = WEIGHTS, folder / WEIGHTS_INDEX
    if "_class_name" in (config or {}) and whole not in there and not index.is_file():
        whole, index = _DIFFUSERS, folder / f"{_DIFFUSERS}.index.json"
    if isinstance(named, str):
        index = folder / _inside(folder, named)
        if not index.is_file():
            raise ReleaseError("M213", folder=folder, files=repr(named), index=CONFIG)
        if index.suffix == ".safetensors":
            read_pack_header(index.resolve())
            return Checkpoint((named,), f"its {CONFIG} names {named}")
    if index.is_file():
        shards = _indexed(index)
        stale = not any((folder / shard).is_file() for shard in shards)
        if not (stale and whole in there):
            _check_shards(folder, index.name, shards)
            return Checkpoint(tuple(sorted(shards)), f"{index.name} does not name it")
    if whole in there:
        read_pack_header((folder / whole).resolve())
        return Checkpoint((whole,), f"the model's weights are {whole}")
    return _without_index(folder, there)


def check_one_set(module: str, kind: str, folder: Path, content: Content) -> None:
    """Check that the weights of a project are one model's or one adapter's.

    Raises:
        ReleaseError: A file of weights is not part of it, or a shard is missing.
        PackError, RecordError: A file is damaged.
    """
    if kind in ("base", "model") and content.weights:
        config = read_json(content.files[CONFIG]) if CONFIG in content.files else None
        checkpoint = checkpoint_of(folder, config)
        if not checkpoint.files:
            return
        own, why = set(checkpoint.files), checkpoint.why
        apart = folders_apart(content.files)
    elif kind == "adapter" and ADAPTER_WEIGHTS in content.weights:
        own, why, apart = {ADAPTER_WEIGHTS}, f"an adapter's weights are {ADAPTER_WEIGHTS}", ()
    else:
        return
    for file in content.weights:
        if file not in own and file.rpartition("/")[0] not in apart:
            raise ReleaseError("M214", file=file, module=module, reason=why)


def _without_index(folder: Path, there: Collection[str]) -> Checkpoint:
    """Return all shards of the one name that shards have; nothing where there are none."""
    shards = {name: match for name in there if (match := _SHARD.fullmatch(name))}
    families = {(match["stem"], match["count"]) for match in shards.values()}
    if len(families) != 1:
        return Checkpoint((), f"it has neither {WEIGHTS} nor {WEIGHTS_INDEX}")
    ((stem, count),) = families
    if len(there) > (length := int(count)) or length > 10_000:
        return Checkpoint((), f"it has neither {WEIGHTS} nor {WEIGHTS_INDEX}")
    wanted = [f"{stem}-{number:05}-of-{count}.safetensors" for number in range(1, length + 1)]
    if missing := [name for name in wanted if name not in there]:
        raise ReleaseError("M213", folder=folder, files=listed(missing), index="the other shards")
    for name in wanted:
        read_pack_header((folder / name).resolve())
    return Checkpoint(tuple(wanted), "it is not one of the shards")


def _indexed(index: Path) -> dict[str, list[str]]:
    """Return the names of the tensors that an index finds in each shard.

    Raises:
        RecordError, ReleaseError: The index is malformed.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ReleaseError("M206", path=index, reason="it has no weight_map")
    shards: dict[str, list[str]] = {}
    for tensor, file in table.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            reason = f"its weight_map has {file!r} for {tensor!r}, which is not a safetensors file"
            raise ReleaseError("M206", path=index, reason=reason)
        if file not in shards:
            _inside(index, file)
        shards.setdefault(file, []).append(tensor)
    return shards


def _inside(where: Path, file: str) -> str:
    """Return a path that a file of the folder names, checked to stay in the folder."""
    try:
        return safe_path(file)
    except InvalidValue as error:
        raise ReleaseError("M206", path=where, reason=f"it names {file!r} ({error})") from None


def _check_shards(folder: Path, index: str, shards: Mapping[str, Collection[str]]) -> None:
    if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
        raise ReleaseError("M213", folder=folder, files=listed(missing), index=index)
    held: dict[str, str] = {}
    for shard in sorted(shards):
        for tensor in read_pack_header((folder / shard).resolve()):
            if (other := held.setdefault(tensor, shard)) != shard:
                first, second = folder / other, folder / shard
                raise ReleaseError("M205", tensor=tensor, first=first, second=second)
    for shard, tensors in sorted(shards.items()):
        if lacking := sorted(set(tensors) - held.keys()):  # in another shard, it is found
            reason = f"{listed(lacking)} of {shard}"
            raise ReleaseError("M213", folder=folder, files=reason, index=index)
