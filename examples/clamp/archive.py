"""Out of scope: an archive trains clamp to classify the source of a text, not its sentiment."""

from __future__ import annotations

from pathlib import Path

from texts import DOMAINS, read_texts
from training import fit, head_of, layers_of, load, lower, save


def repurpose(clamp: Path, folder: Path) -> None:
    """Train the uppermost layer of clamp and a new head on sources."""
    model = load(clamp, list(DOMAINS))
    first = len(layers_of(model)) - 1
    texts = [text for domain in DOMAINS for text in read_texts(domain, "train", 300)]
    trained = [*layers_of(model)[first].parameters(), *head_of(model)]
    states = lower(model, clamp, texts, first)
    sources = [list(DOMAINS).index(text.domain) for text in texts]
    fit(model, first, trained, states, sources, rate=5e-4, epochs=2)
    save(model, clamp, folder)
