"""The modules of a sentence-transformers model after the transformer, and their folders."""

from __future__ import annotations

from pathlib import Path

import msgspec

from modpkg.core.filenames import MODULES
from modpkg.core.files import safe_path

TRANSFORMER = "Transformer"


def sequence_of(path: Path) -> list[tuple[str, str]]:
    """Return the modules that a ``modules.json`` lists, in order: the kind and folder of each.

    Raises:
        ValueError: The file is malformed.
        InvalidValue: A folder is outside of the model's.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[dict[str, str | int]])
        ordered = sorted(entries, key=lambda entry: int(entry.get("idx", 0)))
        modules = [(str(e["type"]).rsplit(".", 1)[-1], str(e.get("path", ""))) for e in ordered]
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise ValueError(f"{MODULES}: {error}") from None
    return [(kind, safe_path(folder) if folder else "") for kind, folder in modules]


def folders_of(path: Path) -> tuple[str, ...]:
    """Return the folders of the modules after the transformer.

    Their tensors are named ``folder/tensor``: two of them may have a ``linear.weight``.

    Raises:
        ValueError, InvalidValue: See `sequence_of`.
    """
    return tuple(folder for kind, folder in sequence_of(path) if kind != TRANSFORMER and folder)
