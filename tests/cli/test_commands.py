"""The commands as a person types them: what they print, what they refuse, what they leave."""

from __future__ import annotations

import json
import os
import pickle
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from modpkg.cli import COMMANDS
from modpkg.environment.project import find_project
from tests import tiny
from tests.changing import a_little, here_and_there, numbers, write
from tests.command import modpkg, modpkg_json, refused
from tests.modules import publish_collection, write_module


@pytest.fixture
def registry(home: Path) -> Path:
    publish_collection(home / "registry", "lib", "1.0")
    publish_collection(home / "registry", "lib", "1.5")
    publish_collection(home / "registry", "mid", "1.0", {"lib": "<2"})
    publish_collection(home / "registry", "top", "1.0", {"mid": "*", "lib": ">=1"})
    return home / "registry"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    text = modpkg(command, "--help").stdout
    assert text.startswith("Usage: modpkg " + command)
    assert len(text.splitlines()) > 5


def test_a_wrong_command_suggests_the_right_one() -> None:
    assert "Did you mean 'install'?" in refused("instal", status=2)
    assert "No such option" in refused("install", "--nope", status=2)


def test_tree_why_list_and_show(registry: Path) -> None:
    modpkg("install", "top")
    assert modpkg("tree").stdout.splitlines() == [
        "top 1.0 collection",
        "├── mid 1.0 collection (needs any version)",
        "│   └── lib 1.5 collection (needs <2)",
        "└── lib 1.5 collection (needs >=1)",
    ]
    assert modpkg("why", "lib").stdout.splitlines() == [
        "the manifest -> top 1.0 (>=1.0) -> lib 1.5 (>=1)",
        "the manifest -> top 1.0 (>=1.0) -> mid 1.0 (any version) -> lib 1.5 (<2)",
    ]
    assert "lib" in modpkg("list").stdout
    assert "Registry:  registry" in modpkg("show", "lib").stdout
    assert "did you mean 'lib'" in refused("show", "libb")
    assert [m["name"] for m in modpkg_json("list")["modules"]] == ["top", "mid", "lib"]
    assert modpkg_json("tree", "mid")["modules"][0]["requires"][0]["version"] == "1.5"
    assert len(modpkg_json("why", "lib")["paths"]) == 2
    assert modpkg_json("show", "lib")["module"]["registry"] == "registry"


def test_a_cycle_is_drawn_once(home: Path) -> None:
    publish_collection(home / "registry", "a", "1.0", {"b": "*"})
    publish_collection(home / "registry", "b", "1.0", {"a": "*"})
    modpkg("install", "a")
    assert modpkg("tree").stdout.splitlines()[-1].strip().endswith("(see above)")
    assert len(modpkg("why", "b").stdout.splitlines()) == 1


def test_inside_a_project_the_manifest_is_edited_and_keeps_its_form(registry: Path) -> None:
    text = '# ours\n[app]\nname = "shop"   # the shop\n\n[dependencies]\n# models\nlib = ">=1"\n'
    Path("modpkg.toml").write_text(text)
    modpkg("install", "mid")
    assert Path("modpkg.toml").read_text() == text + 'mid = ">=1.0"\n'
    assert Path("modpkg.lock").exists()
    assert Path(".modpkg/.gitignore").read_text() == "*\n"
    modpkg("remove", "mid")
    assert Path("modpkg.toml").read_text() == text
    assert "Nothing is installed" not in modpkg("list").stdout


def test_a_pyproject_is_a_manifest_too(registry: Path) -> None:
    Path("pyproject.toml").write_text(
        '[project]\nname = "x"\n\n[tool.modpkg.app]\nname = "x"\n\n[tool.ruff]\nline-length = 9\n'
    )
    modpkg("install", "lib@1.0")
    text = Path("pyproject.toml").read_text()
    assert 'lib = "==1.0"' in text
    assert text.endswith("[tool.ruff]\nline-length = 9\n") or "[tool.ruff]" in text
    assert modpkg_json("list")["modules"][0]["version"] == "1.0"


def test_dry_run_changes_nothing(registry: Path, home: Path) -> None:
    shown = modpkg("install", "top", "--dry-run").stdout
    assert " + top 1.0" in shown
    assert "Dry run: nothing was changed." in shown
    assert not (home / "environment").exists()
    assert modpkg_json("install", "top", "--dry-run")["dry_run"] is True


def test_a_second_install_does_nothing(registry: Path) -> None:
    modpkg("install", "top")
    assert "Nothing to do" in modpkg("install").stdout
    assert modpkg_json("install")["changes"] == []
    assert modpkg_json("rollback", "--list")["generations"][0]["generation"] == 1


