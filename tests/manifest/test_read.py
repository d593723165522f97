"""Finding and reading manifests: what people write comes out typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from modpkg.core.names import parse_requirement
from modpkg.manifest.find import find_manifest
from modpkg.manifest.normal import from_normal_form, normal_form
from modpkg.manifest.read import parse_manifest, read_manifest
from modpkg.manifest.schema import Step
from tests.raising import raises

HERE = Path("modpkg.toml")

SUMMARIZER = """\
[module]
name = "summarizer"
version = "2.1.0"
kind = "model"
license = "apache-2.0"            # SPDX expression
summary = "Short factual summaries of news text"

[dependencies]
smollm2-135m = ">=1.0,<2"
Summarize_LoRA = "~=1.2"

[compose]
base = "smollm2-135m"
steps = [{ op = "lora", module = "summarize.lora", scale = 2, replace = ["lm_head.weight"] }]
dtype = "bfloat16"
tokenizer = "summarize-lora"

[task]
kind = "summarization"
prompt = "Summarize in one sentence: {{ text }}"
max_new_tokens = 80

[extras]
News = ["news-lora>=1"]

[files]
exclude = ["drafts/**"]

[[tests]]
name = "keeps names"
cases = "tests/names.jsonl"
metric = "rouge_l"
at_least = 0.30
"""

NEWSROOM = """\
[app]
name = "newsroom"

[dependencies]
summarizer = ">=2.1"
sentiment = { version = "^1.4", extras = ["fast"], registry = "acme" }
minilm-l6 = "*"
smollm2-135m = { registry = "default" }

[registries]
acme = "https://models.acme.example"
default = "../models"

[models.house-style]
base = "smollm2-135m"

[models.house-style.task]
kind = "text-generation"

