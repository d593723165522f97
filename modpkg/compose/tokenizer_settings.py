"""What the configs beside a tokenizer may say: settings, and no files, classes or arguments.

``tokenizer_config.json`` and ``special_tokens_map.json`` become arguments of a tokenizer's class,
whatever their names: files that it opens, options of other programs, the class itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modpkg.compose.named_code import check_no_code, is_address
from modpkg.core.filenames import CONFIG, TOKENIZER_CONFIG
from modpkg.core.jsonfile import read_json

SPECIAL_TOKENS = "special_tokens_map.json"
_FILE_KEY = re.compile(
    r"(?:.*_)?(?:file|path|dir|folder|model|vocab|merges|object)s?|(?:slow_|backend_)?tokenizer"
)
"""Keys whose values tokenizers open, or take for an object."""
_TOKEN_KEY = re.compile(r".*_tokens?")
_UNREAD = ("name_or_path", "special_tokens_map_file")
"""Keys that many honest configs have a path in; transformers takes the folder's, whatever it is."""
_TEXTS = ("chat_template", "response_template", "response_schema", "added_tokens_decoder")
"""Keys of texts that may have any form; templates are bounded elsewhere."""


def check_tokenizer_settings(transformers: Any, folder: Path) -> None:
    """Check that the configs of the tokenizer in a folder say nothing but settings.

    Args:
        transformers: The imported package, which has the classes.
        folder: The folder.

    Raises:
        ValueError: One names a file outside of the folder, a class that is no tokenizer's, or
            arguments; the text says which.
        RunError: One names code.
        RecordError: One is malformed.
    """
    for file, check in (
        (TOKENIZER_CONFIG, check_tokenizer_config),
        (SPECIAL_TOKENS, check_special_tokens),
    ):
        if (folder / file).exists():
            config = read_json(folder / file)
            check_no_code(folder.name, config, file)
            check(config)
            check_class(transformers, config, file)
    if (folder / CONFIG).exists():
        check_class(transformers, read_json(folder / CONFIG), CONFIG)


def check_tokenizer_config(config: Mapping[str, Any]) -> None:
    """Check that a ``tokenizer_config.json`` names no file outside of its folder, nor arguments.

    Raises:
        ValueError: It does.
    """
    if config.get("init_inputs"):
        raise ValueError(f"{TOKENIZER_CONFIG} has arguments of its own (init_inputs)")
    for key, value in config.items():
        if key in _UNREAD or key in _TEXTS or _TOKEN_KEY.fullmatch(key):
            continue
        opened = _FILE_KEY.fullmatch(key) is not None
        for text in _texts(value) if opened or isinstance(value, dict) else ():
            if _outside(text) if opened else is_address(text):
                raise ValueError(f"{TOKENIZER_CONFIG} names a file outside of its folder ({key})")


def check_special_tokens(config: Mapping[str, Any]) -> None:
    """Check that a ``special_tokens_map.json`` has tokens alone.

    Transformers takes its keys for arguments, after those that it found itself.

    Raises:
        ValueError: It has another key.
    """
    for key, value in config.items():
        plain = value is None or isinstance(value, bool | int | float)
        if not plain and _TOKEN_KEY.fullmatch(key) is None:
            raise ValueError(f"{SPECIAL_TOKENS} has {key!r:.100}, which is not a token")


def check_class(transformers: Any, config: Mapping[str, Any], file: str) -> None:
    """Check that the class that a config names for its tokenizer is a tokenizer's.

    Transformers looks names up among all that it has. It reads a tokenizer of a class that it does
    not have with one of its general classes.

    Raises:
        ValueError: It is another's.
    """
    named = config.get("tokenizer_class")
    if named is None:
        return
    found = [named]
    if isinstance(named, str):
        stem = named.removesuffix("Fast")
        classes = (getattr(transformers, each, None) for each in (stem, f"{stem}Fast"))
        found = [each for each in classes if each is not None]
    kind = transformers.PreTrainedTokenizerBase
    if not all(isinstance(each, type) and issubclass(each, kind) for each in found):
        raise ValueError(f"{file} names a class that is no tokenizer's ({named!r:.100})")


def _outside(text: str) -> bool:
    """Return whether what should be the name of a file beside a config is something else."""
    return re.match(r"[/~]|.*(?:[:\\\x00]|\.\.|//)", text, re.DOTALL) is not None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for each in value.values() for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []
