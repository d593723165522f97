"""What people type by habit: help, add, version, publish --dry-run."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from packaging.version import Version

from modpkg.core.names import parse_requirement
from modpkg.manifest.bump import BumpLevel, bumped
from modpkg.manifest.edit import set_version
from modpkg.manifest.read import read_manifest
from tests.cli.test_everywhere import run
from tests.modules import publish_collection, write_module
from tests.raising import raises


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_help_of_a_command_is_what_its_option_shows(capfd: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("modpkg.cli.list")  # hides the built-in from the package
    for words in ([], ["lock"], ["store", "gc"]):
        status, out, _ = run(capfd, "help", *words)
        assert (status, out) == (0, run(capfd, *words, "--help")[1])
    status, _, err = run(capfd, "help", "lokc")
    assert status == 2
    assert "Did you mean 'lock'?" in err
    status, _, err = run(capfd, "help", "lock", "more")
    assert status == 2
    assert "'modpkg lock' has no commands of its own" in err


def test_add_is_for_projects(home: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    publish_collection(home / "registry", "lib", "1.5")
    status, _, err = run(capfd, "add", "lib")
    assert status == 2
    assert "'modpkg init' makes one" in err
    assert run(capfd, "init", "--name", "app")[0] == 0
    assert run(capfd, "add", "lib>=1")[0] == 0
    assert [str(d.requirement) for d in read_manifest(Path("modpkg.toml")).dependencies] == [
        "lib>=1"
    ]
    assert run(capfd, "add")[0] == 2, "what is missing"
    assert run(capfd, "add", "--user", "lib")[0] == 0
    assert json.loads(run(capfd, "list", "--user", "--json")[1])["modules"][0]["name"] == "lib"


@pytest.mark.parametrize(
    ("before", "level", "after"),
    [
        ("1.2.3", "patch", "1.2.4"),
        ("1.2.3", "minor", "1.3.0"),
        ("1.2.3", "major", "2.0.0"),
        ("1.2", "minor", "1.3"),
        ("1.2", "patch", "1.2.1"),
        ("1", "minor", "1.1"),
        ("0.9.9", "minor", "0.10.0"),
        ("1.2.3.4", "minor", "1.3.0.0"),
        ("2.0.0rc1", "stable", "2.0.0"),
        ("2.0.0.post2.dev1+local", "patch", "2.0.1"),
        ("1!2.0", "major", "1!3.0"),
    ],
)
def test_bumps(before: str, level: BumpLevel, after: str) -> None:
    assert str(bumped(Version(before), level)) == after


def test_version_is_shown_and_set(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_module(folder, "own", "1.2.3")
    manifest = folder / "modpkg.toml"
    text = "# mine\n" + manifest.read_text().replace('"1.2.3"', "'1.2.3'  # the version")
    manifest.write_text(text)
    assert run(capfd, "version") == (0, "own 1.2.3\n", "")
    assert run(capfd, "version", "--bump", "minor", "--dry-run")[1] == "own 1.2.3 -> 1.3.0\n"
    assert manifest.read_text() == text
    assert run(capfd, "version", "--bump", "minor")[1] == "own 1.2.3 -> 1.3.0\n"
    assert manifest.read_text() == text.replace("'1.2.3'", '"1.3.0"'), "and nothing else"
    document = json.loads(run(capfd, "version", "2.0rc1", "--json")[1])
    assert document == {"schema": 1, "name": "own", "before": "1.3.0", "version": "2.0rc1"}
    assert run(capfd, "version", "2.0", "--bump", "major")[0] == 2
    assert run(capfd, "version", "x.y")[0] == 2
    assert run(capfd, "version")[1] == "own 2.0rc1\n"


def test_version_of_an_app_or_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "error[M111]" in run(capfd, "version")[2]
    run(capfd, "init", "--name", "app")
    assert "error[M112]" in run(capfd, "version")[2]


def test_version_in_an_inline_table_and_a_pyproject() -> None:
    inline = 'module = { name = "a", version = "1.0", kind = "base", license = "MIT" }\n'
    assert 'version = "1.1"' in set_version(inline, "1.1")
    project = (
        '[project]\nversion = "9"\n[tool.modpkg.module]\nname = "a"\nversion = "1.0"\n'
        'kind = "base"\nlicense = "MIT"\n'
    )
    assert set_version(project, "1.1") == project.replace('"1.0"', '"1.1"')


def test_a_dry_run_of_publishing_checks_and_writes_nothing(
    home: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_module(folder, "own", "1.0", files={"notes.txt": b"some notes"})
    assert "error[M311]" in run(capfd, "publish", "--dry-run")[2], "it was not built"
    assert run(capfd, "build")[0] == 0
    out = run(capfd, "publish", "--dry-run")[1]
    assert out.startswith("Would publish own 1.0 to ")
    assert not (home / "registry").exists()
    foreseen = json.loads(run(capfd, "publish", "--dry-run", "--json")[1])
    done = json.loads(run(capfd, "publish", "--json")[1])
    assert foreseen["dry_run"] is True
    assert foreseen["size"] == done["size"]
    assert "already" in run(capfd, "publish", "--dry-run")[1]
    (folder / "notes.txt").write_bytes(b"other notes")
    assert run(capfd, "build")[0] == 0
    before = sorted(home.rglob("registry/**/*"))
    status, _, err = run(capfd, "publish", "--dry-run")
    assert status == 1
    assert "error[M307]" in err, "what publishing would say"
    assert sorted(home.rglob("registry/**/*")) == before


def test_registries_are_listed_with_what_named_them(
    home: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_collection(home / "registry", "lib", "1.5")
    publish_collection(tmp_path / "other", "own", "1.0")
    (folder / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\nlib = "*"\n'
        'own = { version = "*", registry = "mine" }\n[registries]\nmine = "../other"\n'
    )
    assert run(capfd, "lock")[0] == 0
    found = json.loads(run(capfd, "registry", "list", "--json")[1])["registries"]
    assert [(each["alias"], each["modules"]) for each in found] == [
        ("default", ["lib"]),
        ("mine", ["own"]),
    ]
    assert [Path(each["address"]).resolve() for each in found] == [
        home / "registry",
        tmp_path / "other",
    ]
    out = run(capfd, "registry", "list")[1]
    assert "from 'mine' under [registries] of modpkg.toml" in out


def test_a_registry_that_only_the_lock_names_is_listed_and_m301_says_to_use_it(
    home: Path, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    publish_collection(other, "lib", "1.5")
    (folder / "modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nlib = "*"\n')
    assert run(capfd, "lock", "--registry", str(other))[0] == 0
    found = json.loads(run(capfd, "registry", "list", "--json")[1])["registries"]
    lib = {"alias": "default", "address": str(other), "origin": "from modpkg.lock"}
    assert found == [lib | {"modules": ["lib"]}]
    assert "from modpkg.lock" in run(capfd, "registry", "list")[1]
    for command in (["update"], ["outdated"], ["info", "lib"]):
        status, _, err = run(capfd, *command)
        assert status == 1
        assert "error[M301]" in err
        assert f"use '--registry {other}'" in " ".join(err.split())
    assert run(capfd, "outdated", "--registry", str(other))[0] == 0


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lib=1.0", "did you mean 'lib==1.0'?"),
        ("lib 1.0", "did you mean 'lib==1.0'?"),
        ("lib:v1.0", "did you mean 'lib==1.0'?"),
        ("'lib>=1'", "did you mean 'lib>=1'?"),
        ("lib=>1", "did you mean 'lib>=1'?"),
        ("lib>1<2", "did you mean 'lib>1,<2'?"),
        ("./lib", "it is a path"),
        ("C:\\lib", "it is a path"),
        ("acme/lib", "--registry names its registry"),
        ("lib>=1.x.y", "Expected"),
        (" " * 90, "Expected"),
    ],
)
def test_a_requirement_that_is_mistyped_says_how_it_is_meant(typed: str, meant: str) -> None:
    with raises("M103", match=re.escape(meant)):
        parse_requirement(typed)
    if "did you mean" in meant:
        assert parse_requirement(meant[14:-2]).name == "lib"


@pytest.mark.parametrize("text", ["models.acme.example/r", "localhost:8080", "C:\\models"])
def test_what_is_no_folder_is_not_published_to(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_module(tmp_path / "lone", "lone")
    assert run(capfd, "build", str(folder))[0] == 0
    publish = ["publish", str(folder), "--registry"]
    status, _, err = run(capfd, *publish, text)
    assert (status, "error[M855]" in err) == (1, True)
    assert not Path(text).exists()
    Path("modpkg.toml").write_text(f'[app]\nname = "a"\n[registries]\ndefault = {text!r}\n')
    assert "error[M855]" in run(capfd, "lock")[2]
    found = re.search(r"or (\S+) for a new folder", err)
    assert found is not None
    assert run(capfd, *publish, found[1])[0] == 0
    assert run(capfd, *publish, text)[0] == 0  # now there is one
    assert run(capfd, *publish, str(tmp_path / "models.acme.example"))[0] == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["import", "source"],
            "one of hf, oci, gguf, peft, mergekit, safetensors. Here: modpkg import ",
        ),
        (["import", "hf", "acme/small"], "name it hf://acme/small"),
        (["import", "hf", "oci://a.example/small:1"], "modpkg import oci oci://a.example/small:1"),
        (["import", "oci://a.example/small:1"], "Here: modpkg import oci oci://a.example/small:1"),
        (["import", "hf", "https://huggingface.co/acme/small"], "name it hf://acme/small"),
        (["import", "gguf", "acme/small"], "hf download acme/small --local-dir small"),
        (["import", "hf", "source", "--license", "Apache 2.0"], "did you mean 'Apache-2.0'?"),
        (["init", "My App"], "Pass --name with one"),
        (["init", "source/config.json"], "is a file; name the folder"),
    ],
)
def test_wrong_arguments_say_what_to_do(
    command: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("source").mkdir()
    Path("source/config.json").write_text("{}")
    status, _, err = run(capfd, *command)
    assert (status, said in " ".join(err.split())) == (2, True), err
