"""Configs that ask for more than their weights hold: refused before it is built."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modpkg.compose import backing
from modpkg.compose.backing import backed_by
from modpkg.core.errors import ModpkgError
from modpkg.runtime.load import load_model
from modpkg.runtime.loading_report import loading_report
from modpkg.runtime.meta_model import meta_model
from tests.raising import raises
from tests.runtime.helpers import bert, gpt2, install, llama

HUGE = 30_000_000
TYPES = {"model.norm.weight": (torch.float32, (32,))}


def gptj() -> Any:
    """A model that computes a table of positions, which no file has."""
    return transformers.GPTJForCausalLM(
        transformers.GPTJConfig(
            vocab_size=97, n_embd=32, n_layer=1, n_head=4, n_positions=16, rotary_dim=4
        )
    )


def m2m() -> Any:
    """Another one, in Python."""
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 97}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 16}
    config = transformers.M2M100Config(**sizes, **heads, **widths)
    return transformers.M2M100ForConditionalGeneration(config)


MODELS = {"llama": llama, "gpt2": gpt2, "bert": bert, "gptj": gptj, "m2m": m2m}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: install(folder / name, make(), with_tokenizer=False) for name, make in MODELS.items()
    }


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backing, "BUILT_PARTS", 500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 500_000


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("llama", {"num_hidden_layers": HUGE}),
        ("llama", {"num_hidden_layers": 60_000}),
        ("llama", {"num_labels": HUGE}),
        ("llama", {"vocab_size": HUGE * 1000}),
        ("llama", {"intermediate_size": HUGE}),
        ("llama", {"head_dim": HUGE}),
        ("llama", {"chunk_size": HUGE}),
        ("llama", {"text_config": {"mamba_chunk_size": HUGE}}),
        ("llama", {"text_config": {"num_hidden_layers": HUGE}}),
        ("bert", {"max_position_embeddings": HUGE * 100}),
        ("bert", {"type_vocab_size": HUGE * 100}),
        ("gpt2", {"n_positions": HUGE}),
        ("gpt2", {"n_layer": 60_000}),
        ("gptj", {"n_positions": HUGE}),
        ("m2m", {"max_position_embeddings": HUGE}),
        ("m2m", {"encoder_layers": 30_000}),
    ],
    ids=str,
)
def test_more_than_the_weights_hold(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, model: str, changes: dict[str, Any]
) -> None:
    home, packs = models[model]
    config = json.loads((home / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    (tmp_path / "model.json").write_bytes((home / "model.json").read_bytes())
    with raises("M704"):
        load_model(tmp_path, packs)


@pytest.mark.parametrize("layers", [60_000, HUGE])
def test_a_report_and_a_layout_are_bounded(tmp_path: Path, layers: int) -> None:
    config = {**llama().config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    config |= {"num_hidden_layers": layers, "layer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with raises("M704", match=r"config\.json is invalid"):
        loading_report("m", tmp_path, TYPES)
    with raises("M704", match=r"config\.json is invalid"):
        meta_model("m", config, 1)


def test_an_encoder_of_a_language_model_is_bounded(tmp_path: Path) -> None:
    config = {**bert().config.to_dict(), "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9000}))
    (tmp_path / "modules.json").write_text("[]")
    with raises("M704", match="more than"):
        loading_report("m", tmp_path, {"pooler.dense.weight": (torch.float32, (32, 32))})


@pytest.mark.parametrize("model", MODELS)
def test_honest_models_are_loaded(models: dict[str, tuple[Path, Path]], model: str) -> None:
    assert load_model(*models[model]) is not None


def test_positions_of_a_decoder_cost_nothing() -> None:
    """So a number that no tensor has is none to watch each operation for."""
    config = llama(max_position_embeddings=10_000_000).config
    with backed_by("m", transformers.LlamaForCausalLM, config, {}):
        transformers.LlamaForCausalLM(config)


def test_memory_that_no_tensor_backs_is_refused_before_it_is_taken() -> None:
    tensors = {"a": torch.zeros(4)}

    class Greedy(torch.nn.Module):
        def __init__(self, make: Any) -> None:
            super().__init__()
            make()

    for make in (
        lambda: torch.ones(1 << 40),
        lambda: torch.arange(1 << 40),
        lambda: torch.empty(1 << 50),
        lambda: torch.full((1 << 20, 1 << 20), 0.5),
        lambda: torch.outer(torch.ones(1 << 20), torch.ones(1 << 20)),
        lambda: torch.ones(1 << 20)[:, None] * torch.ones(1 << 20),
        lambda: torch.ones(2, 2).repeat(1 << 20, 1 << 20),
        lambda: torch.nn.Linear(1 << 20, 1 << 20),
        lambda: torch.nn.functional.one_hot(torch.arange(1 << 20), 1 << 20),
        lambda: [torch.ones(1 << 24) for _ in range(1 << 20)],
    ):
        with pytest.raises(ModpkgError, match="far more memory"):  # noqa: SIM117
            with backed_by("m", Greedy, transformers.LlamaConfig(), tensors):
                Greedy(make)
