"""What was trained on a model in memory, published by one person and installed by another."""

from __future__ import annotations

import os
from pathlib import Path

import peft
import pytest
import torch
import transformers

import modpkg as package
from benchmarks.architectures import difference, shake, small_model
from tests.command import modpkg

pytestmark = pytest.mark.filterwarnings("ignore")
APP = """[app]
name = "app"
[dependencies]
base = "*"
adapter = "*"
[models.tuned]
base = "base"
steps = [{ op = "lora", module = "adapter" }]
"""


def publish(kind: str, source: str, name: str, *more: str) -> None:
    """Import, build and publish a folder in a home that nobody else has."""
    home = os.environ["MODPKG_HOME"] + "-of-the-author"
    modpkg("import", kind, source, "--name", name, "--license", "MIT", "--out", name, *more)
    for command in ("build", "publish"):
        modpkg(command, name, MODPKG_HOME=home)


def test_an_adapter_of_a_model_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "registry"))
    model = small_model("gemma3")
    model.save_pretrained("saved-base")
    again = type(model).from_pretrained("saved-base", dtype=torch.float32)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    tuned = peft.get_peft_model(again, config)
    shake(tuned)
    tuned.save_pretrained("saved-adapter")
    publish("hf", "saved-base", "base")
    publish("peft", "saved-adapter", "adapter", "--base", "base")
    app = Path("app")
    app.mkdir()
    (app / "modpkg.toml").write_text(APP)
    monkeypatch.chdir(app)
    modpkg("install")
    modpkg("export", "tuned", "--to", "hf", "out")
    assert isinstance(package.load("tuned"), transformers.PreTrainedModel)
    exported = type(model).from_pretrained("out", dtype=torch.float32)
    wanted = dict(tuned.merge_and_unload().state_dict())
    assert difference(dict(exported.state_dict()), wanted) is None
