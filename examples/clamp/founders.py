"""The founders: MiniLM with a head that film critics trained, and another head for complaints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from texts import LABELS, Text, read_texts
from training import fit, head_of, layers_of, load, lower, save, save_head


def found(encoder: Path, folder: Path) -> None:
    """Train a sentiment head on film snippets; the encoder is frozen."""
    model = load(encoder, LABELS)
    films = read_texts("films", "train")
    states = lower(model, encoder, films, len(layers_of(model)))
    fit(model, len(layers_of(model)), head_of(model), states, labels(films), rate=2e-3, epochs=15)
    save(model, encoder, folder)


def complaints(clamp: Path, folder: Path) -> None:
    """Train a head that detects complaints, mostly about products, on the frozen clamp."""
    model = load(clamp, ["complaint", "other"])
    texts = read_texts("products", "train", 800) + read_texts("films", "train", 400)
    states = lower(model, clamp, texts, len(layers_of(model)))
    other = [int(text.label != LABELS.index("negative")) for text in texts]
    fit(model, len(layers_of(model)), head_of(model), states, other, rate=2e-3, epochs=10)
    save_head(model, folder)


def labels(texts: Sequence[Text]) -> list[int]:
    """Return the labels of texts."""
    return [text.label for text in texts]
