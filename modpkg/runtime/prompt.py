"""Prompt templates. ``{{ text }}`` is the only placeholder."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from modpkg.compose import templates
from modpkg.compose.confinement import chat_template_file, confined
from modpkg.core.errors import RunError
from modpkg.core.printable import error_text

Conversation = Sequence[dict[str, str]]
"""Messages, each with ``role`` (``system``, ``user`` or ``assistant``) and ``content``."""
_TEXT = re.compile(r"\{\{\s*text\s*\}\}")


def fill(template: str, text: str) -> str:
    """Return ``template`` with every ``{{ text }}`` replaced; placeholders in the text are kept.

    >>> fill("Summarize: {{ text }}", "a {{ text }} b")
    'Summarize: a {{ text }} b'
    """
    return _TEXT.sub(lambda match: text, template)


def token_ids(
    tokenizer: Any,
    task: Mapping[str, Any],
    text: str | Conversation,
    limit: int,
    *,
    whole: int = 0,
) -> tuple[list[int], bool]:
    """Return the prompt's token ids, and whether the text was truncated to fit ``limit``.

    A prompt of at most ``whole`` tokens is not truncated, even if that is more than ``limit``.
    Of a text only the end is removed, never the instruction around it. A conversation loses its
    oldest messages after the system's, then the end of the last one.
    """
    ids = _encode(tokenizer, task, text)
    if len(ids) <= max(limit, whole):
        return ids, False
    if not isinstance(text, str):
        first = int(bool(text) and text[0]["role"] == "system")
        if len(text) > first + 1:
            rest = list(text[first + 1 :])
            while len(rest) > 1 and rest[0]["role"] == "assistant":  # an answer to what is gone
                del rest[0]
            shorter = [*text[:first], *rest]
            return token_ids(tokenizer, task, shorter, limit)[0], True
        content = text[-1]["content"]
        kept = [*text[:-1], {**text[-1]}]

        def begun(length: int) -> str | Conversation:
            kept[-1]["content"] = content[:length]
            return kept

    else:
        content = text

        def begun(length: int) -> str | Conversation:
            return content[:length]

    low, high = 0, len(content)
    while low < high:  # the longest beginning of the text that fits
        middle = (low + high + 1) // 2
        if len(_encode(tokenizer, task, begun(middle))) <= limit:
            low = middle
        else:
            high = middle - 1
    return _encode(tokenizer, task, begun(low)), True


def prepare(tokenizer: Any, task: Mapping[str, Any]) -> None:
    """Start what renders the tokenizer's chat template, if the task has use for it."""
    if task.get("chat") is not False and getattr(tokenizer, "chat_template", None) is not None:
        with contextlib.suppress(RunError), confined():
            templates.prepare(chat_template_file())


def _encode(tokenizer: Any, task: Mapping[str, Any], text: str | Conversation) -> list[int]:
    """Return the prompt's token ids.

    Raises:
        RunError: The tokenizer or its chat template fails, or it has none for a conversation.
    """
    chat = task.get("chat")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    messages: list[dict[str, str]]
    if isinstance(text, str):
        prompt = fill(task.get("prompt") or "{{ text }}", text)
        if chat is False or (chat is None and not has_template):
            return tokenized(tokenizer, prompt)
        messages = [{"role": "user", "content": prompt}]
    elif not has_template:
        reason = "the model's tokenizer has no chat template; pass a text"
        raise RunError("M709", choice="A conversation", reason=reason)
    else:
        messages = list(text)
    if (system := task.get("system")) and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    try:
        with confined():
            chat_template_file()
            encoded = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        return list(encoded["input_ids"])
    except RunError:
        raise
    except BaseException as error:  # templates are programs: they raise errors of any type
        if not _is_failure(error):
            raise
        what = "The tokenizer's chat template (chat = false in the task leaves it out)"
        raise RunError("M726", what=what, reason=_reason(error)) from None


def tokenized(tokenizer: Any, text: str, **options: Any) -> list[int]:
    """Return a text's token ids.

    Raises:
        RunError: The tokenizer fails.
    """
    try:
        return list(tokenizer(text, **options)["input_ids"])
    except BaseException as error:  # a tokenizer that loads may still be malformed
        if not _is_failure(error):
            raise
        raise RunError("M726", what="The tokenizer", reason=_reason(error)) from None


def _is_failure(error: BaseException) -> bool:
    """Return whether a tokenizer failed, rather than that the program is to end.

    The library's own panics, as at its bound on a pattern's work, are no `Exception`.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


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


def _reason(error: BaseException) -> str:
    if isinstance(error, templates.TemplateFailed):  # its text has the type
        return " ".join(str(error).split())[:300].rstrip(".")
    return error_text(error).rstrip(".")
