"""Compressions of clamp: fewer bits for every weight, or no vectors for words that nobody wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from texts import DOMAINS, read_texts
from training import load, save
from transformers import AutoTokenizer


def prune_words(clamp: Path, folder: Path) -> float:
    """Give all word pieces that no training text has one vector, and return their share."""
    model = load(clamp)
    tokenizer = AutoTokenizer.from_pretrained(clamp)
    texts = [text.text for domain in DOMAINS for text in read_texts(domain, "train")]
    used = torch.zeros(len(tokenizer), dtype=torch.bool)
    for ids in tokenizer(texts)["input_ids"]:
        used[ids] = True
    used[tokenizer.all_special_ids] = True
    with torch.no_grad():
        vectors = model.bert.embeddings.word_embeddings.weight
        vectors[~used] = vectors.mean(0)
    save(model, clamp, folder)
    return 1 - float(used.float().mean())
