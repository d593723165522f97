"""The modules of a sentence-transformers folder besides its transformer. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from modpkg.core.errors import RunError
from modpkg.core.filenames import MODULES, SENTENCE_SETTINGS, SENTENCE_TRANSFORMER
from modpkg.release.sequence import TRANSFORMER, sequence_of

EMBEDS = "feature-extraction"
"""The task of sentence-transformers models."""
_BESIDE = (MODULES, SENTENCE_SETTINGS, SENTENCE_TRANSFORMER)
_RUN = ("Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
"""The modules after the transformer that modpkg runs; Dropout does nothing outside of training."""
WITH_WEIGHTS = ("Dense", "LayerNorm")
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


def check_modules(name: str, modules: Sequence[tuple[str, str]]) -> None:
    """Check that modules are a transformer, one Pooling, and then others that modpkg runs.

    Raises:
        RunError: One is of another kind, or at another place.
    """
    for kind, path in modules:
        if kind not in (TRANSFORMER, *_RUN):
            where = f" ({path})" if path else ""
            raise RunError(
                "M704", name=name, reason=f"{MODULES} names {kind}{where}, which is not supported"
            )
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != [TRANSFORMER, "Pooling"] or TRANSFORMER in kinds[1:] or "Pooling" in kinds[2:]:
        reason = f"{MODULES} lists {', '.join(kinds) or 'nothing'}; a model that modpkg runs has a "
        raise RunError("M704", name=name, reason=reason + "Transformer, a Pooling, and then others")
    if modules[0][1]:
        reason = f"its transformer lies in {modules[0][1]}/, not beside {MODULES}; load it with "
        raise RunError("M704", name=name, reason=reason + "sentence-transformers and save() it")


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
