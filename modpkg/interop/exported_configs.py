"""What the configs in a folder for other tools may name: no code, which those tools would run.

modpkg itself refuses such a model when it loads it. A folder of ``modpkg.path`` or an export is
loaded elsewhere: transformers fetches a kernel that a config names, and sentence-transformers
imports classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.compose.allowed_keys import check_quantisation
from modpkg.compose.named_code import check_no_code
from modpkg.compose.tokenizer_settings import (
    SPECIAL_TOKENS,
    check_special_tokens,
    check_tokenizer_config,
)
from modpkg.core.errors import RunError
from modpkg.core.filenames import CONFIG, MODULES, TOKENIZER_CONFIG
from modpkg.core.jsonfile import parse_json, read_json
from modpkg.core.regular_file import read_file
from modpkg.runtime.sentence_modules import modules_of

_LIBRARIES = ("transformers", "peft", "sentence_transformers", "diffusers", "torch")
"""Whose classes PEFT may look for a base in."""
_ACTIVATION = "activation_function"
_OF_TORCH = re.compile(r"torch\.nn(?:\.modules\.\w+)?\.[A-Z]\w*")
_REMEDY = "use a model of modules that sentence-transformers and torch have"


def check_exported(name: str, folder: Path) -> None:
    """Check the configs of a model's folder before it is written for other tools.

    Raises:
        RunError: One names code, a kernel, an address, a file outside of the folder, or a class.
        RecordError: One is malformed.
    """
    for path in sorted(folder.glob("*config*.json")):
        data = read_file(path)
        if data.lstrip().startswith(b"["):
            continue  # a list is no config, such as what data a model was trained on
        config = parse_json(data, path)
        check_no_code(name, config, path.name)
        check_quantisation(name, config)
    for file, check in (
        (TOKENIZER_CONFIG, check_tokenizer_config),
        (SPECIAL_TOKENS, check_special_tokens),
    ):
        if (folder / file).exists():
            try:
                check(read_json(folder / file))
            except ValueError as error:
                raise RunError("M704", name=name, reason=str(error)) from None
    for kind, part in modules_of(name, folder):
        where = f"{part}/{CONFIG}" if part else MODULES
        if "." in kind:
            raise _refusal(name, MODULES, kind)
        config = read_json(folder / where) if part and (folder / where).exists() else {}
        check_no_code(name, config, where)
        activation = config.get(_ACTIVATION)
        if activation is not None and _OF_TORCH.fullmatch(str(activation)) is None:
            raise _refusal(name, where, _ACTIVATION)


def _refusal(name: str, file: str, key: str) -> RunError:
    return RunError("M707", name=name, file=file, what="custom code", key=key, remedy=_REMEDY)


def without_foreign_class(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an adapter's config whose ``auto_mapping`` names a class of a known library, or none.

    PEFT imports the library by its name to find the class of the base.
    """
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if mapping is None or str(library).partition(".")[0] in _LIBRARIES:
        return dict(config)
    return {**config, "auto_mapping": None}
