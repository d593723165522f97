"""The founders: MiniLM with a head that film critics trained, and the head of an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from texts import DOMAINS, LABELS, Text, read_texts
from training import fit, head_of, layers_of, load, lower, save, save_head


def found(encoder: Path, folder: Path) -> None:
    """Train a head that tells the feeling of film snippets; the encoder stays as it is."""
    model = load(encoder, LABELS)
    films = read_texts("films", "train")
    states = lower(model, encoder, films, len(layers_of(model)))
    fit(model, len(layers_of(model)), head_of(model), states, labels(films), rate=2e-3, epochs=15)
    save(model, encoder, folder)


def archive(clamp: Path, folder: Path) -> None:
    """Train a head that tells where a text comes from, on clamp as it is."""
    model = load(clamp, list(DOMAINS))
    texts = [text for domain in DOMAINS for text in read_texts(domain, "train", 600)]
    states = lower(model, clamp, texts, len(layers_of(model)))
    sources = [list(DOMAINS).index(text.domain) for text in texts]
    fit(model, len(layers_of(model)), head_of(model), states, sources, rate=2e-3, epochs=15)
    save_head(model, folder)


def labels(texts: Sequence[Text]) -> list[int]:
    """Return the labels of texts."""
    return [text.label for text in texts]
