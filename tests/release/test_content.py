"""What belongs to a release: data only, plain files only, inside the folder only."""

from __future__ import annotations

import importlib.util
import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest

from modpkg.manifest.read import read_manifest
from modpkg.release.content import check_data, check_path, collect
from modpkg.release.data_names import problem_of_name
from tests.modules import write_module
from tests.raising import raises


def names(folder: Path) -> list[str]:
    content = collect(read_manifest(folder / "modpkg.toml"))
    return [*content.weights, *content.files]


def test_default_files_of_a_release(tmp_path: Path) -> None:
    folder = write_module(
        tmp_path / "m",
        "m",
        files={
            "model-00001-of-00002.safetensors": b"",
            "model.safetensors.index.json": b"{}",
            "config.json": b"{}",
            "1_Pooling/config.json": b"{}",
            "README.md": b"#",
            "train.py": b"print()",
            "dist/x": b"",
            ".git/config": b"",
            "modpkg.lock": b"",
        },
    )
    assert names(folder) == [
        "model-00001-of-00002.safetensors",
        "1_Pooling/config.json",
        "README.md",
        "config.json",
    ]


def test_include_and_exclude(tmp_path: Path) -> None:
    more = '[files]\ninclude = ["*.md", "data/*"]\nexclude = ["data/raw*"]\n'
    files = {"a.md": b"", "b.txt": b"", "data/x.csv": b"", "data/raw.csv": b""}
    assert names(write_module(tmp_path / "m", "m", more=more, files=files)) == [
        "a.md",
        "data/x.csv",
    ]


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m", more='[files]\ninclude = ["*.mdd"]\n')
    with raises("M211", match=r"\*\.mdd"):
        names(folder)


def test_missing_cases_of_a_test_are_an_error(tmp_path: Path) -> None:
    more = '[[tests]]\nname = "t"\ncases = "tests/t.jsonl"\nmetric = "accuracy"\nat_least = 0.5\n'
    with raises("M211", match=r"tests/t\.jsonl"):
        names(write_module(tmp_path / "m", "m", more=more))


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data.pkl", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("pytorch_model.bin", b"", "a pickle"),
        ("weights.pt", b"", "a pickle"),
        ("extension.so", b"", "code"),
        ("notes.txt", pickle.dumps({"a": 1}), "a pickle"),
        ("notes.txt", b"\x7fELF....", "a program"),
        ("notes.txt", b"#!/bin/sh\n", "a script"),
        ("notes.txt", archive(), "zip archive"),
        ("model.onnx", b"", "hold code"),
        ("Makefile", b"", "a tool runs"),
        ("docs/package.json", b"{}", "a tool runs"),
        ("kernel.CU", b"", "code"),
        ("open me.desktop", b"", "a desktop runs"),
        ("tool.foo", b"", r"does not hold \(.foo\)"),
        ("LICENSE.hta", b"", "code"),
        ("settings", b"", "no ending"),
        ("page.html", b"<script>", "code"),
        ("docker-compose.override.yml", b"", "tools run many"),
        ("CMakePresets.json", b"{}", "a tool runs"),
        ("docs/Agents.md", b"", "assistants obey"),
        ("voice.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'shape': (1,)}", "array of objects"),
    ],
)
def test_code_and_pickles_are_refused(tmp_path: Path, name: str, data: bytes, what: str) -> None:
    folder = write_module(tmp_path / "m", "m", files={name: data})
    with raises("M202", match=what):
        names(folder)


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "NOTICE",
        "LICENSE-MODEL",
        "README",
        "licence.MIT",
        "THIRD_PARTY_NOTICES",
        "USE_POLICY.md",
        "vocab.txt",
        "tokenizer.model",
        "tokenizer.model.v3",
        "source.spm",
        "bpe.codes",
        "qwen.tiktoken",
        "chat_template.jinja",
        "mergekit_config.yml",
        "model_config.yaml",
        "hparams.yaml",
        "logo.PNG",
        "a/cases.parquet",
        "voice.wav",
    ],
)
def test_kinds_of_data_are_taken(name: str, tmp_path: Path) -> None:
    assert names(write_module(tmp_path / "m", "m", files={name: b"x"})) == [name]
    assert check_path(name) == name


def test_all_vocabularies_of_transformers_are_data() -> None:
    """Whatever a tokenizer of transformers saves is taken."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for path in Path(spec.origin).parent.glob("models/*/tokenization_*.py"):
        found |= set(re.findall(r'"\w+": ?"([\w.-]+\.[a-z]+)"', path.read_text()))
    assert {"spiece.model", "vocab-src.json", "prophetnet.tokenizer"} <= found
    assert [name for name in found if problem_of_name(name) is not None] == []


def test_an_included_script_is_refused(tmp_path: Path) -> None:
    more = '[files]\ninclude = ["*.py"]\n'
    with raises("M202", match="code"):
        names(write_module(tmp_path / "m", "m", more=more, files={"run.py": b"print()"}))


def test_links_are_refused(tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m")
    (folder / "config.json").symlink_to("/etc/passwd")
    with raises("M203", match="is a link"):
        names(folder)
    (folder / "config.json").unlink()
    (folder / "more").symlink_to("/etc")
    with raises("M203"):
        names(folder)


def test_unportable_names_are_refused(tmp_path: Path) -> None:
    with raises("M105"):
        names(write_module(tmp_path / "m", "m", files={"a:b.txt": b""}))


def test_plain_text_is_data(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{}")
    check_data(path, "a.json")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("README.md", "readme.md"),
        ("a/Notes.txt", "A/notes.txt"),
        ("\u00c4.txt", "A\u0308.txt"),
        ("\u00e4.txt", "A\u0308.txt"),
        ("stra\u00dfe.txt", "STRASSE.txt"),
        ("data.txt", "Data.txt/x.txt"),
    ],
)
def test_files_that_another_system_takes_for_one_are_refused(
    one: str, two: str, tmp_path: Path
) -> None:
    folder = write_module(tmp_path / "m", "m", files={one: b"1", two: b"2"})
    with raises("M206", match="rename one of them"):
        names(folder)


@pytest.mark.parametrize("name", ["what?.txt", "a/<b>.txt", 'say "x".txt', "a|b.txt", "*.txt"])
def test_names_that_windows_forbids_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_module(tmp_path / "m", "m", files={name: b"1"})
    with raises("M206", match="which Windows forbids; rename it"):
        names(folder)
