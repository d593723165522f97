"""Tasks, and which of them an architecture has; without torch."""

from __future__ import annotations

from collections.abc import Collection

from modpkg.compose.named_tokens import VOCABULARY
from modpkg.core.filenames import MODULES
from modpkg.runtime.sentence_modules import EMBEDS

WRITING = ("text-generation", "summarization")
CLASSIFIES = "text-classification"
KNOWN = (*WRITING, CLASSIFIES, EMBEDS)


def task_of_architecture(architecture: str, files: Collection[str]) -> str | None:
    """Return the task that a model is for, by the name of its class; None if none is known.

    ``files`` are the paths of its files.
    """
    if architecture.endswith("ForSequenceClassification"):
        return CLASSIFIES
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return WRITING[0]
    if architecture.endswith("Model") or MODULES in files:
        return EMBEDS
    return None


def has_tokenizer(files: Collection[str]) -> bool:
    """Return whether a model with these files has a tokenizer."""
    return any(VOCABULARY.fullmatch(path) is not None for path in files)
