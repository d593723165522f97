"""What a config says of code, kernels and hubs never reaches transformers."""

from __future__ import annotations

from typing import Any

import pytest

from modpkg.compose.named_code import check_no_code, without_choices
from tests.raising import raises

FINE: list[dict[str, Any]] = [
    {},
    {"auto_map": {}, "trust_remote_code": False, "auto_map_of": "x"},
    {"_attn_implementation": "eager"},
    {"attn_implementation": "flash_attention_2"},
    {"_attn_implementation": {"text_config": "sdpa", "": None}},
    {"backbone": "resnet50", "backbone_config": None},
    {"backbone": "facebook/dino", "backbone_config": {"model_type": "dinov2"}},
    {"architecture": "vit_base_patch16_224"},
    {"_name_or_path": "someone/model"},
]


@pytest.mark.parametrize("config", FINE)
def test_plain_configs_are_fine(config: dict[str, Any]) -> None:
    check_no_code("m", config)
    check_no_code("m", {"text_config": config})


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoModel": "a.B"}},
        {"trust_remote_code": True},
        {"custom_pipelines": {"x": {}}},
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "someone/kernel@main:flash"},
        {"_attn_implementation": {"text_config": "someone/kernel"}},
        {"_attn_implementation_internal": "paged|someone/kernel"},
        {"_experts_implementation": "someone/kernel"},
        {"backbone": "someone/backbone"},
        {"model_type": "timm_backbone", "backbone": "hf-hub:someone/backbone"},
        {"architecture": "local-dir:/tmp/x"},
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_code_kernels_and_addresses_are_refused_at_any_depth(
    config: dict[str, Any], depth: int
) -> None:
    for _ in range(depth):
        config = {"parts": [{"vision_config": config}]}
    with raises("M707"):
        check_no_code("m", config)


def test_depth_is_bounded() -> None:
    config: dict[str, Any] = {}
    for _ in range(500):
        config = {"a": config}
    with raises("M704"):
        check_no_code("m", config)


def test_only_eager_and_sdpa_can_be_chosen() -> None:
    config = {
        "_attn_implementation": "flex_attention",
        "text_config": {
            "attn_implementation": "sdpa",
            "layers": [{"_experts_implementation": "x"}],
        },
        "vision_config": {"_attn_implementation": {"": "flash_attention_3"}, "depth": 2},
    }
    assert without_choices(config) == {
        "text_config": {"attn_implementation": "sdpa", "layers": [{}]},
        "vision_config": {"depth": 2},
    }
