"""What an error says to do works: provoke it, run the command that it prints, and begin again."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import transformers

import modpkg
from modpkg.community.evaluate import metrics
from modpkg.core.sealed import seal
from modpkg.environment.project import find_project
from modpkg.environment.workspace import Workspace
from modpkg.runtime.installed import find_model
from tests import tiny
from tests.e2e.remedies import Run, fails, remedy_of, repaired, works
from tests.modules import publish_collection, write_module
from tests.raising import raises
from tests.tiny import APP

# What is not installed ----------------------------------------------------------------------


@pytest.mark.parametrize("command", [["show", "mine"], ["why", "tiny"], ["list"], ["tree", "mine"]])
def test_m503_installs_what_the_manifest_names(
    command: list[str], registry: Path, run: Run
) -> None:
    repaired(run, "M503", *command)


def test_m503_in_the_user_environment(registry: Path, run: Run) -> None:
    status, text = run("list", "--user")
    assert status == 1
    assert remedy_of(text) == ["install", "NAME", "--user"]
    assert run("install", "tiny", "--user")[0] == 0
    assert run("list", "--user")[0] == 0


@pytest.mark.parametrize("command", ["show", "why", "tree"])
def test_a_model_that_list_shows_is_installed(command: str, registry: Path, run: Run) -> None:
    run("install")
    assert "mine" in run("list")[1].splitlines()[-1]
    status, text = run(command, "mine")
    assert status == 0
    assert {"show": "tiny-lora 1.0", "why": "[models.mine]", "tree": "adapter"}[command] in text
    assert run(command, "mine", "--json")[0] == 0


@pytest.mark.parametrize("command", [["show", "two"], ["export", "two", "out"]])
def test_m504_of_what_the_manifest_names(command: list[str], registry: Path, run: Run) -> None:
    run("install")
    Path("modpkg.toml").write_text(APP + APP[APP.index("[models") :].replace("mine", "two"))
    assert "modpkg.toml names it" in repaired(run, "M504", *command)


@pytest.mark.parametrize("command", [["show", "several"], ["why", "several"]])
def test_m504_of_what_it_does_not_name(command: list[str], registry: Path, run: Run) -> None:
    run("install")
    repaired(run, "M504", *command)


def test_m504_of_the_app_itself_and_of_a_misspelling(registry: Path, run: Run) -> None:
    run("install")
    assert "the app itself" in run("run", "app", "x")[1]
    assert "did you mean 'mine'" in run("run", "mein", "x")[1]
    assert "did you mean 'tiny-lora'" in run("show", "tiny-lira")[1]


# What is damaged ----------------------------------------------------------------------------


def test_m506_of_a_live_model_without_store_and_lock(registry: Path, run: Run) -> None:
    run("install")
    run("store", "clear")
    Path("modpkg.lock").unlink()
    repaired(run, "M506", "export", "tiny-lora", "out")


@pytest.mark.parametrize("damage", ["cut", "another form"])
def test_m506_of_a_models_record(damage: str, registry: Path, run: Run) -> None:
    run("install")
    record = Path(".modpkg/current/models/mine/model.json").resolve()
    old = msgspec.json.decode(record.read_bytes())
    record.chmod(0o644)
    old = {key: value for key, value in old.items() if key not in ("seal", "recipe")}
    record.write_bytes(seal(old) if damage == "another form" else record.read_bytes()[:-9])
    repaired(run, "M506", "export", "mine", "out")


@pytest.mark.parametrize("damage", ["pack", "record"])
def test_m506_of_an_earlier_generation(damage: str, registry: Path, run: Run) -> None:
    run("install")
    lora, text = registry.parent / "projects" / "lora-2", Path("modpkg.toml").read_text()
    tiny.publish(tiny.write_adapter(lora, "2.0", seed=2), registry)
    assert run("update")[0] == 0
    first = Path(".modpkg/generations/1")
    if damage == "record":
        (first / "generation.json").write_text("{}")
    else:
        (first / "models/mine/model.json").unlink()
    status, said = run("rollback", "--to", "1")
    assert (status, "error[M506]" in said) == (1, True)
    assert "copy the manifest and modpkg.lock in it over the project's" in said
    for name in ("modpkg.toml", "modpkg.lock"):
        shutil.copy(first / name, name)
    assert run("install")[0] == 0
    assert "tiny-lora  1.0" in run("list")[1]
    assert Path("modpkg.toml").read_text() == text


# What is built and begun --------------------------------------------------------------------


def test_m210_does_not_ask_for_what_is_named(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "3.0")
    manifest = folder / "modpkg.toml"
    right = manifest.read_text()
    manifest.write_text(right.replace("tiny = ", "several = "))
    status, text = run("build", folder)
    assert (status, "error[M210]" in text) == (1, True)
    assert "none of its dependencies has weights of its own (several)" in text
    manifest.write_text(right.replace("tiny = ", "tinny = "))
    assert "error[M304]" in run("build", folder)[1]
    manifest.write_text(right.replace("[dependencies]", '[dependencies]\nseveral = "*"'))
    assert run("build", folder)[0] == 0


def test_m204_of_an_empty_model(tmp_path: Path, run: Run) -> None:
    folder = write_module(tmp_path / "empty", "empty", kind="model")
    status, text = run("build", folder)
    assert (status, "error[M204]" in text) == (1, True)
    assert "weights or a recipe under [compose]" in text


def test_init_does_not_shadow_a_pyproject(run: Run) -> None:
    Path("pyproject.toml").write_text('[tool.modpkg.app]\nname = "app"\n')
    status, text = run("init")
    assert (status, "[tool.modpkg]" in text) == (2, True)
    assert not Path("modpkg.toml").exists()
    assert run("init", "inside", "--kind", "adapter")[0] == 0
    Path("pyproject.toml").write_text('[project]\nname = "x"\n')
    assert run("init")[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ["install", "tiny>>1"],
        ["install", "a b"],
        ["show", "!"],
        ["remove", "-x-"],
        ["why-not", "tiny=1"],
        ["lock", "--exclude-newer", "yesterday"],
        ["import", "safetensors", "modpkg.toml", "--version", "one"],
        ["store", "gc", "--max-size", "much"],
        ["init", "new", "--name", "über"],
        ["nonsense"],
    ],
)
def test_malformed_usage_exits_2(command: list[str], registry: Path, run: Run) -> None:
    run("install")
    assert run(*command)[0] == 2


def test_a_malformed_file_is_no_wrong_usage(registry: Path, run: Run) -> None:
    Path("modpkg.toml").write_text(APP.replace('"*"', '">>1"', 1))
    assert run("install")[0] == 1


@pytest.mark.parametrize("make", ["missing", "folder", "file in the way", "loop", "long"])
def test_m510_of_other_errors_of_the_system(
    make: str, registry: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        Path("f").touch()
        if make == "loop":
            Path("l").symlink_to("l")
        name = {"missing": "no", "folder": ".", "file in the way": "f/x", "loop": "l"}
        Path(name.get(make, "x" * 400)).read_bytes()

    monkeypatch.setattr("modpkg.cli.list.find_installed", fail)
    status, text = run("list")
    assert (status, "error[M510]" in text) == (1, True)


# What is imported ---------------------------------------------------------------------------


def test_import_hf_names_the_command_for_an_adapter(
    registry: Path, tmp_path: Path, run: Run
) -> None:
    source = tiny.write_adapter(tmp_path / "my adapter")
    (source / "modpkg.toml").unlink()
    for config in (None, "{}"):
        if config is not None:
            (source / "config.json").write_text(config)
        assert run("import", "hf", source)[0] == 2  # its name is not a module's
        text = fails(run, "M801", "import", "hf", source, "--name", "it")
        remedy = [word.replace("NAME", "tiny") for word in remedy_of(text)]
        out = "out" if config is None else "out2"
        assert run(*remedy, "--out", out, "--name", "it")[0] == 0


@pytest.mark.parametrize("root", ["", "hub/"])
def test_import_hf_of_a_hub_cache(root: str, tmp_path: Path, run: Run) -> None:
    source = tmp_path / f"cache/{root}models--acme--small/snapshots/4f"
    tiny.write_base(source)
    (source / "modpkg.toml").unlink()
    for place in (tmp_path / "cache", source.parents[1]):
        text = fails(run, "M801", "import", "hf", place)
        assert place.name.split("--")[-1] in text
        out = f"out-{place.name}"
        assert run(*remedy_of(text), "--out", out, "--name", "it", "--license", "MIT")[0] == 0
    assert "of acme/small" in run("import", "hf", tmp_path / "cache")[1]


def test_import_hf_of_pickles_says_how_to_rewrite_them(tmp_path: Path, run: Run) -> None:
    source = tiny.write_base(tmp_path / "source")
    (source / "modpkg.toml").unlink()
    model = transformers.LlamaForCausalLM.from_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    text = fails(run, "M801", "import", "hf", source)
    python = re.search(r"transformers\..*?'NEW'\)", text)
    assert python is not None
    exec(python[0], {"transformers": transformers})
    assert run(*remedy_of(text), "--out", "out", "--name", "it", "--license", "MIT")[0] == 0


# What a package is missing for --------------------------------------------------------------


def test_m703_of_a_metric_comes_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with raises("M703", match="rouge-score"):
        metrics.check_package("rouge_l")
    metrics.check_package("accuracy")


# What is asked for by Python ----------------------------------------------------------------


def test_m504_says_the_same_in_python(registry: Path, run: Run) -> None:
    run("install")
    with raises("M504", match="run 'modpkg install nothing'"):
        find_model("nothing", Workspace(find_project()))


# What is locked, built and fetched ----------------------------------------------------------


def test_m111_makes_a_manifest(tmp_path: Path, run: Run) -> None:
    works(run, *remedy_of(fails(run, "M111", "build", ".")))
    assert "error[M111]" not in run("build", ".")[1]
    adapter = tiny.write_adapter(tmp_path / "my adapter")
    base = tiny.write_base(tmp_path / "base")
    for folder in (adapter, base):
        (folder / "modpkg.toml").unlink()
        for command in ("build", "publish"):
            remedy = remedy_of(fails(run, "M111", command, folder))
            remedy = [word.replace("NAME", "tiny") for word in remedy]
            works(run, *remedy, "--name", "it", "--out", f"{command}-{folder.name}")


def test_m311_builds_first(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", "7.0")
    status, text = run("publish", folder)
    assert (status, "error[M311]" in text) == (1, True)
    assert run(*remedy_of(text), folder)[0] == 0
    assert run("publish", folder, "--registry", registry)[0] == 0


def test_m410_to_m412_lock_again(registry: Path, run: Run) -> None:
    repaired(run, "M411", "install", "--frozen")
    lock = Path("modpkg.lock")
    lock.write_text(lock.read_text()[:-20] + "\n[[")
    repaired(run, "M410", "install", "--frozen")
    Path("modpkg.toml").write_text(APP.replace('"*"', '">=1"', 1))
    repaired(run, "M412", "install", "--frozen")


def test_m301_is_created_by_publishing(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = write_module(tmp_path / "lone", "lone", kind="collection")
    (tmp_path / "other").mkdir()
    status, text = run("install", "lone", "--user", "--registry", tmp_path / "other")
    assert (status, "error[M301]" in text) == (1, True)
    assert run("build", folder)[0] == 0
    assert run("publish", folder, "--registry", tmp_path / "other")[0] == 0
    assert run("install", "lone", "--user", "--registry", tmp_path / "other")[0] == 0


def test_m307_is_published_under_a_higher_version(registry: Path, tmp_path: Path, run: Run) -> None:
    folder = tiny.write_adapter(tmp_path / "new", seed=9)
    run("build", folder)
    status, text = run("publish", folder)
    assert (status, "error[M307]" in text) == (1, True)
    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('"1.0"', '"2.0"', 1))
    assert run("build", folder)[0] == 0
    assert run("publish", folder)[0] == 0


def test_m112_makes_a_module(registry: Path, run: Run) -> None:
    status, text = run("build")
    assert (status, "error[M112]" in text) == (1, True)
    assert run(*[word.replace("FOLDER", "new") for word in remedy_of(text)])[0] == 0
    assert "error[M112]" not in run("build", "new")[1]


def test_m803_takes_a_new_folder(tmp_path: Path, run: Run) -> None:
    source = tiny.write_base(tmp_path / "source")
    Path("out").mkdir()
    Path("out/x").touch()
    command = ["import", "safetensors", source / "model.safetensors", "--license", "MIT", "--out"]
    status, text = run(*command, "out")
    assert (status, "error[M803]" in text) == (1, True)
    assert run(*command, "out2")[0] == 0


# What is used, indirect or without a part ---------------------------------------------------


def test_m890_and_m507_of_what_is_removed(registry: Path, run: Run) -> None:
    run("install")
    text = fails(run, "M890", "remove", "tiny-lora")
    assert "[models.mine] of modpkg.toml uses it" in text
    assert "delete the table [models.mine]" in fails(run, "M507", "remove", "mine")
    assert "it has tiny, tiny-lora" in fails(run, "M507", "remove", "nothing")
    Path("modpkg.toml").write_text(APP[: APP.index("[models")])
    works(run, "remove", "tiny-lora")


def test_m701_of_a_base_that_is_there_for_another_module(registry: Path, run: Run) -> None:
    publish_collection(registry, "outer", requires={"tiny": "*"})
    Path("modpkg.toml").write_text('[app]\nname = "app"\n[dependencies]\nouter = "*"\n')
    run("install")
    with raises("M701") as caught:
        modpkg.load("tiny")
    works(run, *remedy_of(str(caught.value)))
    assert modpkg.load("tiny") is not None
    with raises("M701", match="it has nothing to run"):
        modpkg.load("outer")


def test_m704_of_a_model_without_a_tokenizer(registry: Path, run: Run) -> None:
    run("install")
    text = fails(run, "M704", "run", "mine", "text")
    assert "it has no tokenizer (no tokenizer.json); publish its base with the files" in text


def test_m402_of_what_is_not_locked(registry: Path, run: Run) -> None:
    run("install")
    for name in ("mine", "several"):
        text = fails(run, "M402", "update", name)
        works(run, *remedy_of(text))
    manifest = Path("modpkg.toml")
    manifest.write_text(manifest.read_text().replace("tiny = ", 'outer = "*"\ntiny = ', 1))
    publish_collection(registry, "outer")
    repaired(run, "M402", "update", "outer")


def test_m312_and_m304_name_what_there_is(registry: Path, run: Run) -> None:
    run("install")
    for command in (["why-not", "tiny==9"], ["diff", "mine", "tiny==9"], ["fork", "tiny==9", "x"]):
        assert "; it has 1.0." in fails(run, "M312", *command)
    for command in (["why-not", "tinny==9"], ["diff", "mine", "tinny==9"], ["log", "tinny"]):
        assert "did you mean 'tiny'?" in fails(run, "M304", *command)


def test_m504_of_a_model_to_compare(registry: Path, run: Run) -> None:
    run("install")
    assert "it has mine, tiny, tiny-lora" in fails(run, "M504", "diff", "mine", "xxxxx")
    tiny.publish(tiny.write_model(registry.parent / "talker"), registry)
    text = fails(run, "M504", "diff", "mine", "talker")
    assert "name its version: talker==1.0." in text
    status, text = run("why-not", "tiny")
    assert (status, 'modpkg why-not "tiny==1.0"' in text) == (2, True)
