"""Whether the base of an adapter has a row for each token of the adapter's own tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from modpkg.compose.named_tokens import ADDED_TOKENS, token_without_row, tokens_of
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import TOKENIZER, TOKENIZER_CONFIG
from modpkg.core.records import ReleaseRecord
from modpkg.core.text_config import vocabulary
from modpkg.release.base import Base

_TOKENIZER_FILES = (TOKENIZER, TOKENIZER_CONFIG, ADDED_TOKENS, "vocab.json")


def rows_warning(record: ReleaseRecord, files: Mapping[str, Path], base: Base) -> str | None:
    """Return a warning if a token of an adapter has no row; None if all have one.

    It can be used all the same where a recipe takes another tokenizer, so it is built.

    Args:
        record: The adapter's release.
        files: Its files, by their path in it.
        base: Its base.
    """
    named = vocabulary(base.config())
    own = {path: file for path, file in files.items() if path in _TOKENIZER_FILES}
    if named is None or not own:
        return None
    try:
        tokens = tokens_of(own)
        if not tokens or _has_rows(record, max(tokens.values())):
            return None
        token = token_without_row(tokens, named[1], lambda: _tokens_of_base(base))
    except ModpkgError:
        return None  # a malformed file is an error of the command that uses it
    if token is None:
        return None
    label = f"{base.record.name} {base.record.version}"
    return (
        f"the token {token[:100]!r} of {record.name} has number {tokens[token]}, and the embedding "
        f"of {label} has {named[1]} rows: models with its tokenizer will be refused (M616). If it "
        "was trained with more rows, save it again with save_embedding_layers=True"
    )


def _has_rows(record: ReleaseRecord, number: int) -> bool:
    """Return whether a matrix of its own, which may be an embedding, has a row of this number."""
    whole = (entry for name, entry in record.tensors.items() if "lora_" not in name)
    return any(len(entry.shape) == 2 and entry.shape[0] > number for entry in whole)


def _tokens_of_base(base: Base) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as text:
        folder, record = Path(text), base.record
        for path in _TOKENIZER_FILES:
            if path in record.files:
                what = f"{path} of {record.name} {record.version}"
                (folder / path).write_bytes(base.read(record.files[path].digest, what))
        return tokens_of({path: folder / path for path in _TOKENIZER_FILES if path in record.files})