[[tests]]
name = "stays polite"
cases = "tests/polite.jsonl"
metric = "exact"
model = "house-style"
"""


def test_a_module_is_read() -> None:
    manifest = parse_manifest(SUMMARIZER, HERE)
    assert manifest.module is not None
    assert manifest.module.name == "summarizer"
    assert manifest.module.version == Version("2.1.0")
    assert manifest.module.license == "Apache-2.0"
    base, lora = manifest.dependencies
    assert base.requirement == parse_requirement("smollm2-135m>=1.0,<2")
    assert (lora.name, lora.where) == ("summarize-lora", "modpkg.toml:10")
    assert manifest.extras == {"news": manifest.extras["news"]}
    (news,) = manifest.extras["news"]
    assert (str(news.requirement), news.where) == ("news-lora>=1", "modpkg.toml:24")
    assert manifest.compose is not None
    assert manifest.compose.steps == (
        Step(op="lora", module=lora.name, scale=2.0, replace=("lm_head.weight",)),
    )
    assert manifest.compose.dtype == "bfloat16"
    assert manifest.compose.tokenizer == "summarize-lora"
    assert manifest.compose.modules() == ["smollm2-135m", "summarize-lora"]
    assert manifest.task is not None
    assert manifest.task.max_new_tokens == 80
    assert manifest.files.exclude == ("drafts/**",)
    assert manifest.tests[0].at_least == 0.3
    assert manifest.folder == Path()


def test_an_app_is_read() -> None:
    manifest = parse_manifest(NEWSROOM, HERE)
    assert manifest.app == "newsroom"
    assert [str(dependency.requirement) for dependency in manifest.dependencies] == [
        "summarizer>=2.1",
        "sentiment[fast]<2,>=1.4",
        "minilm-l6",
        "smollm2-135m",
    ]
    assert [dependency.registry for dependency in manifest.dependencies] == [
        None,
        "acme",
        None,
        None,
    ]
    assert manifest.registries["default"] == "../models"
    assert list(manifest.models) == list(manifest.tasks) == ["house-style"]


def test_pyproject_has_the_same_tables_under_tool_modpkg() -> None:
    text = NEWSROOM.replace("[[", "[[tool.modpkg.").replace("\n[", "\n[tool.modpkg.")
    text = "[tool.modpkg." + text[1:].replace("[tool.modpkg.[tool.", "[[tool.")
    manifest = parse_manifest("[project]\nname = 'x'\n" + text, Path("pyproject.toml"))
    assert manifest.dependencies[0].where == "pyproject.toml:7"
    assert manifest.models == parse_manifest(NEWSROOM, HERE).models


@pytest.mark.parametrize("awkward", ["\ufeff" + NEWSROOM, NEWSROOM.replace("\n", "\r\n")])
def test_marks_and_line_ends_make_no_difference(awkward: str, tmp_path: Path) -> None:
    path = tmp_path / "modpkg.toml"
    path.write_bytes(awkward.encode())
    manifest = read_manifest(path)
    assert manifest.dependencies[2].where == f"{path}:7"
    assert manifest.models == parse_manifest(NEWSROOM, HERE).models


def test_the_file_is_shown_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "modpkg.toml").write_text("[app]\n")
    monkeypatch.chdir(tmp_path)
    with raises("M110", match=r"^a/modpkg\.toml:1: app\.name is missing"):
        read_manifest(tmp_path / "a" / "modpkg.toml")


def test_the_nearest_manifest_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "modpkg.toml").write_text(NEWSROOM)
    assert find_manifest(inner) == tmp_path / "modpkg.toml"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.other]\n# modpkg\n")
    assert find_manifest(inner) == tmp_path / "modpkg.toml"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.modpkg.app]\nname = 'x'\n")
    assert find_manifest(inner) == tmp_path / "a" / "pyproject.toml"
    (tmp_path / "a" / "modpkg.toml").write_text(NEWSROOM)
    assert find_manifest(inner) == tmp_path / "a" / "modpkg.toml"


def test_a_broken_pyproject_is_found_when_it_is_ours(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("[tool.modpkg.app]\nname = x\n")
    assert find_manifest(tmp_path) == pyproject
    pyproject.write_bytes(b"modpkg = \xff\n")
    assert find_manifest(tmp_path) != pyproject


def test_a_missing_or_unreadable_file_is_reported(tmp_path: Path) -> None:
    with raises("M111", match="modpkg init"):
        read_manifest(tmp_path / "modpkg.toml")
    with raises("M110", match="it cannot be read: Is a directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a = 1\n# \xff\n", ":2: byte 0xff is not UTF-8; save the file as UTF-8."),
        (b"#" * (1 << 20) + b"#", ": it is larger than 1 MiB, too large to read."),
        (b"x = " + b"[" * 9999, ":1: the file nests tables or arrays more than 32 deep."),
    ],
)
def test_hostile_bytes_are_refused(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "modpkg.toml"
    path.write_bytes(content)
    with raises("M110") as caught:
        read_manifest(path)
    assert str(caught.value) == f"{path}{sentence}"


def test_importing_it_is_light() -> None:
    heavy = "{'torch', 'numpy', 'rich', 'tomlkit', 'transformers', 'packaging.licenses'}"
    files = "modpkg.manifest.edit, modpkg.manifest.normal"
    code = f"import sys, {files}; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stderr


def test_a_recipe_may_untie_its_base() -> None:
    text = SUMMARIZER.replace('tokenizer = "summarize-lora"', "tie_word_embeddings = false")
    manifest = parse_manifest(text, HERE)
    assert manifest.compose is not None
    assert manifest.compose.tie_word_embeddings is False
    form = normal_form(manifest)
    assert form["compose"]["tie_word_embeddings"] is False
    assert from_normal_form(form, "a record").compose == manifest.compose
    with raises("M110", match="can only be false"):
        parse_manifest(text.replace("embeddings = false", "embeddings = true"), HERE)
    with raises("M110", match="tie_word_embeddings"):
        parse_manifest(text.replace("embeddings = false", "embeddings = 0"), HERE)
