"""The modules of a sentence-transformers model after the transformer, and their folders."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.decoding import decoding_reason
from modpkg.core.filenames import MODULES
from modpkg.core.regular_file import read_file
from modpkg.core.release_path import safe_path

TRANSFORMER = "Transformer"
_OWN = "sentence_transformers."


def sequence_of(path: Path) -> list[tuple[str, str]]:
    """Return the modules that a ``modules.json`` lists, in order: the kind and folder of each.

    The kind of a module of sentence-transformers is its class's name; that of another package's is
    the whole path of the class, so that it is never taken for one of the former.

    Raises:
        ValueError: The file is malformed.
        InvalidValue: A folder is outside of the model's.
    """
    data = read_file(path).removeprefix(codecs.BOM_UTF8)
    try:
        entries = msgspec.json.decode(data, type=list[dict[str, Any]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{MODULES}: {decoding_reason(error)}") from None
    modules: list[tuple[str, str]] = []
    names: set[str] = set()
    for number, entry in enumerate(entries):
        kind, folder, name = entry.get("type"), entry.get("path", ""), entry.get("name", number)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise ValueError(f"{MODULES}: module {number} has no type, or a path that is no text")
        if str(name) in names:
            raise ValueError(f"{MODULES}: two modules are named {name!r:.100}")
        names.add(str(name))
        kind = kind.rpartition(".")[2] if kind.startswith(_OWN) else kind
        modules.append((kind, safe_path(folder) if folder else ""))
    return modules


def folders_of(path: Path) -> tuple[str, ...]:
    """Return the folders of the modules after the transformer.

    Their tensors are named ``folder/tensor``: two of them may have a ``linear.weight``.

    Raises:
        ValueError, InvalidValue: See `sequence_of`.
    """
    return tuple(folder for kind, folder in sequence_of(path) if kind != TRANSFORMER and folder)
