"""The files of sentence-transformers that a module has: those that its ``modules.json`` names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.core.errors import RecordError
from modpkg.core.filenames import CONFIG, MODULES
from modpkg.core.jsonfile import read_json
from modpkg.core.records import CORRECT
from modpkg.release.sequence import sequence_of

_BESIDE = re.compile(
    r"modules\.json|config_sentence_transformers\.json|sentence_[a-z-]+_config\.json"
)
"""Files that count beside a ``modules.json`` only."""


def may_be_sentence_file(path: str) -> bool:
    """Return whether a file may be one; a ``modules.json`` may name any folder."""
    return _BESIDE.fullmatch(path) is not None or path.endswith(f"/{CONFIG}")


def sentence_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files of sentence-transformers among those of a module with a ``modules.json``.

    Raises:
        RecordError: The file is malformed.
        InvalidValue: It names a folder outside of the module's.
    """
    named = {f"{folder}/{CONFIG}" for _, folder in _sequence(files[MODULES]) if folder}
    return {
        path: blob
        for path, blob in files.items()
        if path in named or _BESIDE.fullmatch(path) is not None
    }


def sentence_meaning(files: Mapping[str, Path]) -> Any:
    """Return what is equal for files that mean the same.

    Raises:
        RecordError: A file is malformed.
    """
    meaning: dict[str, Any] = {}
    for path, blob in files.items():
        if path == MODULES:
            meaning[path] = _sequence(blob)
        else:
            meaning[path] = {key: v for key, v in read_json(blob).items() if key != "__version__"}
    return meaning


def _sequence(path: Path) -> list[tuple[str, str]]:
    try:
        return sequence_of(path)
    except ValueError as error:
        raise RecordError(
            "M209", what=MODULES, kind=f"{MODULES} file", reason=error, remedy=CORRECT
        ) from None
