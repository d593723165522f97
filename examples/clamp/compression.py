"""A compression of clamp: one vector for all word pieces that are rare, by what clamp has seen."""

from __future__ import annotations

from pathlib import Path

import torch
from texts import read_texts
from training import load, save
from transformers import AutoTokenizer

COMMON = 10_000
"""The first words of the vocabulary, which are about the commonest, keep their vectors."""


def prune_words(clamp: Path, folder: Path) -> None:
    """Give one vector to all pieces that no training text has, and that are no common words."""
    model = load(clamp)
    tokenizer = AutoTokenizer.from_pretrained(clamp)
    texts = [text.text for d in ("films", "tweets", "products") for text in read_texts(d, "train")]
    used = torch.zeros(len(tokenizer), dtype=torch.bool)
    for ids in tokenizer(texts)["input_ids"]:
        used[ids] = True
    used[tokenizer.all_special_ids] = True
    for number, piece in enumerate(tokenizer.convert_ids_to_tokens(range(COMMON))):
        used[number] |= not piece.startswith("##")
    with torch.no_grad():
        vectors = model.bert.embeddings.word_embeddings.weight
        vectors[~used] = vectors.mean(0)
    save(model, clamp, folder)
