"""An adapter of one of two tied layers: refused, untied as the refusal says, and used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import modpkg as package
from benchmarks.architectures import shake
from tests.command import modpkg, refused
from tests.compose.oracle import close
from tests.compose.test_peft_architectures import HEADS

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
IDS = torch.tensor([[5, 3, 7, 11, 2, 60, 9]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


def results(lock: bytes) -> list[bytes]:
    """Return the lines of a lock with the digests of composed models."""
    return [line for line in lock.splitlines() if line.startswith((b"inputs", b"result"))]


def publish(kind: str, source: str, name: str, *more: str) -> str:
    """Import, build and publish a folder; return what building said."""
    modpkg("import", kind, source, "--name", name, "--license", "MIT", "--out", name, *more)
    said = modpkg("build", name).stderr
    modpkg("publish", name)
    return said


def test_the_remedy_of_the_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "registry"))
    torch.manual_seed(3)
    config = transformers.LlamaConfig(**HEADS, tie_word_embeddings=True)
    cls = transformers.LlamaForCausalLM
    cls(config).save_pretrained("saved-base")
    base = cls.from_pretrained("saved-base")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    tuned = peft.get_peft_model(base, lora).eval()
    shake(tuned)
    tuned.save_pretrained("saved-adapter")
    wanted = logits(tuned)
    publish("hf", "saved-base", "base")
    said = publish("peft", "saved-adapter", "adapter", "--base", "base")
    assert "a recipe with it needs tie_word_embeddings = false" in said
    app = Path("app")
    app.mkdir()
    (app / "modpkg.toml").write_text(APP)
    monkeypatch.chdir(app)

    remedy = "write tie_word_embeddings = false in the recipe of tuned"
    assert remedy in refused("install")
    Path("modpkg.toml").write_text(APP + "tie_word_embeddings = false\n")
    modpkg("install")
    lock = Path("modpkg.lock").read_bytes()

    model = package.load("tuned")
    assert not model.config.tie_word_embeddings
    close(logits(model), wanted)
    close(logits(package.load("tuned", live=True)), wanted)
    close(logits(package.load("adapter")), wanted)
    modpkg("export", "tuned", "--to", "hf", "whole")
    close(logits(cls.from_pretrained("whole")), wanted)
    modpkg("export", "tuned", "--to", "peft", "part")
    again = cls.from_pretrained(os.path.join("..", "saved-base"))
    close(logits(peft.PeftModel.from_pretrained(again, "part")), wanted)

    assert "lm_head.weight" in modpkg("diff", "base==1.0.0", "tuned").stdout
    modpkg("install", "--frozen")
    modpkg("patch", "create", "tuned", "--base", "base==1.0.0", "--name", "fix")
    modpkg("build", "fix")
    modpkg("publish", "fix")
    patched = '[models.patched]\nbase = "base"\nsteps = [{ op = "patch", module = "fix" }]\n'
    Path("modpkg.toml").write_text(
        Path("modpkg.toml").read_text().replace("[models", 'fix = "*"\n[models') + patched
    )
    modpkg("install")
    assert all(line in Path("modpkg.lock").read_bytes() for line in results(lock))
    close(logits(package.load("patched")), wanted)
