"""Which tokens a module's files name, and what of an adapter's files about texts nothing uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modpkg.core.errors import RecordError
from modpkg.core.filenames import TOKENIZER, TOKENIZER_CONFIG
from modpkg.core.installed import InstalledModule
from modpkg.core.jsonfile import read_json
from modpkg.core.regular_file import read_file
from modpkg.manifest.schema import Compose

VOCABULARY = re.compile(
    r"tokenizer\.json|vocab(?:-src|-tgt)?\.(?:json|txt)|[^/]+\.(?:model|spm|tiktoken)"
    r"|tekken\.json|bpe\.codes|dict\.txt"
)
"""Files that hold the tokens; a tokenizer has at least one of them."""
PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""What is done to images, sounds and films before the model: always the base's."""
_PROPERTIES = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"


def json_of(files: Mapping[str, Path], path: str) -> dict[str, Any]:
    return read_json(files[path]) if path in files else {}


def special_tokens(files: Mapping[str, Path]) -> dict[str, Any]:
    return json_of(files, _SPECIAL_TOKENS_MAP)


def plain_token(value: Any) -> Any:
    """Return a token's text where it is stored with its properties."""
    if isinstance(value, dict) and "content" in value:
        return value["content"]
    return [plain_token(each) for each in value] if isinstance(value, list) else value


def token_without_row(
    tokens: Mapping[str, int], rows: int, known: Callable[[], Mapping[str, int]]
) -> str | None:
    """Return the first token whose number has no row in an embedding; None if all have one.

    Tokens that the base's own tokenizer has beyond its rows are no fault of another one.

    Args:
        tokens: The numbers of a tokenizer's tokens.
        rows: The number of rows.
        known: Returns the numbers of the base's tokens; called if a number is beyond the rows.
    """
    beyond = {token: number for token, number in tokens.items() if number >= rows}
    if not beyond:
        return None
    base = known()
    missing = [token for token, number in beyond.items() if base.get(token) != number]
    return min(missing, key=lambda token: beyond[token], default=None)


def tokens_of(files: Mapping[str, Path]) -> dict[str, int]:
    """Return the number of each token, as far as the files tell in JSON."""
    pairs: list[tuple[Any, Any]] = []
    if TOKENIZER in files:
        document = read_json(files[TOKENIZER])
        inner = document.get("model")
        words = inner.get("vocab") if isinstance(inner, dict) else None
        if isinstance(words, dict):
            pairs += words.items()
        elif isinstance(words, list):  # of pairs of token and score
            pairs += [(w[0] if isinstance(w, list) and w else w, n) for n, w in enumerate(words)]
        added = document.get("added_tokens")
        for token in added if isinstance(added, list) else ():
            if isinstance(token, dict):
                pairs.append((token.get("content"), token.get("id")))
    elif "vocab.json" in files:
        pairs += read_json(files["vocab.json"]).items()
    pairs += json_of(files, ADDED_TOKENS).items()
    decoder = json_of(files, TOKENIZER_CONFIG).get("added_tokens_decoder")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
            pairs.append((plain_token(token), int(number)))
    return {
        token: number
        for token, number in pairs
        if isinstance(token, str) and isinstance(number, int) and not isinstance(number, bool)
    }


def added_tokens(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the properties of the tokens that a tokenizer has beside its vocabulary, by text."""
    listed = json_of(files, TOKENIZER).get("added_tokens")
    decoder = json_of(files, TOKENIZER_CONFIG).get("added_tokens_decoder")
    tokens = [*(listed if isinstance(listed, list) else ())]
    tokens += decoder.values() if isinstance(decoder, dict) else ()
    return {
        token["content"]: {key: token[key] for key in _PROPERTIES if key in token}
        for token in reversed(tokens)
        if isinstance(token, dict) and isinstance(token.get("content"), str)
    }


def left_of(recipe: Compose, modules: Mapping[str, InstalledModule]) -> Iterator[str]:
    """Yield a sentence for each file about texts that an adapter has, and that nothing uses."""
    base = modules[recipe.base]
    for adapter in (modules[step.module] for step in recipe.steps):
        if adapter.kind != "adapter" or adapter.name == recipe.tokenizer:
            continue
        for path in PROCESSORS:
            if path in adapter.files and _differ(adapter.files[path], base.files.get(path)):
                yield f"{adapter.name} has another {path} than {base.name}, whose is used."
        if any(map(VOCABULARY.fullmatch, adapter.files)) or recipe.tokenizer is not None:
            continue
        if others := _other_tokens(adapter.files, base.files):
            yield (
                f"{adapter.name} has other tokens than {base.name} ({others[0][:40]}), but not a "
                f"whole tokenizer, so {base.name}'s is used; save the tokenizer that it was "
                "trained with beside it."
            )


def _differ(file: Path, other: Path | None) -> bool:
    """Return whether two JSON files have other values; nothing reads them, so they may be bad."""
    if other is None:
        return True
    try:
        return read_json(file) != read_json(other)
    except RecordError:
        return read_file(file) != read_file(other)


def _other_tokens(files: Mapping[str, Path], base: Mapping[str, Path]) -> list[str]:
    """Return the tokens, or settings of tokens, of files that are not those of a base."""
    tokens, settings = tokens_of(files), special_tokens(files) | json_of(files, TOKENIZER_CONFIG)
    if not tokens and not settings:
        return []
    known, plain = tokens_of(base), special_tokens(base) | json_of(base, TOKENIZER_CONFIG)
    others = [token for token, number in tokens.items() if known.get(token) != number]
    others += [
        key
        for key in ("bos_token", "eos_token")
        if plain_token(settings.get(key)) not in (None, plain_token(plain.get(key)))
    ]
    return sorted(others)
