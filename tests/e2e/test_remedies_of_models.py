"""What composing, running, comparing and publishing models say to do works."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from modpkg.core.messages import MESSAGES
from modpkg.manifest.config import parse_settings
from modpkg.registry.object_source import ObjectSource
from modpkg.registry.open_source import open_source
from tests import tiny
from tests.conftest import safetensors_bytes
from tests.e2e.remedies import Run, fails, remedy_of, works
from tests.e2e.test_remedies_of_builds import base_weights
from tests.modules import write_module
from tests.tiny import APP

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


def test_a_lock_of_another_engine_is_told_of_where_its_result_differs(
    registry: Path, run: Run
) -> None:
    works(run, "install")
    lock = Path("modpkg.lock")
    older = re.sub(r'engine = "[0-9]+"', 'engine = "0"', lock.read_text())
    lock.write_text(older)
    works(run, "store", "clear")
    assert "engine 0" not in str(run("install"))
    lock.write_text(
        re.sub(r'result = "sha256:[0-9a-f]{64}"', f'result = "sha256:{"0" * 64}"', older)
    )
    works(run, "store", "clear")
    status, *told = run("install")
    assert status == 0
    assert "engine 0" in str(told)


def test_m601_of_a_base_that_is_none_and_m219_of_a_recipe_of_itself(
    registry: Path, run: Run
) -> None:
    Path("modpkg.toml").write_text(APP.replace('base = "tiny"', 'base = "tiny-lora"'))
    text = fails(run, "M601", "install")
    assert "name the base that it acts on, and it in a step" in text
    tiny.publish(tiny.write_model(registry.parent / "talker"), registry)
    on_a_model = APP.replace('base = "tiny"', 'base = "talker"') + "\n"
    Path("modpkg.toml").write_text(on_a_model.replace("tiny =", 'talker = "*"\ntiny ='))
    works(run, "install")
    folder = registry.parent / "talker-of-outer"
    recipe = '[compose]\nbase = "outer"\n'
    tiny.publish(write_module(folder, "talker", "2.0", "model", {"outer": "*"}, recipe), registry)
    folder, recipe = registry.parent / "outer", '[compose]\nbase = "talker"\n'
    tiny.publish(write_module(folder, "outer", "1.0", "model", {"talker": "*"}, recipe), registry)
    assert "choose another version" in fails(run, "M219", "update")
    Path("modpkg.toml").write_text(on_a_model.replace("tiny =", 'talker = "<2"\ntiny ='))
    works(run, "install")


def test_m605_of_a_scale_that_is_too_large(registry: Path, run: Run) -> None:
    half = APP.replace(" }]", ", scale = 1e9 }]") + 'dtype = "float16"\n'
    Path("modpkg.toml").write_text(half)
    assert "or a scale is too large" in fails(run, "M605", "install")
    Path("modpkg.toml").write_text(APP)
    works(run, "install")


def test_m608_and_m609_of_experts(registry: Path, tmp_path: Path, run: Run) -> None:
    other = tiny.write_base(tmp_path / "other", seed=7)
    manifest = (other / "modpkg.toml").read_text().replace('"tiny"', '"other"')
    (other / "modpkg.toml").write_text(manifest)
    tiny.publish(other, registry)
    tensors = base_weights(other / "model.safetensors")
    blocks = {name: value for name, value in tensors.items() if ".mlp." in name}
    folder = write_module(tmp_path / "expert", "expert", kind="expert", requires={"tiny": "*"})
    few = dict(list(blocks.items())[:-1])
    (folder / "model.safetensors").write_bytes(safetensors_bytes(few))
    assert "build it with all of them" in fails(run, "M608", "build", folder)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(blocks))
    works(run, "build", folder)
    works(run, "publish", folder)
    app = APP[: APP.index("[models")].replace("tiny-lora", 'other = "*"\nexpert')
    steps = [
        '{ op = "expert", module = "expert" }',
        '{ op = "expert", module = "other" }',
        '{ op = "router", module = "tiny", parameters = { gates = "uniform" } }',
    ]
    mixture = f'{app}[models.moe]\nbase = "tiny"\nsteps = [\n{{}}\n]\n'
    Path("modpkg.toml").write_text(mixture.format(",\n".join(steps)))
    found = re.search(r'(others = "drop")', fails(run, "M609", "install"))
    assert found is not None
    steps[1] = f'{{ op = "expert", module = "other", parameters = {{ {found[1]} }} }}'
    Path("modpkg.toml").write_text(mixture.format(",\n".join(steps)))
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
    assert source.store is not None


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


# Manifests and usage ------------------------------------------------------------------------


def test_m110_names_the_key_that_is_meant(registry: Path, run: Run) -> None:
    Path("modpkg.toml").write_text(APP.replace("[dependencies]", "[dependancies]"))
    found = re.search(r"did you mean '(\w+)'", fails(run, "M110", "install"))
    assert found is not None
    Path("modpkg.toml").write_text(APP.replace("[dependencies]", f"[{found[1]}]"))
    works(run, "install")


def test_m901_says_how_it_is_meant(registry: Path, run: Run) -> None:
    text = fails(run, "M901", "why-not", "tiny", status=2)
    works(run, *remedy_of(text))
    assert "name no modules with it" in fails(run, "M901", "install", "--frozen", "tiny", status=2)
    works(run, "install")
    works(run, "install", "--frozen")
    text = fails(run, "M901", "store", "gc", "--max-size", "much", status=2)
    found = re.search(r"write it as '([^']+)'", text)
    assert found is not None
    works(run, "store", "gc", "--max-size", found[1])


def test_m902_quotes_the_requirement(
    registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("=1").touch()
    with monkeypatch.context() as patch:
        patch.setattr("modpkg.cli.redirect._redirected_into", lambda: Path("=1"))
        patch.setattr(os, "dup2", lambda *numbers: None)
        text = fails(run, "M902", "install", "tiny", "several", status=2)
    assert not Path("=1").exists()
    works(run, *remedy_of(text))


def test_m760_of_what_was_never_published(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_base(tmp_path / "new", "2.0")
    manifest = folder / "modpkg.toml"
    origin = 'built-from = [{ name = "tiny", version = "9.0" }]'
    right = f"{manifest.read_text()}[provenance]\n{origin}\n"
    manifest.write_text(right)
    found = re.search(r"it has ([\d.]+)\b", fails(run, "M760", "build", folder))
    assert found is not None
    manifest.write_text(right.replace("9.0", found[1].rstrip(".")))
    works(run, "build", folder)


def test_m770_lists_the_licence_as_an_exception(registry: Path, run: Run) -> None:
    policy = '[licenses]\nallow = ["Apache-2.0"]\n'
    Path("modpkg.toml").write_text(APP + policy)
    assert "list the licence for it under [licenses] exceptions" in fails(run, "M770", "install")
    Path("modpkg.toml").write_text(
        APP + policy + 'exceptions = { tiny = ["MIT"], tiny-lora = ["MIT"] }\n'
    )
    works(run, "install")


# All of them --------------------------------------------------------------------------------

ELSEWHERE = {
    "M212": (
        "transfer/test_fetch.py",
        "a publisher's tool encoded it wrongly; its owner restores it, as after M305",
    ),
    "M603": ("community/patch/test_patch.py", "a fact: the module was packed with too much"),
    "M606": ("adapters/test_peft_config.py", "e2e/test_untied.py runs the remedy of tied layers"),
    "M621": ("compose/test_clusters.py", "e2e/test_clusters.py serves such an address"),
    "M700": ("runtime/test_virtual_tokens.py", "a call in Python, which works without the option"),
    "M716": ("community/evaluate/test_testing.py", "a fact: the weights are broken"),
    "M718": ("community/evaluate/test_runner.py", "a fact: how a test's process ended"),
    "M723": ("runtime/test_loading_report.py", "names a package, which pip would fetch"),
    "M736": ("community/patch/test_patch.py", "a fault of modpkg itself, which is to be reported"),
}
"""By code, the test that provokes it, and why the remedy of its sentence is not run here."""


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
    for code, (file, reason) in ELSEWHERE.items():
        assert (code in (TESTS / file).read_text(), reason != "") == (True, True), code
