"""What composing, running, comparing and publishing models say to do works."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from modpkg.core.messages import MESSAGES
from modpkg.manifest.config import parse_settings
from modpkg.registry.source import ObjectSource, open_source
from tests import tiny
from tests.e2e.remedies import APP, Run, fails, works

TESTS = Path(__file__).parents[1]


# Composing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "right", "wrong"),
    [
        ("M602", 'op = "lora"', 'op = "lorra"'),
        ("M620", 'base = "tiny"', 'base = "tiny"\nmethod = "summ"'),
    ],
)
def test_m602_and_m620_name_what_is_known(
    code: str, right: str, wrong: str, registry: Path, run: Run
) -> None:
    Path("modpkg.toml").write_text(APP.replace(right, wrong))
    text = fails(run, code, "install")
    assert re.search(r"known are .*(lora|sum)", text)
    Path("modpkg.toml").write_text(APP)
    works(run, "install")


def test_m604_of_another_base(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0", hidden=16)
    assert "the module was made for another base" in fails(run, "M604", "build", folder)
    works(run, "build", tiny.write_adapter(folder, "3.0"))


def test_m607_accepts_the_result_without_the_locked_one(registry: Path, run: Run) -> None:
    works(run, "install")
    lock = Path("modpkg.lock")
    text = re.sub(
        r'result = "sha256:[0-9a-f]{64}"', f'result = "sha256:{"0" * 64}"', lock.read_text()
    )
    lock.write_text(text)
    works(run, "store", "clear")
    assert "remove the [[composed]] table of" in fails(run, "M607", "install")
    lock.write_text(text[: text.index("[[composed]]")])
    works(run, "install")


# Running and comparing ----------------------------------------------------------------------


def test_m706_of_no_text(registry: Path, run: Run) -> None:
    works(run, "install")
    Path("empty.txt").write_text("\n")
    assert "pass a file" in fails(run, "M706", "run", "mine", "empty.txt")


def test_m804_of_what_cannot_be_compared(registry: Path, run: Run) -> None:
    works(run, "install")
    text = fails(run, "M804", "diff", "./nowhere", "tiny")
    assert "Name a release (NAME==VERSION), an installed model (NAME" in text
    works(run, "diff", "tiny==1.0", "mine")
    fails(run, "M804", "diff", "mine@9", "tiny")
    works(run, "diff", "mine@1", "tiny")


def test_m761_of_too_low_a_version(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "1.0.1", seed=4)
    works(run, "build", folder)
    text = fails(run, "M761", "publish", folder)
    lowest = re.search(r"in modpkg.toml to (\S+) or higher", text)
    assert lowest is not None
    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace("1.0.1", lowest[1]))
    works(run, "build", folder)
    works(run, "publish", folder)


def test_m115_completes_the_release(registry: Path, tmp_path: Path, run: Run) -> None:
    source = tiny.write_adapter(tmp_path / "saved")
    (source / "modpkg.toml").unlink()
    command = ["import", "peft", source, "--base", "tiny", "--out", "out", "--license", "MIT"]
    text = fails(run, "M115", *command, "--against", "1.0", status=2)
    found = re.search(r"like '(tiny==\S+)'", text)
    assert found is not None
    works(run, *command, "--against", found[1])


def test_m315_of_plain_http(registry: Path, run: Run, home: Path) -> None:
    home.mkdir(exist_ok=True)
    config = home / "config.toml"
    config.write_text('[registry."http://models.example/r"]\ntoken = "t0ken"\n')
    config.chmod(0o600)
    text = fails(run, "M315", "lock", "--registry", "http://models.example/r")
    assert "use an https:// address" in text
    settings = parse_settings(config.read_text().replace("http:", "https:"), config)
    address = "https://models.example/r"
    source = open_source(address, None, settings.of(address).login)
    assert isinstance(source, ObjectSource)
    assert source._store is not None


# The system ---------------------------------------------------------------------------------


def test_m510_of_a_folder_that_is_not_utf8(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.fsdecode(b"n\xff")
    try:
        os.mkdir(folder)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system takes no such name")
    monkeypatch.chdir(folder)
    Path("modpkg.toml").write_text(APP)
    assert "its name is not UTF-8); rename it" in fails(run, "M510", "install")
    monkeypatch.chdir("..")
    Path(folder).rename("n")
    monkeypatch.chdir("n")
    works(run, "install")


def test_a_closed_standard_output_is_no_error(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    works(run, "install")
    monkeypatch.setattr(sys, "stdout", None)
    works(run, "list")


# All of them --------------------------------------------------------------------------------

ELSEWHERE = {
    **dict.fromkeys(["M110", "M901"], "cli/test_commands.py community/modules/test_reference.py"),
    "M212": "transfer/test_fetch.py",
    "M601": "community/patch/test_merge.py",
    **dict.fromkeys(["M603", "M736"], "community/patch/test_patch.py"),
    "M605": "compose/test_executor.py",
    "M606": "adapters/test_peft_config.py",
    **dict.fromkeys(["M608", "M609"], "compose/test_experts.py"),
    **dict.fromkeys(["M616", "M617"], "compose/test_tokenizer_files.py"),
    "M621": "compose/test_clusters.py",
    "M700": "runtime/test_virtual_tokens.py",
    **dict.fromkeys(["M702", "M722"], "runtime/test_load.py"),
    **dict.fromkeys(["M705", "M726"], "runtime/test_pipeline.py"),
    "M707": "interop/test_folders.py",
    "M708": "runtime/test_live.py",
    **dict.fromkeys(["M709", "M727"], "runtime/test_api.py"),
    **dict.fromkeys(["M716", "M720"], "community/evaluate/test_testing.py"),
    **dict.fromkeys(["M717", "M718"], "community/evaluate/test_runner.py"),
    "M723": "runtime/test_loading_report.py",
    **dict.fromkeys(["M724", "M725"], "runtime/test_sentence_settings.py"),
    "M728": "interop/test_directory.py",
    "M760": "registry/test_origins.py",
    "M770": "environment/test_licences.py",
    "M795": "e2e/test_bisect.py",
    "M797": "e2e/test_tested_update.py",
    "M801": "interop/test_dequantise.py",
    "M805": "interop/test_exports.py",
    "M806": "cli/test_search.py",
    "M902": "cli/test_redirect.py",
}
"""Provoked by the tests of their rooms, which check the sentence. What it says to do is not run
there: it is no command (a training to fix, a file to choose, a package to install, another
module), or the sentence tells a fact about which nothing can be done."""


def test_every_code_is_provoked() -> None:
    texts = [path.read_text() for path in TESTS.glob("e2e/test_remedies*.py")]
    texts[:] = [text.split("\nELSEWHERE = ")[0] for text in texts]
    here = {f"M{number}" for text in texts for number in re.findall(r"\b[mM](\d{3})\b", text)}
    here |= {
        f"M{n}"
        for t in texts
        for name in re.findall(r"def (test_\w+)", t)
        for n in re.findall(r"m(\d{3})", name)
    }
    if others := MESSAGES.keys() - here - ELSEWHERE.keys():
        rooms = " ".join(path.read_text() for path in TESTS.rglob("test_*.py"))
        assert sorted(code for code in others if code not in rooms) == []
    assert not here & ELSEWHERE.keys()
    for code, files in ELSEWHERE.items():
        assert any(code in (TESTS / file).read_text() for file in files.split()), code
