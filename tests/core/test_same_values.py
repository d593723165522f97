"""Tensors that one file of a model has and another leaves out."""

from __future__ import annotations

import pytest

from modpkg.core.records import TensorType, TouchedTensor
from modpkg.core.same_values import in_terms_of, is_computed, tied_output

Tensors = dict[str, TouchedTensor]


def tensor(digit: str, *shape: int) -> TouchedTensor:
    return TouchedTensor("F32", list(shape), f"sha256:{digit * 64}")


EMBEDDING = {"model.embed_tokens.weight": tensor("1", 9, 4)}
COPY = {**EMBEDDING, "lm_head.weight": tensor("1", 9, 4)}
OTHER = {**EMBEDDING, "lm_head.weight": tensor("2", 9, 4)}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


@pytest.mark.parametrize(
    ("tensors", "other", "configs", "expected"),
    [
        (COPY, EMBEDDING, (TIED, TIED), EMBEDDING),
        (EMBEDDING, COPY, (TIED, TIED), COPY),
        (COPY, COPY, (TIED, TIED), COPY),
        (OTHER, EMBEDDING, (UNTIED, TIED), OTHER),  # its output layer is its own
        (EMBEDDING, OTHER, (TIED, UNTIED), EMBEDDING),
        (COPY, EMBEDDING, (TIED, UNTIED), COPY),  # without it, the other has no output layer
        (EMBEDDING, COPY, ({"text_config": UNTIED}, TIED), EMBEDDING),
    ],
)
def test_copies_of_tied_tensors(
    tensors: Tensors, other: Tensors, configs: tuple[dict[str, bool], ...], expected: Tensors
) -> None:
    assert in_terms_of(tensors, other, *configs) == expected


@pytest.mark.parametrize(
    ("name", "shape", "computed"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", [4], True),
        ("bert.embeddings.position_ids", [1, 8], True),
        ("h.0.attn.masked_bias", [], True),
        ("h.0.attn.bias", [1, 1, 8, 8], True),
        ("h.0.attn.bias", [8], False),
        ("bert.embeddings.position_embeddings.weight", [8, 4], False),
    ],
)
def test_computed_buffers(name: str, shape: list[int], computed: bool) -> None:
    assert is_computed(name, TensorType("F32", shape)) == computed
    buffer = {name: TouchedTensor("F32", shape, "sha256:" + "3" * 64)}
    without: Tensors = {} if computed else buffer
    assert in_terms_of(buffer, {}, UNTIED, UNTIED) == without


@pytest.mark.parametrize(
    ("tensors", "config", "expected"),
    [
        (COPY, TIED, ("lm_head.weight", "model.embed_tokens.weight")),
        (COPY, UNTIED, None),
        (OTHER, TIED, None),
        (EMBEDDING, TIED, None),
    ],
)
def test_a_tied_output_layer_is_the_embedding(
    tensors: Tensors, config: dict[str, bool], expected: tuple[str, str] | None
) -> None:
    assert tied_output(tensors, config) == expected
