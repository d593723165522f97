"""What is taken from a folder that another tool wrote, and what is left out."""

from __future__ import annotations

import codecs
import fnmatch
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import file_chunks
from modpkg.core.errors import ReleaseError
from modpkg.core.filenames import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG
from modpkg.core.files import copy_file, make_folder, write_atomically
from modpkg.core.packs import pack_chunks, read_pack_header
from modpkg.core.regular_file import open_file, read_file
from modpkg.core.release_path import safe_path
from modpkg.interop.hub_blob import check_hub_blob
from modpkg.release.content import check_data

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Names of weights that only code can read."""
OTHER_WEIGHTS = (
    *PICKLES,
    *("*.msgpack", "*.h5", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.npz", "*.nemo"),
    *("*.tflite", "*.mlmodel", "*.mlpackage", "*.pte", "imatrix.*", "*.imatrix"),
)
"""Names of weights in formats that are not imported."""
_OF_A_MODEL = (CONFIG, ADAPTER_CONFIG, "params.json", "trainer_state.json", "*.safetensors")
"""A folder with one of these is another model, or what a trainer left."""
_OF_A_TRAINER = (
    "trainer_state.json",
    "training_args.*",
    "optimizer.*",
    "scheduler.*",
    "rng_state*",
    "events.out.tfevents*",
)
_INDEX = "*.safetensors.index.json"
_LISTED = 5


class Contents(Struct, frozen=True):
    """The files of a folder: those that belong to its model, and why the others do not."""

    files: tuple[str, ...]
    """Paths of data files without weights, relative to the folder."""
    left: tuple[str, ...]
    """What is left out, each with its reason."""


def contents_of(
    source: Path, *, weights: Collection[str], why: str, parts: Collection[str] = ()
) -> Contents:
    """Return what of a folder belongs to the model whose files of weights are ``weights``.

    Folders in ``parts`` are the model's own; another one is left out as a whole if it holds
    weights, a config of its own or what a trainer left. Hidden files are never taken.

    Args:
        source: The folder.
        weights: Paths of the model's own weights; they are not among the files.
        why: Why another file of weights is not the model's.
        parts: Paths of folders that belong to the model.
    """
    files: list[str] = []
    left: dict[str, list[str]] = {}
    for relative in _walk(source, weights, parts, left):
        name = relative.rpartition("/")[2]
        path = source / relative
        if relative in weights or fnmatch.fnmatchcase(name, _INDEX):
            continue
        if (reason := _left_out(path, name, why, adapter=ADAPTER_WEIGHTS in weights)) is not None:
            left.setdefault(reason, []).append(relative)
        else:
            safe_path(relative)
            files.append(relative)
    return Contents(tuple(files), tuple(_told(names, reason) for reason, names in left.items()))


def _walk(
    source: Path, weights: Collection[str], parts: Collection[str], left: dict[str, list[str]]
) -> Iterator[str]:
    """Yield the paths of files, except in folders that are not the model's."""
    pending = [""]
    while pending:
        current = pending.pop()
        for entry in sorted(os.scandir(source / current), key=lambda entry: entry.name):
            relative = f"{current}/{entry.name}" if current else entry.name
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield relative
            elif entry.name != "__pycache__" and not entry.is_symlink():
                own = [path for path in (*parts, *weights) if f"{path}/".startswith(f"{relative}/")]
                inside = any(f"{relative}/".startswith(f"{part}/") for part in parts)
                reason = None if own or inside else _foreign(source / relative)
                if reason is None:
                    pending.append(relative)
                else:
                    left.setdefault(reason, []).append(f"{relative}/")


def _foreign(folder: Path) -> str | None:
    """Return why a folder is not part of the model beside it; None if it is."""
    return reason_to_leave([file for _, _, files in os.walk(folder) for file in files])


def reason_to_leave(names: Sequence[str]) -> str | None:
    """Return why a folder with files of these names is not part of the model beside it."""
    if ADAPTER_CONFIG in names:
        return "an adapter of its own: import it by its folder, with 'modpkg import peft'"
    if any(fnmatch.filter(names, pattern) for pattern in _OF_A_MODEL):
        return "another model, or a checkpoint of training"
    if any(fnmatch.filter(names, pattern) for pattern in (*OTHER_WEIGHTS, *_OF_A_TRAINER)):
        return "weights in a format that is not imported"
    return None


def is_of_a_trainer(name: str) -> bool:
    """Return whether a file is what a trainer left beside a model."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _OF_A_TRAINER)


def _left_out(path: Path, name: str, why: str, *, adapter: bool) -> str | None:
    """Return why a file is not taken; None if it is."""
    if not path.is_file():
        return "a broken link" if path.is_symlink() else "not a file"
    real = path.resolve()  # a hub's cache holds links to its blobs
    if name == ADAPTER_WEIGHTS and not adapter:
        return "an adapter's: import it with 'modpkg import peft'"
    if name.endswith(".safetensors"):
        return why
    if name == ADAPTER_CONFIG and not adapter:
        return "an adapter's: import it with 'modpkg import peft'"
    if is_of_a_trainer(name):
        return "what a trainer left"
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in OTHER_WEIGHTS):
        return "weights in a format that is not imported"
    try:
        check_data(real, name)
    except ReleaseError as error:
        if error.code != "M202":
            raise
        return "not of the kinds of files that a release holds"
    return None


def _told(names: list[str], reason: str) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"left out: {', '.join(names[:_LISTED])}{more} ({reason})"


def copy_data(source: Path, staged: Path, files: Collection[str]) -> None:
    """Copy data files; JSON loses its byte order mark, which not every reader skips."""
    for relative in files:
        check_hub_blob(source / relative)
        real, target = (source / relative).resolve(), staged / relative
        make_folder(target.parent)
        if relative.endswith(".json") and _marked(real):
            write_atomically(target, read_file(real).removeprefix(codecs.BOM_UTF8))
        else:
            copy_file(real, target)


def _marked(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(3) == codecs.BOM_UTF8


def copy_weights(
    source: Path, staged: Path, files: Collection[str], *, without: Collection[str] = ()
) -> None:
    """Copy files of weights; those that hold a tensor of ``without`` are written again without it.

    Raises:
        PackError: A file is damaged.
    """
    for relative in files:
        check_hub_blob(source / relative)
        real, target = (source / relative).resolve(), staged / relative
        make_folder(target.parent)
        held = read_pack_header(real)
        kept = {name: tensor for name, tensor in held.items() if name not in without}
        if len(kept) == len(held):
            copy_file(real, target)
        elif kept:
            types = {name: (tensor.dtype, tensor.shape) for name, tensor in kept.items()}
            data = {name: file_chunks(real, t.offset, t.length) for name, t in kept.items()}
            write_atomically(target, pack_chunks(types, data))
