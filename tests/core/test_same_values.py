"""Tensors that one file of a model has and another leaves out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modpkg.core.records import TensorType, TouchedTensor
from modpkg.core.same_values import in_terms_of, is_computed, tied_output, ties
from modpkg.core.tied_by_default import FORCED

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


DEFAULT = re.compile(
    r"^class (\w+)\((\w+)|^    tie_word_embeddings\b.*= (True|False)$", re.MULTILINE
)
SETTLED_LATER = {
    "blt_local_encoder",
    "csm",
    "perception_lm",
    "shieldgemma2",
    "t5",
    "umt5",
    "vibevoice",
}
"""Kinds whose configuration sets the default when it is made."""


def test_the_defaults_are_those_of_transformers() -> None:
    from transformers.models.auto import configuration_auto

    defaults: dict[str, bool | None] = {}
    for file in Path(configuration_auto.__file__).parent.parent.glob("*/configuration_*.py"):
        name = ""
        for match in DEFAULT.finditer(file.read_text()):
            if match[1]:
                name = match[1]
                defaults[name] = defaults.get(match[2])  # as its parent
            else:
                defaults[name] = match[3] == "True"
    assert len(defaults) > 300
    for kind, name in configuration_auto.CONFIG_MAPPING_NAMES.items():
        if kind not in SETTLED_LATER:
            assert ties({"model_type": kind}) is defaults.get(name), kind


NESTED = ("llava", "llava_next", "qwen2_vl", "perception_lm", "gemma3", "voxtral")


@pytest.mark.parametrize("kind", [*NESTED, *sorted(FORCED), "llama", "gpt2"])
@pytest.mark.parametrize("own", [None, True, False])
@pytest.mark.parametrize("inner", [None, True, False])
def test_who_decides_is_as_in_transformers(kind: str, own: bool | None, inner: bool | None) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    raw: dict[str, Any] = {"model_type": kind}
    raw |= {} if own is None else {"tie_word_embeddings": own}
    if kind in NESTED:
        text = {"model_type": "gemma3_text" if kind == "gemma3" else "llama"}
        raw["text_config"] = text | ({} if inner is None else {"tie_word_embeddings": inner})
    config = CONFIG_MAPPING[kind].from_dict(dict(raw))
    decided = getattr(config, "tie_word_embeddings", None)
    if decided is None:
        decided = config.text_config.tie_word_embeddings
    assert ties(raw) is decided


def test_a_copy_that_the_config_does_not_mention_is_as_its_architecture_has_it() -> None:
    assert tied_output(COPY, {"model_type": "gpt2"}) is not None
    assert tied_output(COPY, {"model_type": "llama"}) is None
    assert tied_output(COPY, {"model_type": "of somebody's own"}) is None
