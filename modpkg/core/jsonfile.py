"""Small JSON files of a module that were not validated yet, as Python reads and writes them."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.bounds import JSON_VALUES
from modpkg.core.decoding import decoding_reason
from modpkg.core.errors import RecordError
from modpkg.core.records import CORRECT, canonical_json
from modpkg.core.regular_file import read_file


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    As in Python's ``json``, ``Infinity``, ``-Infinity`` and ``NaN`` are numbers; a byte order mark
    is skipped. Configs that transformers and PEFT save have the first, editors leave the second.

    Raises:
        RecordError: The file is not JSON, or not an object.
    """
    return parse_json(read_file(path), path)


def parse_json(data: bytes, path: Path | str) -> dict[str, Any]:
    """Return the object in the bytes of a JSON file; see `read_json`. ``path`` is for the error.

    Raises:
        RecordError: The bytes are not JSON, not an object, or too many values to hold in memory.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    kind = f"{Path(path).name} file"
    if (values := data.count(b",")) > JSON_VALUES:
        reason = f"it has {values} values, more than {JSON_VALUES}"
        raise RecordError("M209", what=path, kind=kind, reason=reason, remedy=CORRECT)
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = decoding_reason(error)
    try:
        value = json.loads(data.decode())
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is not text
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RecordError("M209", what=path, kind=kind, reason=reason, remedy=CORRECT) from None
    return value


def json_text(value: Any) -> bytes:
    """Return a value as indented JSON that `read_json` reads: equal values give equal bytes."""
    if _finite(value):
        return msgspec.json.format(canonical_json(value), indent=2)
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True).encode()


def _finite(value: Any) -> bool:
    """Return whether no number in a value is infinite or NaN."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))
