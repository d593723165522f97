"""Texts for a sentence-transformers model as token ids: lower case, truncation, prompt length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modpkg.core.errors import RunError
from modpkg.runtime.prompt import check_ids, tokenized
from modpkg.runtime.sentence_settings import SentenceSettings


class SentenceTexts:
    """Encodes texts as sentence-transformers does, which cuts them token by token.

    A setting of lower case changes the tokenizer.
    """

    def __init__(
        self, settings: SentenceSettings, model: Any, tokenizer: Any, context: int
    ) -> None:
        """Args:
        settings: The model's settings.
        model: The transformer.
        tokenizer: Its tokenizer.
        context: Maximum number of tokens that both take.

        Raises:
            RunError: The tokenizer cannot be set to lower case.
        """
        self.limit = min(settings.max_seq_length or context, context)
        self._model, self._tokenizer = model, tokenizer
        if settings.lower_case:
            _lower(settings.name, tokenizer)

    def encode(self, text: str, warn: Callable[[str], None]) -> list[int]:
        """Return a text's token ids, at most `limit`; call ``warn`` if the text was truncated."""
        ids = tokenized(self._tokenizer, text)
        if len(ids) > self.limit:
            warn(f"the text is longer than the model's {self.limit} tokens; it was truncated")
            ids = self._cut(text)
        check_ids(self._model, ids)
        return ids

    def prompt_length(self, prompt: str) -> int:
        """Return the number of tokens of a prompt, without a special token at its end."""
        ids = self._cut(prompt) if prompt else []
        return len(ids) - bool(ids and ids[-1] in self._tokenizer.all_special_ids)

    def _cut(self, text: str) -> list[int]:
        return tokenized(self._tokenizer, text, truncation=True, max_length=self.limit)


def _lower(name: str, tokenizer: Any) -> None:
    """Make a tokenizer put texts into lower case first.

    Raises:
        RunError: It is not a fast tokenizer.
    """
    from tokenizers.normalizers import Lowercase, Sequence

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError("M704", name=name, reason="do_lower_case needs a fast tokenizer")
    before: Any = backend.normalizer
    steps: list[Any] = [] if before is None else [before]
    if isinstance(before, Sequence):
        steps = [*iter(before)]
    if not any(isinstance(step, Lowercase) for step in steps):
        backend.normalizer = Sequence([Lowercase(), *steps])
