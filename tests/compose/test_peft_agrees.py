"""The same weights as PEFT's merge, on small models of three families."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from modpkg.compose.executor import compose
from tests.compose.helpers import of_folder, planned, values

SMALL = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama() -> Any:
    config = transformers.LlamaConfig(**SMALL, intermediate_size=48, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SMALL, intermediate_size=48))


CASES = {
    "llama q v": (llama, {"target_modules": ["q_proj", "v_proj"]}),
    "llama all": (llama, {"target_modules": "all-linear", "use_rslora": True}),
    "llama patterns": (
        llama,
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "rank_pattern": {"v_proj": 3, r"layers\.0\.mlp\.down_proj": 5},
            "alpha_pattern": {r"^model.layers.1.self_attn.q_proj": 32, "down_proj": 2},
        },
    ),
    "gpt2 Conv1D": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "gpt2 square Conv1D": (gpt2, {"target_modules": [r"attn.c_proj"]}),
    "bert": (bert, {"target_modules": ["query", "dense"]}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_the_merge_is_pefts(case: str, tmp_path: Path) -> None:
    build, config = CASES[case]
    torch.manual_seed(7)
    model = build()
    model.save_pretrained(tmp_path / "base")
    settings = {"r": 4, "lora_alpha": 16, "init_lora_weights": False, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
        wrapped.save_pretrained(tmp_path / "adapter")
        merged = wrapped.merge_and_unload()
    composition = planned(
        of_folder(tmp_path / "base", "base", "base"),
        of_folder(tmp_path / "adapter", "adapter", "adapter"),
    )
    got = values(compose(composition, tmp_path / "store").tensors)
    assert composition.made
    expected = {name: value.detach() for name, value in merged.state_dict().items()}
    prefix = merged.base_model_prefix + "."
    for name, tensor in got.items():
        wanted = expected.get(name, expected.get(prefix + name))
        assert wanted is not None, name
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
