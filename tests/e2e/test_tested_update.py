"""modpkg update --test from end to end: what passes is taken, what fails is held back."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from modpkg.resolve.lock import read_lock
from tests.command import modpkg, modpkg_json, refused
from tests.community.tiny import labelled, publish, table, write_encoder, write_head
from tests.planted import (
    contents,
    publish_graph,
    publish_many,
    runs_of,
    write_app,
    write_check,
)

NAMES = [f"m{number:02d}" for number in range(6)]


@pytest.fixture(scope="session")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of 6 modules with 12 versions each; nothing writes to it."""
    registry = tmp_path_factory.mktemp("six") / "registry"
    publish_many(registry, NAMES, 12)
    return registry


@pytest.fixture
def app(some: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app with all of them installed at 1.1."""
    monkeypatch.setenv("MODPKG_REGISTRY", str(some))
    return installed_old(dict.fromkeys(NAMES, "*"), dict.fromkeys(NAMES, "<=1.1"))


def installed_old(requires: dict[str, str], constraints: dict[str, str]) -> Path:
    """Install an app at old versions, with a manifest that has no constraints any more."""
    folder = Path.cwd()
    write_app(folder, requires, constraints)
    modpkg("install")
    write_app(folder, requires)
    modpkg("install")
    return folder


def test_a_mistake_in_the_manifest_is_named_where_it_is(app: Path) -> None:
    path = app / "modpkg.toml"
    path.write_text(f"{path.read_text()}[dependencis]\n")
    error = refused("update", "--test", "true")
    assert "error[M110]" in error
    assert "trials" not in error


def check(folder: Path, code: str) -> str:
    return shlex.join(write_check(folder, code))


def versions(folder: Path) -> dict[str, str]:
    lock = read_lock(folder / "modpkg.lock")
    assert lock is not None
    installed = {module["name"]: module["version"] for module in modpkg_json("list")["modules"]}
    assert installed == {module.name: module.version for module in lock.module}
    return installed


def updated(*arguments: str) -> Any:
    return json.loads(modpkg("update", *arguments, "--json").stdout)


def test_all_that_is_newest_when_that_passes(app: Path) -> None:
    result = updated("--test", check(app, "sys.exit(0)"))
    assert versions(app) == dict.fromkeys(NAMES, "1.12")
    assert (result["held"], result["runs"]) == ([], 1)
    assert runs_of(app) == 1


def test_breaking_modules_are_held_back_and_the_rest_updated(app: Path) -> None:
    command = check(app, "sys.exit(v['m02'] >= (1, 7) or v['m04'] >= (1, 10))")
    result = updated("--test", command)
    newest = dict.fromkeys(NAMES, "1.12")
    assert versions(app) == newest | {"m02": "1.6", "m04": "1.9"}
    assert {one["name"]: (one["version"], one["bad"]) for one in result["held"]} == {
        "m02": ("1.6", "1.7"),
        "m04": ("1.9", "1.10"),
    }
    lines = (app / ".runs").read_text().splitlines()
    assert f"'m02': (1, 6), 'm03': {(1, 12)}, 'm04': (1, 9)" in lines[-1]


def test_the_later_module_of_a_breaking_pair_is_held_back(app: Path) -> None:
    command = check(app, "sys.exit(v['m01'] >= (1, 3) and v['m03'] >= (1, 8))")
    output = modpkg("update", "--test", command).stdout
    assert versions(app) == dict.fromkeys(NAMES, "1.12") | {"m03": "1.7"}
    assert "m03 stays at 1.7: tests fail with 1.8 together with m01" in output
    modpkg("lock", "--check")


def test_a_name_alone(app: Path) -> None:
    updated("m05", "--test", check(app, "sys.exit(v['m05'] >= (1, 4))"))
    assert versions(app) == dict.fromkeys(NAMES, "1.1") | {"m05": "1.3"}


def test_a_dry_run_switches_nothing(app: Path) -> None:
    before = contents(app / ".modpkg"), (app / "modpkg.lock").read_bytes()
    command = check(app, "sys.exit(v['m05'] >= (1, 4))")
    output = modpkg("update", "--dry-run", "--test", command).stdout
    assert "m05 stays at 1.3" in output
    assert "~ m00 1.1 -> 1.12" in output
    assert "~ m05 1.1 -> 1.3" in output
    assert (contents(app / ".modpkg"), (app / "modpkg.lock").read_bytes()) == before
    runs = runs_of(app)
    modpkg("update", "--test", command)
    assert runs_of(app) == runs  # nothing has changed since, so the runs count
    assert versions(app)["m05"] == "1.3"


def test_a_failed_or_killed_update_changes_nothing(app: Path) -> None:
    before = contents(app / ".modpkg"), (app / "modpkg.lock").read_bytes()
    message = refused("update", "--test", check(app, "sys.exit(1)"))
    assert "M791" in message
    assert "the current lock" in message
    command = check(
        app,
        "if count == 5: os.kill(os.getppid(), signal.SIGKILL); time.sleep(1)\n"
        "sys.exit(v['m02'] >= (1, 7))",
    )
    (app / ".runs").unlink()
    command = f"exec {command}"  # so that the parent is modpkg and not the shell
    assert modpkg("update", "--test", command, check=False).returncode == -9
    assert (contents(app / ".modpkg"), (app / "modpkg.lock").read_bytes()) == before
    result = updated("--test", command)
    assert versions(app)["m02"] == "1.6"
    assert runs_of(app) == result["runs"] + 1


def test_a_lock_changed_during_the_update_is_not_overwritten(app: Path) -> None:
    command = check(app, "Path('modpkg.lock').write_bytes(Path('other.lock').read_bytes())")
    lock = (app / "modpkg.lock").read_text()
    (app / "other.lock").write_text(lock.replace('kind = "collection"', 'kind = "model"', 1))
    assert "M797" in refused("update", "--test", command)
    assert (app / "modpkg.lock").read_text() != lock


def test_a_tested_update_needs_a_lock(app: Path) -> None:
    (app / "modpkg.lock").unlink()
    assert "modpkg.lock" in refused("update", "--test", "true")
    refused("update", "--timeout", "3", status=2)


def test_modules_that_pin_each_other_move_together(home: Path) -> None:
    """b 5.0 breaks it; a moves with b, and c is independent."""
    steps = [f"{number}.0" for number in range(1, 9)]
    publish_graph(
        home / "registry",
        {
            "a": {v: {"b": f"=={v}"} for v in steps},
            "b": {v: {} for v in steps},
            "c": {v: {"a": "<=" + v} for v in steps},
        },
    )
    folder = installed_old({"a": "*", "c": "*"}, {"a": "<=1.0", "c": "<=1.0"})
    updated("--test", check(folder, "sys.exit(v['b'] >= (5, 0))"))
    assert versions(folder) == {"a": "4.0", "b": "4.0", "c": "8.0"}


# The project's own tests --------------------------------------------------------------------


def test_the_tests_of_the_app(home: Path, tmp_path: Path) -> None:
    """Heads from 3.0 on are others, and the app's own test says which labels are right."""
    registry, projects = home / "registry", tmp_path / "projects"
    publish(write_encoder(projects / "encoder"), registry)
    for number in range(1, 6):
        head = projects / f"mood-{number}"
        publish(write_head(head, version=f"{number}.0", seed=int(number > 2)), registry)
    folder = Path.cwd()
    recipe = (
        '[app]\nname = "mine"\n[dependencies]\nencoder = "*"\nmood = "*"\n'
        '[models.judge]\nbase = "encoder"\nsteps = [{ op = "head", module = "mood" }]\n'
    )
    manifest = folder / "modpkg.toml"
    manifest.write_text(recipe + '[constraints]\nmood = "==1.0"\n')
    modpkg("install")
    (folder / "tests").mkdir()
    cases = labelled(projects / "mood-1", projects / "encoder")
    (folder / "tests" / "moods.jsonl").write_bytes(cases)
    manifest.write_text(recipe + table(more='at_least = 1.0\nmodel = "judge"\n'))
    modpkg("install")
    output = modpkg("update", "--dry-run", "--test").stdout
    assert "mood stays at 2.0: tests fail with 3.0 (newest: 5.0)." in output
    assert versions(folder)["mood"] == "1.0"
    assert updated("--test")["runs"] == 4
    assert versions(folder)["mood"] == "2.0"
