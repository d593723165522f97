"""What a ``tokenizer.json`` may make of a text: not a thousand times as much.

The tokenizers library does what the file says, in one call that nothing interrupts: forty
replacements that double a text make a terabyte of it, and a template may have a million pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from modpkg.core.bounds import (
    TOKENIZER_ADDED_CHARACTERS,
    TOKENIZER_GROWTH,
    TOKENIZER_PADDING,
    TOKENIZER_PIECES,
)
from modpkg.core.filenames import TOKENIZER

try:
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as _parser


def check_tokenizer_bounds(document: Mapping[str, Any]) -> None:
    """Check that a ``tokenizer.json`` makes no text, and no list of tokens, grow without bound.

    Raises:
        ValueError: It does; the text says how.
    """
    for part in ("normalizer", "decoder"):
        growth, added = 1.0, 0.0
        for step in _steps(document.get(part)):
            factor, more = _growth(step)
            growth, added = growth * factor, added * factor + more
            if growth > TOKENIZER_GROWTH or added > TOKENIZER_ADDED_CHARACTERS:
                raise ValueError(f"the {part} of {TOKENIZER} makes texts grow without bound")
    for step in _steps(document.get("post_processor")):
        for key in ("single", "pair"):
            pieces = step.get(key)
            if isinstance(pieces, list) and len(pieces) > TOKENIZER_PIECES:
                raise ValueError(f"a template of {TOKENIZER} has {len(pieces)} pieces")
        tokens = step.get("special_tokens")
        for token in tokens.values() if isinstance(tokens, dict) else ():
            ids = token.get("ids") if isinstance(token, dict) else None
            if isinstance(ids, list) and len(ids) > TOKENIZER_PIECES:
                raise ValueError(f"a template of {TOKENIZER} has a token of {len(ids)} tokens")
    padding = document.get("padding")
    if isinstance(padding, dict):
        strategy = padding.get("strategy")
        lengths = strategy.values() if isinstance(strategy, dict) else ()
        for length in (*lengths, padding.get("pad_to_multiple_of")):
            if isinstance(length, int) and length > TOKENIZER_PADDING:
                raise ValueError(f"{TOKENIZER} pads texts to {length} tokens")


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a part, those of its sequences too."""
    stack = [part]
    while stack:
        step = stack.pop()
        if not isinstance(step, dict):
            continue
        inner = next(
            (step[key] for key in ("normalizers", "decoders", "processors") if key in step), None
        )
        if isinstance(inner, list):
            stack += reversed(inner)
        else:
            yield step


def _growth(step: Mapping[str, Any]) -> tuple[float, float]:
    """Return how many times longer a step makes a text at most, and what it adds to it."""
    if step.get("type") == "Prepend":
        return 1.0, len(str(step.get("prepend", "")))
    if step.get("type") != "Replace":
        return 1.0, 0.0
    content, pattern = len(str(step.get("content", ""))), step.get("pattern")
    pattern = pattern if isinstance(pattern, dict) else {}
    if isinstance(pattern.get("String"), str):
        least = len(pattern["String"])
    else:
        least = _least(str(pattern.get("Regex", "")))
    return (max(1.0, content / least), 0.0) if least else (1.0 + content, content)


def _least(pattern: str) -> int:
    """Return the fewest characters that a pattern matches; 1 if that is not known."""
    try:
        least: int = _parser.parse(pattern).getwidth()[0]
    except (re.error, OverflowError, RecursionError):  # the library has another syntax
        return 1
    return least
