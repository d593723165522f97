"""Routers computed from prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modpkg.compose.executor import compose
from modpkg.compose.memory import peak_bytes
from modpkg.core.installed import InstalledModule
from tests.compose.helpers import of_folder, values
from tests.compose.mixtures import dense, expert, mixed
from tests.raising import raises
from tests.runtime.helpers import tokenizer

PROMPTS: dict[str, Any] = {
    "base": {"prompts": "the cat sat on a mat"},
    "one": {"prompts": ("a cat slept", "it sat on the cat"), "negative_prompts": "the mat"},
}


def gates(
    folder: Path, base: InstalledModule, mode: str, prompts: dict[str, Any] = PROMPTS
) -> list[torch.Tensor]:
    """Return the routers of a mixture of the base and another expert, by layer."""
    composition = mixed(base, [base, expert(folder, base, "one", 1)], {"gates": mode}, prompts=prompts)  # fmt: skip  # noqa: E501
    assert peak_bytes(composition, 1) > 8 * 3 * 16 * 24
    found = values(compose(composition, folder / "store").tensors)
    return [found[name] for name in sorted(composition.routers)]


def expected(folder: Path, mode: str) -> list[torch.Tensor]:
    """Return the same, from all states of transformers' model in float64."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()

    def mean(prompts: list[str]) -> torch.Tensor:
        found = []
        for prompt in prompts:
            ids = torch.tensor([tokenizer()(prompt)["input_ids"]])
            with torch.inference_mode():
                states = model(ids, output_hidden_states=True).hidden_states[:-1]
            stacked = torch.stack(states)[:, 0]
            found.append(stacked.mean(1) if mode == "hidden_avg" else stacked[:, -1])
        return torch.stack(found).mean(0)

    one = mean(["a cat slept", "it sat on the cat"]) - mean(["the mat"])
    rows = torch.stack([mean(["the cat sat on a mat"]), one], dim=1)
    return list((rows / rows.norm(dim=-1, keepdim=True)).float())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["hidden", "hidden_avg"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3"])  # Qwen2's tokenizer has no words
def test_rows_are_the_bases_hidden_states(tmp_path: Path, kind: str, mode: str) -> None:
    base = dense(tmp_path, kind, **({"head_dim": 8} if kind == "qwen3" else {}))
    for got, wanted in zip(gates(tmp_path, base, mode), expected(tmp_path / "base", mode), strict=True):  # fmt: skip  # noqa: E501
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_cheap_embeddings_are_the_same_for_every_layer(tmp_path: Path) -> None:
    base = dense(tmp_path)
    found = gates(tmp_path, base, "cheap_embed")
    ids = tokenizer()("the cat sat on a mat")["input_ids"]
    row = values(base.tensors)["model.embed_tokens.weight"][ids].double().sum(0)
    torch.testing.assert_close(found[0][0], (row / row.norm()).float())
    assert torch.equal(found[0], found[2])


@pytest.mark.filterwarnings("ignore")
def test_rows_depend_only_on_their_prompts(tmp_path: Path) -> None:
    base = dense(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first = gates(tmp_path / "1", base, "hidden")
    finally:
        torch.set_num_threads(before)
    other = {**PROMPTS, "one": {"prompts": "then it slept"}}
    second = gates(tmp_path / "2", base, "hidden", other)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a[1], b[1]) for a, b in zip(first, second, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_the_key_covers_prompts_mode_tokenizer_and_weights(tmp_path: Path) -> None:
    base = dense(tmp_path)
    one = expert(tmp_path, base, "one", 1)

    def key(base: InstalledModule = base, mode: str = "hidden", **prompts: Any) -> str:
        own = {**PROMPTS, "one": {**PROMPTS["one"], **prompts}}
        return mixed(base, [base, one], {"gates": mode}, prompts=own).key

    keys = {key(), key(prompts="a cat"), key(negative_prompts="it"), key(mode="hidden_avg")}
    assert key() in keys
    path = tmp_path / "base" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    keys.add(key(of_folder(tmp_path / "base", "base", "base")))
    assert len(keys) == 5


@pytest.mark.filterwarnings("ignore")
def test_prompts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    base = dense(tmp_path)
    same = {**PROMPTS, "one": {"prompts": "the cat", "negative_prompts": "the cat"}}
    with raises("M601", match="equal hidden states"):
        gates(tmp_path, base, "hidden", same)
    with raises("M609", match="one has no prompts"):
        gates(tmp_path, base, "hidden", {**PROMPTS, "one": {}})
    with raises("M601", match="prompts"):
        gates(tmp_path, base, "hidden", {**PROMPTS, "one": {"prompts": True}})
    with raises("M601", match="has no tokens"):
        gates(tmp_path, base, "hidden", {**PROMPTS, "one": {"prompts": " "}})
    settings = tmp_path / "base" / "tokenizer_config.json"
    settings.write_text('{"auto_map": {"AutoTokenizer": "x.Y"}}')
    with raises("M707"):
        gates(tmp_path, of_folder(tmp_path / "base", "base", "base"), "hidden")
    for path in (tmp_path / "base").glob("*token*"):
        path.unlink()
    with raises("M601", match="has no tokenizer"):
        gates(tmp_path, of_folder(tmp_path / "base", "base", "base"), "hidden")


@pytest.mark.filterwarnings("ignore")
def test_damaged_weights_are_not_read(tmp_path: Path) -> None:
    base = dense(tmp_path)
    ref = base.tensors["model.layers.0.self_attn.q_proj.weight"]
    with open(ref.file, "r+b") as file:
        file.seek(ref.offset)
        file.write(b"\x01\x02\x03")
    with raises("M508"):
        gates(tmp_path, base, "hidden")
