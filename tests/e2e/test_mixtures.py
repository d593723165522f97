"""A mixture of experts from published modules: installed, changed by one expert, run, exported."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import modpkg as package
from tests.command import modpkg, modpkg_json, refused
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.runtime.helpers import tokenizer
from tests.tiny import HIDDEN, INNER, LAYERS, floats, publish, write_base

IDS = torch.tensor([[1, 5, 9, 3, 30, 2]])
BLOCK = 3 * HIDDEN * INNER * 4  # bytes of a layer's block in float32
ROW = LAYERS * HIDDEN * 4


def expert_files(seed: int, **shape: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    layers, hidden = shape.get("layers", LAYERS), shape.get("hidden", HIDDEN)
    tensors = {}
    for layer in range(layers):
        path = f"model.layers.{layer}"
        for name, size in (("gate", (INNER, hidden)), ("up", (INNER, hidden)), ("down", (hidden, INNER))):  # fmt: skip  # noqa: E501
            tensors[f"{path}.mlp.{name}_proj.weight"] = floats(rng, *size)
        tensors[f"{path}.block_sparse_moe.gate.weight"] = floats(rng, 1, hidden)
    return {"model.safetensors": safetensors_bytes(tensors)}


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Path:
    """A registry with tiny 1.0, of 2 layers, and tiny 2.0, of 3; poet, coder, cook; a router."""
    folder, registry = tmp_path / "projects", home / "registry"
    for version, layers in (("1.0", LAYERS), ("2.0", LAYERS + 1)):
        project = write_base(folder / f"tiny-{version}", version, layers=layers)
        tokenizer().save_pretrained(project)
        publish(project, registry)
        shutil.rmtree(project / "dist")
    for seed, name in enumerate(("poet", "coder", "cook"), 1):
        needs = {"tiny": "<2" if name != "cook" else "==1.0"}
        files = expert_files(seed)
        publish(write_module(folder / name, name, "1.0", "expert", needs, files=files), registry)
    rng = random.Random(7)
    rows = {
        f"model.layers.{layer}.block_sparse_moe.gate.weight": floats(rng, 2, HIDDEN)
        for layer in range(LAYERS)
    }
    files = {
        "router.safetensors": safetensors_bytes(rows),
        "router.json": json.dumps({"experts": ["tiny", "poet"]}).encode(),
    }
    publish(write_module(folder / "chat", "chat-router", "1.0", "expert", {"tiny": "<2"}, files=files), registry)  # fmt: skip  # noqa: E501
    return registry


def app(*experts: str, router: str, needs: str = "", more: str = "") -> None:
    steps = [f'{{ op = "expert", module = "{name}"{more} }}' for name in experts]
    names = dict.fromkeys(["tiny", *experts])
    dependencies = "".join(f'{name} = "*"\n' for name in names)
    Path("modpkg.toml").write_text(
        f'[app]\nname = "app"\n[dependencies]\n{dependencies}{needs}[models.mix]\nbase = "tiny"\n'
        f"steps = [{', '.join([*steps, router])}]\n"
        '[models.mix.task]\nkind = "text-generation"\nmax_new_tokens = 4\n'
    )


VECTORS = '{ op = "router", module = "tiny", parameters = { gates = "vectors" } }'


def bytes_in(folder: Path) -> int:
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and "composed" in path.parts and path.suffix == ".safetensors"
    )


@pytest.mark.filterwarnings("ignore")
def test_from_experts_to_a_model_that_runs(registry: Path, home: Path) -> None:
    from transformers import AutoModelForCausalLM

    app("tiny", "poet", "coder", router=VECTORS)
    modpkg("install")
    before = package.load("mix")
    assert type(before).__name__ == "MixtralForCausalLM"
    composed = bytes_in(home)
    plan = modpkg_json("install", "--dry-run")
    assert not plan["changes"]

    app("tiny", "poet", "coder", "cook", router=VECTORS)
    modpkg("install")
    # the routers of four experts, in a pack with a header, and nothing else
    grown = bytes_in(home) - composed
    assert 4 * ROW <= grown < 4 * ROW + 1000

    with torch.inference_mode():
        ours = package.load("mix")(IDS).logits
        modpkg("export", "mix", "--to", "hf", "out")
        model, info = AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.equal(model(IDS).logits, ours)
        assert not torch.allclose(before(IDS).logits, ours)
    Path("text.txt").write_text("the cat sat")
    modpkg("run", "mix", "text.txt")

    app("tiny", "poet", "coder", router=VECTORS)
    modpkg("install")
    assert bytes_in(home) == composed + grown  # nothing was composed again
    with torch.inference_mode():
        assert torch.equal(package.load("mix")(IDS).logits, before(IDS).logits)


@pytest.mark.filterwarnings("ignore")
def test_a_router_that_is_published_and_one_of_prompts(registry: Path) -> None:
    app("tiny", "poet", router='{ op = "router", module = "chat-router" }', needs='chat-router = "*"\n', more=', parameters = { others = "drop" }')  # fmt: skip  # noqa: E501
    modpkg("install")
    first = package.load("mix")
    manifest = Path("modpkg.toml").read_text()
    text = manifest.replace('chat-router = "*"\n', "").replace('"chat-router"', '"tiny", parameters = { gates = "hidden", experts_per_token = 1 }')  # fmt: skip  # noqa: E501
    text = text.replace('module = "poet", parameters = {', 'module = "poet", parameters = { prompts = ["the cat", "a mat"], negative_prompts = "it slept",')  # fmt: skip  # noqa: E501
    text = text.replace('module = "tiny", parameters = { others', 'module = "tiny", parameters = { prompts = "it then", others')  # fmt: skip  # noqa: E501
    Path("modpkg.toml").write_text(text)
    modpkg("install")
    second = package.load("mix")
    assert (first.config.num_experts_per_tok, second.config.num_experts_per_tok) == (2, 1)
    with torch.inference_mode():
        assert not torch.equal(first(IDS).logits, second(IDS).logits)
    lock = Path("modpkg.lock").read_text()
    modpkg("lock")
    assert Path("modpkg.lock").read_text() == lock


def test_an_expert_of_another_base_is_refused_by_the_resolver(registry: Path) -> None:
    app("tiny", "poet", router=VECTORS, needs="")
    text = Path("modpkg.toml").read_text().replace('tiny = "*"', 'tiny = ">=2"')
    Path("modpkg.toml").write_text(text)
    assert "tiny" in refused("lock")
    # its own range may be wider than what it fits: then its interface decides
    folder = Path("wide")
    write_module(folder, "wide", "1.0", "expert", {"tiny": ">=1"}, files=expert_files(4))
    modpkg("build", folder, "--against", "1.0", "--registry", registry)
    modpkg("publish", folder, "--registry", registry)
    app("tiny", "wide", router=VECTORS)
    Path("modpkg.toml").write_text(
        Path("modpkg.toml").read_text().replace('tiny = "*"', 'tiny = ">=2"')
    )
    assert "its port 'layers' is 3, not 2" in refused("lock")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": LAYERS - 1}, "has no 'model.layers.1.mlp.gate_proj.weight'"),
        ({"layers": LAYERS + 1}, "layers.2.block_sparse_moe.gate.weight' of bad cannot be matched"),
        ({"hidden": 2 * HIDDEN}, "has shape [1, 16]"),
    ],
)  # fmt: skip
def test_an_expert_that_does_not_fit_is_not_built(
    registry: Path, change: dict[str, Any], message: str
) -> None:
    write_module(Path("bad"), "bad", "1.0", "expert", {"tiny": "<2"}, files=expert_files(1, **change))  # fmt: skip  # noqa: E501
    assert message in refused("build", "bad", "--registry", registry)


def test_a_router_or_an_expert_with_other_tensors_is_not_built(registry: Path) -> None:
    write_module(
        Path("bad"), "bad", "1.0", "expert", {"tiny": "<2"},
        files={**expert_files(1), "router.json": b'{"experts": ["poet"]}'},
    )  # fmt: skip
    assert "it is not the only router of one of its layers" in refused("build", "bad", "--registry", registry)  # fmt: skip  # noqa: E501
    norm = {"model.norm.weight": floats(random.Random(1), HIDDEN)}
    files = {**expert_files(1), "norm.safetensors": safetensors_bytes(norm)}
    write_module(Path("norm"), "norm", "1.0", "expert", {"tiny": "<2"}, files=files)
    assert "an expert is made of mlp.gate_proj" in refused("build", "norm", "--registry", registry)