def test_lock_check_and_upgrade(registry: Path) -> None:
    Path("modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\nlib = "<1.5"\n')
    assert "No lock file" in refused("lock", "--check")
    modpkg("lock")
    assert "is up to date with modpkg.toml" in modpkg("lock", "--check").stdout
    Path("modpkg.toml").write_text('[app]\nname = "a"\n[dependencies]\nlib = "*"\n')
    assert "lib was added or changed" in refused("lock", "--check")
    assert "error[M412]" in refused("install", "--frozen")
    modpkg("lock")
    assert modpkg_json("lock")["module"][0]["version"] == "1.0"  # what the lock has is kept
    modpkg("lock", "--upgrade")
    assert modpkg_json("lock")["module"][0]["version"] == "1.5"


def test_init_build_publish_and_yank(home: Path) -> None:
    modpkg("init", "words", "--kind", "collection")
    assert "exists" in refused("init", "words", status=2)
    assert "Built words 0.1.0" in modpkg("build", "words").stdout
    assert "Published words 0.1.0" in modpkg("publish", "words").stdout
    manifest = Path("words/modpkg.toml")
    manifest.write_text(manifest.read_text().replace("0.1.0", "0.2.0"))
    assert "run 'modpkg build' first" in refused("publish", "words")
    modpkg("build", "words")
    modpkg("publish", "words")
    modpkg("yank", "words==0.2.0", "--reason", "too early")
    assert modpkg_json("install", "words")["modules"][0]["version"] == "0.1.0"
    modpkg("yank", "words==0.2.0", "--undo")
    assert "NAME==VERSION" in refused("yank", "words", status=2)
    assert "is not in the registry" in refused("yank", "words==9")


def test_bad_manifests_are_not_overwritten(registry: Path) -> None:
    modpkg("init", ".", "--name", "shop")
    modpkg("install", "lib")
    good = Path("modpkg.toml").read_text()
    for text, sentence in (
        ("[app", "modpkg.toml:1"),
        (good + '[dependancies]\nx = "*"\n', "did you mean 'dependencies'"),
        (good.replace('"shop"', "7"), "app.name"),
        (good + 'Lib = "*"\n', "lib"),
    ):
        Path("modpkg.toml").write_text(text)
        message = refused("install")
        assert sentence in message
        assert message.startswith("error[M110]")
        assert Path("modpkg.toml").read_text() == text
    Path("modpkg.toml").write_text(good)
    assert "Nothing to do" in modpkg("install").stdout


def test_errors_as_json(registry: Path) -> None:
    done = modpkg("install", "nothing", "--json", check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "M304"


def test_a_broken_lock_is_regenerated_with_a_warning(registry: Path) -> None:
    modpkg("install", "lib")
    find_project().lock_path.write_text("broken [")
    assert "run 'modpkg lock'" in refused("install", "--frozen")
    assert "Regenerating it." in modpkg("install", "lib").stderr


def test_an_adapter_that_matches_nothing_is_refused_at_build(home: Path, tmp_path: Path) -> None:
    registry = home / "registry"
    tiny.publish(tiny.write_base(tmp_path / "base"), registry)
    folder = tiny.write_adapter(tmp_path / "lora")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"layers", b"blocks"))
    message = refused("build", folder)
    assert "blocks.0.self_attn" in message
    assert not (folder / "dist").exists()


def test_building_an_adapter_without_a_base_names_the_line_to_write(tmp_path: Path) -> None:
    folder = tiny.write_adapter(tmp_path / "lora")
    manifest = folder / "modpkg.toml"
    manifest.write_text(manifest.read_text().replace('tiny = ">=1"', ""))
    assert "list the base" in refused("build", folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_module(tmp_path / "m", "m", kind="base", files={name: b"\x80\x04."})
    assert "a module contains only data" in refused("build", folder)


def test_a_pickle_by_another_name_is_refused(tmp_path: Path) -> None:
    files = {"model.safetensors": pickle.dumps({"w": list(range(100))})}
    folder = write_module(tmp_path / "m", "m", kind="base", files=files)
    assert "pickle" in refused("build", folder)


def test_a_missing_module_and_an_empty_environment_have_different_errors() -> None:
    assert "Nothing is installed" in refused("list")
    assert "There is no registry at" in refused("install", "x")
    assert "There is no modpkg.toml" in refused("build", ".")


def test_no_colour_in_a_pipe_and_none_under_no_color(registry: Path) -> None:
    assert "\x1b" not in modpkg("install", "top").stdout
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        assert (b"\x1b" in in_terminal("tree", environment)) is coloured


def in_terminal(command: str, environment: dict[str, str]) -> bytes:
    """Run a command with a terminal as its output, and return what was written."""
    main, side = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    subprocess.run(
        [sys.executable, "-m", "modpkg", command],
        stdout=side,
        stderr=side,
        env=plain | environment,
        check=True,
    )
    os.close(side)
    written = b""
    try:
        while chunk := os.read(main, 65536):
            written += chunk
    except OSError:
        pass
    os.close(main)
    return written


def test_build_reports_the_size_of_an_update(home: Path, tmp_path: Path) -> None:
    first = numbers("a", "b", "c")
    folder = write(tmp_path / "m", first)
    assert "weights  3 tensors, 36.0 kB" in modpkg("build", folder).stdout
    modpkg("publish", folder)
    write(folder, here_and_there(a_little(first, "a"), "b"), version="1.1")
    weights = modpkg_json("build", folder)["weights"]
    assert {key: weights[key] for key in ("tensors", "unchanged", "changes", "bytes")} == {
        "tensors": 3,
        "unchanged": 1,
        "changes": 2,
        "bytes": 36_000,
    }
    output = modpkg("build", folder).stdout
    assert (
        f"weights  3 tensors, 1 unchanged, 2 as changes, {weights['new_bytes'] / 1000:.1f}"
        in output
    )
    assert "kB new of 36.0 kB" in output
    whole = modpkg_json("build", folder, "--no-deltas")["weights"]
    assert (whole["unchanged"], whole["changes"]) == (1, 0)
    assert whole["new_bytes"] > 24_000 > weights["new_bytes"]
    assert "was built for another registry: 1 of its packs" in refused(
        "publish", folder, "--registry", tmp_path / "elsewhere"
    )
    modpkg("publish", folder)


def test_a_registry_behind_a_server_is_built_for_without_it(tmp_path: Path) -> None:
    """Nothing can be published there, so the build neither refers to it nor reads it."""
    folder = write(tmp_path / "m", numbers("a"))
    built = modpkg_json("build", folder, "--registry", "http://127.0.0.1:1")["weights"]
    assert built["unchanged"] == 0
