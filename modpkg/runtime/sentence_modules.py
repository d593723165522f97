"""The modules of a sentence-transformers folder besides its transformer. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from modpkg.core.errors import RunError
from modpkg.core.filenames import MODULES
from modpkg.release.sequence import TRANSFORMER, sequence_of

EMBEDS = "feature-extraction"
"""The task of sentence-transformers models."""
_BESIDE = (MODULES, "config_sentence_transformers.json", "sentence_bert_config.json")
Tensor = TypeVar("Tensor")


def modules_of(name: str, folder: Path) -> list[tuple[str, str]]:
    """Return the kind and folder of each module in ``modules.json``, in order.

    Raises:
        RunError: The file is invalid.
        InvalidValue: A folder is outside of the model's.
    """
    path = folder / MODULES
    if not path.exists():
        return []
    try:
        return sequence_of(path)
    except ValueError as error:
        raise RunError("M704", name=name, reason=str(error)) from None


def folders_after(name: str, folder: Path) -> list[str]:
    """Return the folders of the modules after the transformer."""
    return [path for kind, path in modules_of(name, folder) if kind != TRANSFORMER and path]


def split_tensors(
    name: str, folder: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Return the transformer's tensors and, by folder, those of the modules after it."""
    own = dict(tensors)
    after: dict[str, dict[str, Tensor]] = {}
    for path in folders_after(name, folder):
        names = [tensor for tensor in own if tensor.startswith(f"{path}/")]
        if names:
            after[path] = {tensor.removeprefix(f"{path}/"): own.pop(tensor) for tensor in names}
    return own, after


def after_transformer(name: str, folder: Path) -> tuple[str, ...]:
    """Return the paths of the files that only sentence-transformers reads."""
    inside = [
        path.relative_to(folder).as_posix()
        for part in folders_after(name, folder)
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    ]
    return (*_BESIDE, *inside)
