"""Prompt templates. ``{{ text }}`` is the only placeholder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modpkg.core.errors import RunError

_TEXT = re.compile(r"\{\{\s*text\s*\}\}")


def fill(template: str, text: str) -> str:
    """Return ``template`` with every ``{{ text }}`` replaced; placeholders in the text are kept.

    >>> fill("Summarize: {{ text }}", "a {{ text }} b")
    'Summarize: a {{ text }} b'
    """
    return _TEXT.sub(lambda match: text, template)


def token_ids(
    tokenizer: Any, task: Mapping[str, Any], text: str, limit: int
) -> tuple[list[int], bool]:
    """Return the prompt's token ids, and whether the text was truncated to fit ``limit``.

    Only the end of the text is removed, never the instruction around it.
    """
    ids = _encode(tokenizer, task, text)
    if len(ids) <= limit:
        return ids, False
    low, high = 0, len(text)
    while low < high:  # the longest prefix of the text that fits
        middle = (low + high + 1) // 2
        if len(_encode(tokenizer, task, text[:middle])) <= limit:
            low = middle
        else:
            high = middle - 1
    return _encode(tokenizer, task, text[:low]), True


def _encode(tokenizer: Any, task: Mapping[str, Any], text: str) -> list[int]:
    """Return the prompt's token ids.

    Raises:
        RunError: The tokenizer or its chat template fails.
    """
    prompt = fill(task.get("prompt") or "{{ text }}", text)
    chat = task.get("chat")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if chat is False or (chat is None and not has_template):
        return tokenized(tokenizer, prompt)
    messages = [{"role": "user", "content": prompt}]
    if system := task.get("system"):
        messages.insert(0, {"role": "system", "content": system})
    try:
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])
    except Exception as error:  # templates are programs: they raise errors of any type
        what = "The tokenizer's chat template (chat = false in the task leaves it out)"
        raise RunError("M726", what=what, reason=_sentence(error)) from None


def tokenized(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """Return a text's token ids.

    Raises:
        RunError: The tokenizer fails.
    """
    try:
        return list(tokenizer(text, **options)["input_ids"])
    except Exception as error:  # a tokenizer that loads may still be malformed
        raise RunError("M726", what="The tokenizer", reason=_sentence(error)) from None


def check_ids(model: Any, ids: Sequence[int]) -> None:
    """Check that a text has tokens, and that a model's embedding has a row for each.

    Raises:
        RunError: It has none, or a token has none.
    """
    if not ids:
        raise RunError("M726", what="The tokenizer", reason="it makes no token of the text")
    rows = rows_of(model)
    if rows is not None and max(ids) >= rows:
        reason = f"it makes token {max(ids)}, and the model's embedding has {rows} rows"
        raise RunError("M726", what="The tokenizer", reason=reason)


def rows_of(model: Any) -> int | None:
    """Return the number of tokens that a model has embeddings for; None if it does not tell."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError):
        return None


def _sentence(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
