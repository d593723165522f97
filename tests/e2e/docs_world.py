"""What the commands in README and docs find: a registry with the names that they use, and an app.

Everything is tiny and untrained: commands are run, not judged by what a model answers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from modpkg.manifest.read import read_manifest
from tests.e2e.conftest import ROOT
from tests.modules import write_module
from tests.runtime.helpers import bert, tokenizer
from tests.tiny import ADAPTER_CONFIG, CONFIG, adapter_weights, base_weights, publish

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
TASK = '[task]\nkind = "text-generation"\nmax_new_tokens = 4\n'
APP = """
[app]
name = "newsroom"

[dependencies]
summarizer = ">=2.1"
sentiment = "^1.0"
minilm-l6 = "==1.0.0"
smollm2-135m = ">=1.0,<2"
summarize-lora = "~=1.2"
formal = "==1.0.0"
translator = "*"
chat = "*"
cust-00 = "*"
cust-01 = "*"
clamp = "==1.0.0"

[models.gentle-summarizer]
base = "smollm2-135m"
steps = [{ op = "lora", module = "summarize-lora", scale = 0.5 }]

[[tests]]
name = "says something"
model = "translator"
cases = "cases.jsonl"
metric = "rouge_l"
at_least = 0.0
"""


CHECK = """
import os, pathlib, sys
folder = pathlib.Path(os.environ.get("MODPKG_PROJECT", "."))
sys.exit("1.1.0" in (folder / "modpkg.lock").read_text())
"""


class World:
    """The registry and the projects, while they are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "registry"
        self.tokenizer = folder / "tokenizer"
        words = tokenizer()
        words.chat_template = TEMPLATE
        words.save_pretrained(self.tokenizer)

    def files(self) -> dict[str, bytes]:
        """Return the files of a tokenizer."""
        return {path.name: path.read_bytes() for path in self.tokenizer.iterdir()}

    def publish(
        self,
        name: str,
        version: str,
        kind: str,
        files: dict[str, bytes] | None = None,
        requires: dict[str, str] | None = None,
        more: str = "",
    ) -> None:
        folder = self.folder / "projects" / f"{name}-{version}"
        publish(write_module(folder, name, version, kind, requires, more, files), self.registry)

    def base(self, name: str, version: str, weights: bytes) -> None:
        files = {"model.safetensors": weights, "config.json": json.dumps(CONFIG).encode()}
        self.publish(name, version, "base", self.files() | files, more=TASK)

    def adapter(self, name: str, version: str, seed: int, base: str = "smollm2-135m") -> None:
        self.publish(name, version, "adapter", adapter_files(seed), {base: ">=1.0,<2"})

    def copy_release(self, name: str, version: str) -> None:
        """Publish a module of the examples, which has no weights."""
        folder = self.folder / "projects" / f"{name}-{version}"
        shutil.copytree(ROOT / "examples" / "modules" / name / version, folder)
        assert read_manifest(folder / "modpkg.toml").module is not None
        publish(folder, self.registry)


def adapter_files(seed: int) -> dict[str, bytes]:
    """Return an adapter as PEFT saves it."""
    return {
        "adapter_model.safetensors": adapter_weights(seed),
        "adapter_config.json": json.dumps(ADAPTER_CONFIG).encode(),
    }


def head_files(folder: Path) -> dict[str, bytes]:
    """Return the files of sentiment-head, as wide as the base here."""
    source = ROOT / "examples" / "modules" / "sentiment-head" / "1.0.0"
    tensors = load_file(source / "model.safetensors")
    small = {name: t[:, :32] if t.ndim == 2 else t for name, t in tensors.items()}
    small |= {name: t[:32] for name, t in small.items() if name.startswith("pooler.")}
    save_file({name: t.contiguous() for name, t in small.items()}, folder / "head.safetensors")
    return {
        "model.safetensors": (folder / "head.safetensors").read_bytes(),
        "config.json": (source / "config.json").read_bytes(),
    }


def make_world(folder: Path) -> None:
    """Make the registry ``folder/registry``, and ``folder/page``: what a page's commands find."""
    world = World(folder)
    world.base("smollm2-135m", "1.0.0", base_weights(0))
    world.base("clamp", "1.0.0", base_weights(10))
    world.base("clamp", "1.0.1", base_weights(10))
    world.base("clamp", "1.1.0", base_weights(11))
    bert().save_pretrained(folder / "bert")
    files = world.files() | {path.name: path.read_bytes() for path in (folder / "bert").iterdir()}
    for version in ("1.0.0", "1.1.0"):
        world.publish("minilm-l6", version, "base", files)
    for name, version in (
        ("summarize-lora", "1.0.0"),
        ("summarize-lora", "1.2.0"),
        ("translate-lora", "1.0.0"),
        ("formal", "1.0.0"),
        ("formal", "1.1.0"),
        ("cust-00", "1.0.0"),
        ("cust-01", "1.0.0"),
    ):
        world.adapter(name, version, seed=sum(map(ord, name + version)))
    world.publish("sentiment-head", "1.0.0", "head", head_files(folder), {"minilm-l6": "~=1.0"})
    for name, version in (
        ("sentiment", "1.0.0"),
        ("summarizer", "1.0.0"),
        ("summarizer", "2.0.0"),
        ("summarizer", "2.1.0"),
    ):
        world.copy_release(name, version)
    lora = (
        '[compose]\nbase = "smollm2-135m"\nsteps = [{ op = "lora", module = "translate-lora" }]\n'
    )
    both = {"smollm2-135m": "*", "translate-lora": "*"}
    world.publish("translator", "1.0.0", "model", None, both, lora + TASK)
    alone = '[compose]\nbase = "smollm2-135m"\n'
    world.publish("chat", "1.0.0", "model", None, {"smollm2-135m": "*"}, alone + TASK)

    world.base("my-base", "1.0.0", base_weights(20))
    write_app(world, folder / "page")


def write_app(world: World, page: Path) -> None:
    """Write the app that a page's commands are typed in, with folders of modules in it."""
    page.mkdir()
    (page / "modpkg.toml").write_text(APP)
    (page / "article.txt").write_text("the cat sat on the mat and then it slept\n")
    (page / "check.py").write_text(CHECK)
    case = {"text": "the cat sat", "expected": "the mat"}
    (page / "cases.jsonl").write_text(json.dumps(case) + "\n")
    write_module(
        page / "my-lora",
        "my-lora",
        "1.0.0",
        "adapter",
        {"smollm2-135m": ">=1.0,<2"},
        "",
        adapter_files(77),
    )
    saved = world.folder / "projects" / "clamp-1.0.0"
    for name, seed in (("tuned", 12), ("copy", 13)):
        shutil.copytree(saved, page / name, ignore=shutil.ignore_patterns("dist", "modpkg.toml"))
        (page / name / "model.safetensors").write_bytes(base_weights(seed))
    for name, version in (("my-base", "1.1.0"), ("clamp", "1.1.1")):
        shutil.copytree(
            world.folder / "projects" / f"{name}-{saved_version(name)}",
            page / name,
            ignore=shutil.ignore_patterns("dist"),
        )
        manifest = page / name / "modpkg.toml"
        manifest.write_text(manifest.read_text().replace(saved_version(name), version))
        weights = (page / name / "model.safetensors").read_bytes()
        (page / name / "model.safetensors").write_bytes(weights[:-4] + bytes(4))  # one value


def saved_version(name: str) -> str:
    """Return the newest published version of a base of which a page has the next one."""
    return {"my-base": "1.0.0", "clamp": "1.1.0"}[name]
