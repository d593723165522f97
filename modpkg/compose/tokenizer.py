"""Tokenizers, opened from a folder and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modpkg.core.errors import ModpkgError


def open_tokenizer(transformers: Any, folder: Path, refuse: Callable[[str], ModpkgError]) -> Any:
    """Return the tokenizer whose files lie in a folder; ``transformers`` is the package.

    Raises:
        What ``refuse`` returns for a reason: there is none, or it cannot be read.
    """
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise refuse(" ".join(str(error).split())[:200]) from None
    if found.get_vocab().keys() <= set(found.all_special_tokens):
        # Without its files transformers makes an empty one, to which every word is unknown.
        raise refuse("its files are missing")
    return found
