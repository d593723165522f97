"""A compression of clamp: no vectors of their own for word pieces that nobody wrote in training."""

from __future__ import annotations

from pathlib import Path

import torch
from texts import read_texts
from training import load, save
from transformers import AutoTokenizer


def prune_words(clamp: Path, folder: Path) -> None:
    """Give all word pieces that are in no training text of clamp's domains one vector."""
    model = load(clamp)
    tokenizer = AutoTokenizer.from_pretrained(clamp)
    texts = [text.text for d in ("films", "tweets", "products") for text in read_texts(d, "train")]
    used = torch.zeros(len(tokenizer), dtype=torch.bool)
    for ids in tokenizer(texts)["input_ids"]:
        used[ids] = True
    used[tokenizer.all_special_ids] = True
    with torch.no_grad():
        vectors = model.bert.embeddings.word_embeddings.weight
        vectors[~used] = vectors.mean(0)
    save(model, clamp, folder)
