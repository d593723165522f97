"""The pre-tokenizer of a GGUF file: which text is cut where before tokens are merged."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.filenames import TOKENIZER
from modpkg.core.jsonfile import read_json
from modpkg.interop.gguf_header import GgufHeader

_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})
"""Names of GPT-2's own expression, which transformers' conversion uses where it knows no better."""

_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})
"""Names of the pre-tokenizers that take each digit by itself and cut the rest as GPT-2 does."""

_DIGITS_PRE_TOKENIZER: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def fix_pre_tokenizer(staged: Path, header: GgufHeader) -> list[str]:
    """Correct the pre-tokenizer that transformers' conversion loses; return warnings.

    Only byte-level BPE (``tokenizer.ggml.model = "gpt2"``) has one.
    """
    if header.text("tokenizer.ggml.model") != "gpt2":
        return []
    name = header.text("tokenizer.ggml.pre") or "default"
    if name in _GPT2 or name in _converted():
        return []
    if name in _DIGITS:
        path = staged / TOKENIZER
        document = read_json(path)
        document["pre_tokenizer"] = _DIGITS_PRE_TOKENIZER
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
        return []
    named = "is not named" if name == "default" else f"{name[:40]!r} is not known"
    return [
        f"its pre-tokenizer {named}, and was converted as GPT-2's; compare its token ids with the "
        "original's before you publish"
    ]


def _converted() -> Collection[str]:
    """Return the names that the installed transformers converts itself."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return ()
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)
