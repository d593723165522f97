"""A new domain: a seventh layer that learned to read editorials, above six that stay.

Growing a model by layers that change nothing at first, and training them alone, is Wu et al. 2024,
"LLaMA Pro" (arXiv 2401.02415).
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from spaces import without_spaces
from texts import read_texts
from training import fit, layers_of, load, lower, save


def extend(clamp: Path, folder: Path) -> None:
    """Add a layer to clamp and train it on editorials, beside some of all that it knows."""
    model = load(clamp)
    layers = layers_of(model)
    count = len(layers)
    layers.append(copy.deepcopy(layers[-1]))
    with torch.no_grad():  # what the new layer adds to what it gets is nothing yet
        for dense in (layers[-1].attention.output.dense, layers[-1].output.dense):
            dense.weight.zero_()
            dense.bias.zero_()
    model.config.num_hidden_layers = count + 1
    known = [text for d in ("films", "tweets", "products") for text in read_texts(d, "train", 300)]
    scanned = [text._replace(text=without_spaces(text.text)) for text in known[::3]]
    texts = [*read_texts("editorials", "train", 800), *known, *scanned]
    states = lower(model, clamp, texts, count)
    wanted = [text.label for text in texts]
    fit(model, count, layers[-1].parameters(), states, wanted, rate=5e-4, epochs=2)
    save(model, clamp, folder)
