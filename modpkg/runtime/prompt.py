"""Prompt templates. ``{{ text }}`` is the only placeholder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
    prompt = fill(task.get("prompt") or "{{ text }}", text)
    chat = task.get("chat")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if chat is False or (chat is None and not has_template):
        return list(tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    if system := task.get("system"):
        messages.insert(0, {"role": "system", "content": system})
    encoded = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return list(encoded["input_ids"])
