"""What loading, running, exporting and searching models say to do works."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers

import modpkg
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.runtime import architecture
from tests import tiny
from tests.compose.test_tokenizer_files import END
from tests.compose.test_tokenizer_files import tokenizer as tokenizer_files
from tests.conftest import safetensors_bytes
from tests.e2e.remedies import Run, fails, remedy_of, works
from tests.e2e.test_remedies_of_builds import base_weights
from tests.modules import publish_collection, write_module
from tests.raising import raises
from tests.registry.servers import serve
from tests.runtime.helpers import bert, publish_two_adapters, tokenizer

APP = """\
[app]
name = "app"
[dependencies]
tiny = "*"
lora-1 = "*"
lora-2 = "*"
[models.mine]
base = "tiny"
steps = [{ op = "lora", module = "lora-1" }]
"""
SECOND = ', { op = "lora", module = "lora-2" }]'
TEXT = "the cat"


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of models that write."""
    folder = tmp_path_factory.mktemp("talking")
    publish_two_adapters(folder / "registry", folder / "projects")
    return folder


@pytest.fixture
def registry(talking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that registry; the working folder is an app's on it."""
    shutil.copytree(talking, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("MODPKG_REGISTRY", str(tmp_path / "registry"))
    Path("modpkg.toml").write_text(APP)
    return tmp_path / "registry"


def another(registry: Path, name: str, files: dict[str, object], version: str = "2.0") -> Path:
    """Publish a further version of a module with other files; return its folder."""
    folder = registry.parent / "projects" / name
    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('version = "1.0"', f'version = "{version}"'))
    for path, value in files.items():
        (folder / path).write_text(value if isinstance(value, str) else json.dumps(value))
    tiny.publish(folder, registry)
    return folder


def in_model(more: str) -> None:
    """Write something more into the app's model."""
    Path("modpkg.toml").write_text(APP + more)


# Loading ------------------------------------------------------------------------------------


def test_m702_takes_a_package_that_provides_the_architecture(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    another(registry, "tiny", {"config.json": tiny.CONFIG | {"architectures": ["OwnLlama"]}})
    works(run, "install", "tiny==2.0")
    with raises("M702", match="install the Python package that provides it"):
        modpkg.load("tiny")
    entry = SimpleNamespace(load=lambda: transformers.LlamaForCausalLM)
    monkeypatch.setattr(
        architecture, "entry_points", lambda *, group, name: [entry] * (name == "OwnLlama")
    )
    assert modpkg.load("tiny") is not None


def test_m722_of_a_quantiser_that_is_not_there(registry: Path, run: Run) -> None:
    config = tiny.CONFIG | {"quantization_config": {"quant_method": "eetq"}}
    folder = another(registry, "tiny", {"config.json": config})
    works(run, "install", "tiny==2.0")
    with raises("M722", match="out of its config.json and import it again"):
        modpkg.load("tiny")
    (folder / "modpkg.toml").unlink()
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    as_is = ["--name", "tiny", "--version", "3.0.0", "--license", "MIT", "--out", "again"]
    works(run, "import", "hf", folder, *as_is)
    works(run, "build", "again")
    works(run, "publish", "again")
    works(run, "install", "tiny==3.0.0")
    assert modpkg.load("tiny") is not None


def test_m707_takes_the_key_out(registry: Path, run: Run) -> None:
    folder = registry.parent / "projects" / "tiny"
    (folder / "modpkg.toml").unlink()
    config = tiny.CONFIG | {"_attn_implementation": "some/kernel"}
    (folder / "config.json").write_text(json.dumps(config))
    command = ["import", "hf", folder, "--name", "it", "--license", "MIT", "--out", "out"]
    found = re.search(r"take (\w+) out of (\S+)\.", fails(run, "M707", *command))
    assert found is not None
    del config[found[1]]
    (folder / found[2]).write_text(json.dumps(config))
    works(run, *command)


def test_m708_loads_it_without_live(registry: Path, run: Run) -> None:
    in_model('method = "ties"\nparameters = { density = 0.5 }\n')
    works(run, "install")
    with raises("M708", match="load it without live=True"):
        modpkg.load("mine", live=True)
    assert modpkg.load("mine") is not None


def test_m709_names_the_adapters_that_there_are(registry: Path, run: Run) -> None:
    works(run, "install")
    live = modpkg.load(["lora-1", "lora-2"], live=True)
    with raises("M709") as caught:
        live.set_adapter("lora-3")
    names = str(caught.value).partition("there are ")[2].rstrip(".").split(", ")
    assert names == ["__base__", "lora-1", "lora-2"]
    live.set_adapter(names[1:])


def test_m727_names_the_project_or_the_user(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(run, "install")
    works(run, "install", "lora-1", "--user")
    Path("service.py").write_text("import modpkg\nfound = modpkg.load('lora-1')\n")
    service = str(Path("service.py").absolute())
    monkeypatch.chdir(registry)
    with raises("M727") as caught:
        runpy.run_path(service)
    said = str(caught.value)
    for option in (re.search(r"pass (project='[^']+')", said), re.search(r"or (user=True)", said)):
        assert option is not None
        Path(service).write_text(f"import modpkg\nfound = modpkg.load('lora-1', {option[1]})\n")
        assert runpy.run_path(service)["found"] is not None


def test_m728_writes_the_folder_elsewhere(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, *rest: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    works(run, "install")
    modpkg.load("lora-2")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        patch.setattr(os, "mkdir", refuse)
        with raises("M728") as caught:
            modpkg.path("lora-2")
    remedy = remedy_of(str(caught.value))
    works(run, *[word.replace("FOLDER", "out") for word in remedy])
    assert transformers.AutoModelForCausalLM.from_pretrained("out") is not None


# Tokenizers and tasks -----------------------------------------------------------------------


def test_m705_gives_the_model_itself(registry: Path, run: Run) -> None:
    folder = registry.parent / "projects" / "tiny"
    tensors = base_weights(folder / "model.safetensors")
    tensors["score.weight"] = ("F32", [2, tiny.HIDDEN], bytes(8 * tiny.HIDDEN))
    tensors["score.bias"] = ("F32", [2], bytes(8))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    architecture = {"architectures": ["LlamaForTokenClassification"]}
    another(registry, "tiny", {"config.json": tiny.CONFIG | architecture})
    works(run, "install", "tiny==2.0")
    found = re.search(r"modpkg\.load\('(\w+)'\)", fails(run, "M705", "run", "tiny", TEXT))
    assert found is not None
    assert isinstance(modpkg.load(found[1]), transformers.LlamaForTokenClassification)


def test_m726_leaves_out_a_chat_template_that_fails(registry: Path, run: Run) -> None:
    another(registry, "tiny", {"chat_template.jinja": "{{ 1 / 0 }}"})
    in_model('[models.mine.task]\nkind = "text-generation"\n')
    works(run, "install")
    text = fails(run, "M726", "run", "mine", TEXT, "--max-new-tokens", "1")
    found = re.search(r"chat template \((chat = false) in the task", text)
    assert found is not None
    in_model(f'[models.mine.task]\nkind = "text-generation"\n{found[1]}\n')
    works(run, "install")
    works(run, "run", "mine", TEXT, "--max-new-tokens", "1")


def test_m724_and_m725_of_the_name_of_a_prompt(registry: Path, run: Run) -> None:
    folder = write_module(registry.parent / "encoder", "encoder", kind="base")
    bert().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    modules = [
        {"name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    prompts = {"prompts": {"query": "it sat : "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (folder / "1_Pooling").mkdir()
    pooling = {"embedding_dimension": 32, "pooling_mode": "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    tiny.publish(folder, registry)
    works(run, "install", "encoder")
    found = re.search(
        r"it has '(\w+)'", fails(run, "M724", "run", "encoder", TEXT, "--prompt-name", "q")
    )
    assert found is not None
    works(run, "run", "encoder", TEXT, "--prompt-name", found[1])
    text = fails(run, "M725", "run", "mine", TEXT, "--prompt-name", "query")
    assert "leave out --prompt-name" in text
    works(run, "run", "mine", TEXT, "--max-new-tokens", "1")


@pytest.mark.parametrize("code", ["M616", "M617"])
def test_m616_and_m617_name_a_tokenizer(code: str, registry: Path, run: Run) -> None:
    token = {**END, "id": 40 if code == "M616" else 13}
    another(registry, "lora-2", tokenizer_files(token))
    other = tokenizer_files({**token, "content": "<|end|>"})
    another(registry, "lora-1", {} if code == "M616" else other)
    Path("modpkg.toml").write_text(both := APP[:-2] + SECOND + "\n")
    text = fails(run, code, "install")
    found = re.search(r'(tokenizer = "[\w-]+")', text)
    assert found is not None
    Path("modpkg.toml").write_text(both + found[1] + "\n")
    works(run, "install")


# Exporting and searching --------------------------------------------------------------------


def test_m805_exports_an_adapter(registry: Path, run: Run) -> None:
    works(run, "install")
    text = fails(run, "M805", "export", "tiny", "out", "--to", "peft")
    assert "only an adapter, or a model of one base and one adapter, can be" in text
    for name in ("lora-1", "mine"):
        works(run, "export", name, f"out-{name}", "--to", "peft")


def test_m806_makes_a_registry_searchable(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (registry / REGISTRY_MODULES).unlink()
    with serve(registry) as server:
        monkeypatch.setenv("MODPKG_REGISTRY", server.url)
        remedy = remedy_of(fails(run, "M806", "search", "lora"))
        works(run, *[word.replace("NAME", "lora-1") for word in remedy])
        publish_collection(registry, "several")
        assert "lora-1" in works(run, "search", "lora")


# Testing ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("forked_python")
def test_m717_and_m720_of_tests_of_a_model(registry: Path, run: Run) -> None:
    test = '[[tests]]\nname = "t"\ncases = "c.jsonl"\nmetric = "perplexity"\nat_most = 1e9\n'
    cases = {"c.jsonl": b'{"text": "the cat sat"}\n'}
    tiny.publish(
        write_module(registry.parent / "suite", "s", kind="suite", more=test, files=cases), registry
    )
    folder = registry.parent / "projects" / "tiny"
    manifest = folder / "modpkg.toml"
    own = manifest.read_text()
    manifest.write_text(own + '[suites]\nlora-1 = "*"\n')
    text = fails(run, "M720", "-C", str(folder), "test")
    assert "only modules of kind 'suite' can be named there" in text
    manifest.write_text(own + '[suites]\ns = "*"\n')
    text = fails(run, "M717", "-C", str(folder), "test", "--time-limit", "0.000001")
    assert "raise --time-limit" in text
    works(run, "-C", str(folder), "test", "--time-limit", "300")
