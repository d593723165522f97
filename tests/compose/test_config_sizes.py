"""What a config counts is bounded before transformers makes lists of it."""

from __future__ import annotations

from typing import Any

import pytest

from modpkg.compose.config_sizes import check_config_sizes, size_problem


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size_per_layer_input": 262_144, "hidden_size_per_layer_input": 256},  # Gemma 3n
        {"layer_rope_theta": 500_000.0, "block_size": 131_072},
        {"num_hidden_layers": 126, "num_local_experts": 128, "depths": [3, 3, 27, 3]},
    ],
)
def test_numbers_of_layers_that_count_something_else(sizes: dict[str, Any]) -> None:
    assert size_problem({"text_config": sizes}) is None


@pytest.mark.parametrize(
    "key",
    [
        *("num_hidden_layers", "depth", "num_blocks", "n_layer", "stages", "num_experts"),
        *("num_attention_heads", "num_labels", "chunk_size"),
    ],
)
def test_numbers_are_bounded(key: str) -> None:
    for config in ({key: 10**6}, {"text_config": {key: 10**6}}, {"parts": [{key: [10**6]}]}):
        assert key in str(size_problem(config))
    with pytest.raises(ValueError, match=key):
        check_config_sizes({key: 1e300})
