"""Loading tokenizers from a local folder only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modpkg.compose.allowed_keys import allowed_config
from modpkg.compose.config_sizes import check_config_sizes
from modpkg.compose.confinement import confined
from modpkg.compose.named_tokens import VOCABULARY
from modpkg.compose.tokenizer_bounds import check_tokenizer_bounds
from modpkg.compose.tokenizer_settings import check_tokenizer_settings
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import CONFIG, TOKENIZER
from modpkg.core.jsonfile import read_json

_MISSING = f"it has no tokenizer (no {TOKENIZER})"


def open_tokenizer(transformers: Any, folder: Path, refuse: Callable[[str], ModpkgError]) -> Any:
    """Return the tokenizer in a folder; ``transformers`` is the imported package.

    Raises:
        ModpkgError: There is no tokenizer, or it cannot be read; ``refuse`` makes the error from
            the reason.
    """
    try:
        if (folder / TOKENIZER).exists():
            check_tokenizer_bounds(read_json(folder / TOKENIZER))
        with confined():
            check_tokenizer_settings(transformers, folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder,
                config=_model_config(transformers, folder),
                local_files_only=True,
                trust_remote_code=False,
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


def _model_config(transformers: Any, folder: Path) -> Any:
    """Return the config object by which transformers chooses the class, as ``AutoConfig`` would.

    Raises:
        RunError: The config names code, a kernel or an address.
        RecordError: ``config.json`` is malformed.
        ValueError: One of its counts is beyond any model's.
    """
    raw = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    check_config_sizes(raw)
    kinds, kind = transformers.CONFIG_MAPPING, raw.get("model_type")
    plain = transformers.PreTrainedConfig
    config = None
    if isinstance(kind, str) and kind in kinds:
        allowed = allowed_config(folder.name, kinds[kind], raw)
        try:
            config = kinds[kind].from_dict(allowed)
        except (ValueError, OSError):  # as `AutoTokenizer` does
            config = None
    if config is None:
        config = plain.from_dict(allowed_config(folder.name, plain, raw))
    config.name_or_path = str(folder)
    return config
