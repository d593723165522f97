"""The recipes of docs/recipes.md, each in an app with the names that it uses."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import modpkg
from modpkg.core.names import parse_requirement
from modpkg.environment.install import install
from modpkg.environment.plan import InstallRequest
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from tests import tiny
from tests.e2e.conftest import ROOT
from tests.modules import publish, write_module
from tests.runtime.helpers import bert, tokenizer

TEXT = (ROOT / "docs" / "recipes.md").read_text("utf-8")
RECIPES = {
    title: block
    for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
    for block in re.findall(r"^```python\n(.*?)^```", body, re.M | re.S)
}
"""The Python of each recipe, by its title."""


@pytest.fixture
def app(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app with the models and adapters that the recipes name, in the working folder."""
    registry = home / "registry"
    for name in ("smollm2-135m", "summarizer"):
        folder = tiny.write_base(tmp_path / name)
        tokenizer().save_pretrained(folder)
        text = (folder / "modpkg.toml").read_text().replace('name = "tiny"', f'name = "{name}"')
        (folder / "modpkg.toml").write_text(text)
        tiny.publish(folder, registry)
    for number in (0, 1):
        folder = tiny.write_adapter(tmp_path / f"cust-{number}", seed=number)
        text = (folder / "modpkg.toml").read_text().replace("tiny-lora", f"cust-0{number}")
        (folder / "modpkg.toml").write_text(re.sub(r'tiny(?= ?=|")', "smollm2-135m", text))
        tiny.publish(folder, registry)
    bert().save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    files = {path.name: path.read_bytes() for path in (tmp_path / "bert").iterdir()}
    publish(write_module(tmp_path / "encoder", "minilm-l6", kind="base", files=files), registry)
    folder = tmp_path / "newsroom"
    folder.mkdir()
    (folder / "modpkg.toml").write_text('[app]\nname = "newsroom"\n')
    names = ["smollm2-135m", "summarizer", "cust-00", "cust-01", "minilm-l6"]
    request = InstallRequest(add=[parse_requirement(name) for name in names])
    install(Workspace(Project(folder / "modpkg.toml")), request)
    monkeypatch.chdir(folder)
    return folder


def run(title: str, replaced: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Run a recipe and return its names."""
    code = compile(
        RECIPES[title].replace(*replaced) if replaced[0] else RECIPES[title], title, "exec"
    )
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_vllm_reads_the_folders(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    names = run("vLLM with live adapters")
    printed = capsys.readouterr().out
    for name, folder in names["adapters"].items():
        assert f"{name}={folder}" in printed
        # What vLLM reads of an adapter (vllm/lora/peft_helper.py, lora_model.py).
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config.keys() >= {"r", "lora_alpha", "target_modules"}
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            keys = list(file.keys())
        assert keys
        assert all(re.fullmatch(r"base_model\.model\..+\.lora_[AB]\.weight", key) for key in keys)
        base = AutoModelForCausalLM.from_pretrained(names["base"])
        ids = modpkg.tokenizer("summarizer")("the cat", return_tensors="pt")["input_ids"]
        found = PeftModel.from_pretrained(base, str(folder))(ids).logits
        assert found.allclose(modpkg.load(name)(ids).logits, atol=1e-6)


def test_sentence_transformers_gives_the_pipelines_vectors(app: Path) -> None:
    vectors = run("sentence-transformers")["vectors"]
    found = modpkg.pipeline("minilm-l6")(["One text", "another"])
    assert abs(vectors - [result.embedding for result in found]).max() < 1e-6


def test_transformers_pipeline_writes_what_modpkg_writes(app: Path) -> None:
    text = run("transformers' pipeline")["text"]
    assert text.strip() == modpkg.pipeline("summarizer")("A long text", max_new_tokens=8).text


@pytest.mark.parametrize("title", ["A FastAPI service", "LangChain", "A notebook"])
def test_recipes_for_other_libraries(
    app: Path, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run(title, ("/work/newsroom", str(app)))
    wanted = modpkg.pipeline("summarizer")("A long text", max_new_tokens=8).text
    if title == "LangChain":
        prompt = modpkg.pipeline("summarizer")("Summarize: A long text", max_new_tokens=8)
        assert names["summary"] == prompt.text
    elif title == "A notebook":
        assert capsys.readouterr().out.strip() == wanted
    else:
        client = importlib.import_module("fastapi.testclient").TestClient(names["app"])
        one = modpkg.pipeline("cust-01")("the cat", max_new_tokens=8).text
        asked = {"text": "the cat"}
        assert client.post("/answer/cust-01", params=asked).json() == {"text": one}
        assert client.post("/stream/cust-01", params=asked).text.strip() == one
        with pytest.raises(modpkg.ModpkgError):
            client.post("/answer/nobody", params=asked)
