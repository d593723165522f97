"""The pre-tokenizer of a GGUF file: which text is cut where before tokens are merged."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from modpkg.core.filenames import TOKENIZER
from modpkg.core.files import write_atomically
from modpkg.core.jsonfile import read_json
from modpkg.interop.gguf_header import GgufHeader, damaged

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


_TEXTS = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template")
_LISTS: dict[str, type] = {
    "tokenizer.ggml.tokens": str,
    "tokenizer.ggml.merges": str,
    "tokenizer.ggml.token_type": int,
    "tokenizer.ggml.scores": float,
}
_FLAGS = ("add_bos_token", "add_eos_token", "add_space_prefix")


def check_tokenizer(header: GgufHeader) -> None:
    """Check the vocabulary, which libraries take over as it is.

    Raises:
        ConversionError: There is none, or a part of it has another type or length than it needs.
    """
    for key in _TEXTS:
        header.text(key)
    for key, kind in _LISTS.items():
        value = header.metadata.get(key)
        if value is None:
            continue
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise damaged(header.path, f"its {key} is not a list of {kind.__name__}")
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise damaged(header.path, "it has no tokenizer (tokenizer.ggml.tokens)")
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        if len(header.metadata.get(key, tokens)) != len(tokens):
            raise damaged(header.path, f"its {key} has not one value for each token")
    merged = header.text("tokenizer.ggml.model") == "gpt2"
    if merged and "tokenizer.ggml.merges" not in header.metadata:
        raise damaged(header.path, "its tokenizer has no merges (tokenizer.ggml.merges)")
    for merge in header.metadata.get("tokenizer.ggml.merges", ()):
        if merge.count(" ") != 1:
            raise damaged(header.path, f"its tokenizer.ggml.merges has {merge[:40]!r}")
    for key in header.metadata:
        name = key.removeprefix("tokenizer.ggml.")
        if name != key and name.endswith("_token_id") and (header.whole(key) or 0) >= len(tokens):
            raise damaged(header.path, f"its {key[:80]} is outside of its {len(tokens)} tokens")
        if name in _FLAGS and not isinstance(header.metadata[key], bool):
            raise damaged(header.path, f"its {key} is neither true nor false")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and len(tokens) > embedding.shape[0]:
        raise damaged(
            header.path,
            f"it has {len(tokens)} tokens, and embeddings of {embedding.shape[0]} of them",
        )


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
        write_atomically(path, msgspec.json.format(msgspec.json.encode(document), indent=2))
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
