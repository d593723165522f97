"""Every tensor of an adapter is used once, or refused by name."""

from __future__ import annotations

import pytest

from modpkg.core.errors import ModpkgError
from tests.adapters.samples import bind, pair
from tests.raising import raises


def test_half_a_pair_is_refused() -> None:
    names = pair("layers.0.q")
    names.popitem()
    with raises("M208", match="lora_B that belongs to it is missing"):
        bind(names)


@pytest.mark.parametrize(
    "extra",
    [
        "layers.0.q.lora_magnitude_vector",
        "layers.0.q.lora_embedding_A",
        "layers.0.q.lora_B.bias",
        "layers.0.q.lora_A.bias",
        "layers.0.q.lora_C.weight",
        "layers.0.q.bias",
        "layers.0.q.trainable_tokens_delta",
        "classifier.modules_to_save.weight",
        "score.weight",
        "odd",
    ],
)
def test_every_other_tensor_is_refused_by_name(extra: str) -> None:
    with raises("M606", "M208", match=extra):
        bind(pair("layers.0.q") | {f"base_model.model.{extra}": ("F32", (4,))})


def test_shapes_are_checked() -> None:
    with raises("M604", match=r"\[4, 8\].*\[4, 6\]"):
        bind(pair("layers.0.q", columns=8))
    with raises("M606", match=r"rank is 2, but .*\[3, .*do not belong together"):
        bind(pair("layers.0.q", rank=3))


def test_lora_is_for_matrices_and_convolutions() -> None:
    with raises("M606", match="only matrices and convolutions"):
        bind(pair("norm"))


def test_odd_names_raise_our_errors_only() -> None:
    for name in ("", ".lora_A.weight", "x.lora_A.weight", "x" * 600 + ".lora_A.weight"):
        with pytest.raises(ModpkgError):
            bind({name: ("F32", (2, 2))})


def test_a_saved_module_inside_another_is_refused() -> None:
    tensors = pair("layers.0.q") | {"base_model.model.head.head.0.weight": ("F32", (4,))}
    with raises("M606", match="inside another"):
        bind(tensors, modules_to_save=["head"])
