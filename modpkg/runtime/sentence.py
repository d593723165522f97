"""What a sentence-transformers directory has around its transformer. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import msgspec

from modpkg.errors import WeightsDoNotFit
from modpkg.files import safe_path

EMBEDS = "feature-extraction"
"""The task of models that sentence-transformers runs."""
MODULES = "modules.json"
_BESIDE = (MODULES, "config_sentence_transformers.json", "sentence_bert_config.json")


def modules_of(name: str, folder: Path) -> list[tuple[str, str]]:
    """Return the modules that ``modules.json`` lists, in order: the kind and folder of each.

    Raises:
        WeightsDoNotFit: the file is broken. UnsafePath: a folder is outside.
    """
    path = folder / MODULES
    if not path.exists():
        return []
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[dict[str, str | int]])
        ordered = sorted(entries, key=lambda entry: int(entry.get("idx", 0)))
        found = [(str(e["type"]).rsplit(".", 1)[-1], str(e.get("path", ""))) for e in ordered]
    except (msgspec.MsgspecError, KeyError, ValueError) as error:
        raise WeightsDoNotFit(name=name, reason=f"{MODULES}: {error}") from None
    return [(kind, safe_path(path) if path else "") for kind, path in found]


def after_transformer(name: str, folder: Path) -> tuple[str, ...]:
    """Return the files that only sentence-transformers reads, by their path in the folder."""
    folders = [path for kind, path in modules_of(name, folder) if kind != "Transformer" and path]
    inside = [
        path.relative_to(folder).as_posix()
        for part in folders
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    ]
    return (*_BESIDE, *inside)
