"""Loading tokenizers from a local folder only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modpkg.compose.confinement import confined
from modpkg.compose.named_tokens import VOCABULARY
from modpkg.compose.tokenizer_bounds import check_tokenizer_bounds, check_tokenizer_config
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import TOKENIZER, TOKENIZER_CONFIG
from modpkg.core.jsonfile import read_json

_MISSING = f"it has no tokenizer (no {TOKENIZER})"
_CHECKS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    TOKENIZER: check_tokenizer_bounds,
    TOKENIZER_CONFIG: check_tokenizer_config,
}


def open_tokenizer(transformers: Any, folder: Path, refuse: Callable[[str], ModpkgError]) -> Any:
    """Return the tokenizer in a folder; ``transformers`` is the imported package.

    Raises:
        ModpkgError: There is no tokenizer, or it cannot be read; ``refuse`` makes the error from
            the reason.
    """
    try:
        for file, check in _CHECKS.items():
            if (folder / file).exists():
                check(read_json(folder / file))
        with confined():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        known, special = tokenizer.get_vocab().keys(), set(tokenizer.all_special_tokens)
    except Exception as error:  # transformers and tokenizers raise errors of many types
        if not any(VOCABULARY.fullmatch(path.name) for path in folder.iterdir()):
            raise refuse(_MISSING) from None
        text = " ".join(str(error).split())[:200].rstrip(".")
        raise refuse(f"its tokenizer cannot be read ({text})") from None
    if known <= special:
        # Without files transformers returns an empty tokenizer, for which every word is unknown.
        raise refuse(_MISSING)
    return tokenizer
