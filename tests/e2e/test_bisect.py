"""modpkg bisect from end to end: planted culprits, unresolvable mixes, kills, hangs."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import killed_after, modpkg, refused
from tests.modules import publish_collection
from tests.planted import (
    contents,
    lock_as,
    publish_graph,
    publish_many,
    runs_of,
    write_app,
    write_check,
)

VERSIONS = 20
FORTY = [f"m{number:02d}" for number in range(40)]
EIGHT = FORTY[:8]


def published(folder: Path, names: list[str]) -> Path:
    """Publish modules with 20 versions each, and lock an app at the oldest and at the newest.

    Returns:
        A folder with the registry and the app; nothing writes to them.
    """
    app = folder / "app"
    app.mkdir()
    publish_many(folder / "registry", names, VERSIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODPKG_REGISTRY", str(folder / "registry"))
        patch.setenv("MODPKG_HOME", str(folder / "home"))
        lock_as("old.lock", app, dict.fromkeys(names, "*"), dict.fromkeys(names, "<=1.1"))
        lock_as("new.lock", app, dict.fromkeys(names, "*"))
    return folder


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("many"), FORTY)


@pytest.fixture(scope="session")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("some"), EIGHT)


def entered(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working folder a copy of the app."""
    monkeypatch.setenv("MODPKG_REGISTRY", str(world / "registry"))
    shutil.copytree(world / "app", Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


@pytest.fixture
def forty(many: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered(many, monkeypatch)


@pytest.fixture
def app(some: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered(some, monkeypatch)


def bisected(command: list[str], *options: str) -> Any:
    done = modpkg("bisect", "old.lock", "new.lock", "--json", *options, "--", *command)
    return json.loads(done.stdout)


def boundaries(found: Any) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["good"], one["bad"]) for one in found["blamed"]}


@pytest.mark.parametrize("seed", range(2))
def test_a_bad_module_among_forty_with_twenty_versions(forty: Path, seed: int) -> None:
    rng = random.Random(seed)
    name, first = rng.choice(list(FORTY)), rng.randint(2, VERSIONS)
    command = write_check(forty, f"sys.exit(v[{name!r}] >= (1, {first}))")
    before = contents(forty)
    result = bisected(command)
    assert boundaries(result) == {name: (f"1.{first - 1}", f"1.{first}")}
    assert result["runs"] == runs_of(forty) <= 16
    assert result["keep"] == {
        "name": name,
        "specifier": f"<1.{first}",
        "enough": True,
        "reason": "",
    }
    assert contents(forty) == before


def test_a_pair_that_only_breaks_together(forty: Path) -> None:
    command = write_check(forty, "sys.exit(3 * (v['m07'] >= (1, 9) and v['m31'] >= (1, 13)))")
    result = bisected(command)
    assert boundaries(result) == {"m31": ("1.12", "1.13"), "m07": ("1.8", "1.9")}
    assert result["runs"] == runs_of(forty) <= 30
    assert result["unproved"] == []
    output = modpkg("bisect", "old.lock", "new.lock", "--", *command).stdout
    assert "m31 and m07 break it together, of 40 changed modules." in output
    assert "m31 1.12 is good, 1.13 is bad (updated from 1.1 to 1.20)." in output
    assert '[constraints]\n  m31 = "<1.13"' in output
    assert "by an earlier command" in output  # nothing has changed, so nothing was run again


def test_a_fix_that_is_not_enough_is_reported(app: Path) -> None:
    command = write_check(app, "sys.exit(v['m03'] >= (1, 5) or v['m06'] >= (1, 7))")
    result = bisected(command)
    assert len(result["blamed"]) == 1
    assert result["keep"]["enough"] is False
    output = modpkg("bisect", "old.lock", "new.lock", "--", *command).stdout
    assert "Not enough" in output


def test_some_versions_cannot_be_judged(app: Path) -> None:
    command = write_check(
        app,
        "if (1, 8) <= v['m03'] <= (1, 10) or v['m07'] == (1, 20): sys.exit(125)\n"
        "sys.exit(v['m03'] >= (1, 9))",
    )
    refused("bisect", "old.lock", "new.lock", "--", *command)  # the new end is skipped
    command = write_check(
        app, "if (1, 8) <= v['m03'] <= (1, 10): sys.exit(125)\nsys.exit(v['m03'] >= (1, 9))"
    )
    result = bisected(command)
    (one,) = result["blamed"]
    assert (one["good"], one["bad"]) == ("1.7", "1.11")
    assert one["untested"] == ["1.8", "1.9", "1.10"]
    assert result["keep"]["specifier"] == "<=1.7"
    assert len(result["skipped"]) == 3


def test_a_killed_search_resumes(app: Path) -> None:
    command = write_check(
        app,
        "if count == 6: os.kill(os.getppid(), signal.SIGKILL); time.sleep(1)\n"
        "sys.exit(v['m05'] >= (1, 14))",
    )
    arguments = ["bisect", "old.lock", "new.lock", "--json", "--", *command]
    killed = modpkg(*arguments, check=False)
    assert killed.returncode == -9
    result = json.loads(modpkg(*arguments).stdout)
    assert boundaries(result) == {"m05": ("1.13", "1.14")}
    assert result["earlier"] == 5
    assert runs_of(app) == result["runs"] + 1  # the run that was killed is made again


def test_a_search_killed_at_random_moments_has_the_same_result(app: Path) -> None:
    command = write_check(app, "sys.exit(v['m06'] >= (1, 4) and v['m02'] >= (1, 2))")
    arguments = ["bisect", "old.lock", "new.lock", "--json", "--", *command]
    rng = random.Random(3)
    for _ in range(6):
        killed_after(rng.uniform(0.02, 0.4), *arguments)
    result = bisected(command)
    assert boundaries(result) == {"m06": ("1.3", "1.4"), "m02": ("1.1", "1.2")}


def test_a_hang_is_bad_and_its_child_processes_are_killed(app: Path) -> None:
    command = write_check(
        app,
        "import subprocess\n"
        "if v['m04'] >= (1, 12):\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    Path('.child').write_text(str(child.pid))\n"
        "    time.sleep(60)\n",
    )
    # On a busy machine a good run may take more than the first.
    for seconds in ("0.7", "7", "70"):
        options = ("--json", "--fresh", "--timeout", seconds, "--", *command)
        done = modpkg("bisect", "old.lock", "new.lock", *options, check=False)
        found = boundaries(json.loads(done.stdout)) if done.returncode == 0 else {}
        if found == {"m04": ("1.11", "1.12")}:
            break
    else:
        raise AssertionError(done.stdout + done.stderr)
    child = int((app / ".child").read_text())
    until = time.monotonic() + 120  # a process that is killed may not have ended at once
    while is_running(child):
        assert time.monotonic() < until
        time.sleep(0.01)


def is_running(process: int) -> bool:
    """Return whether a process has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.usefixtures("forked_python")
def test_a_command_that_changes_the_project_of_a_trial(app: Path) -> None:
    """What it installs, deletes and writes there is gone with the next trial."""
    command = write_check(
        app,
        "import shutil, subprocess\n"
        "subprocess.run([sys.executable, '-m', 'modpkg', 'remove', 'm00'], check=True)\n"
        "if count % 3 == 0: shutil.rmtree(project / '.modpkg')\n"
        "if count % 3 == 1: (project / 'modpkg.lock').write_text('rubbish')\n"
        "if count % 3 == 2: (project / 'modpkg.toml').write_text('[rubbish')\n"
        "sys.exit(v['m05'] >= (1, 14))",
    )
    before = contents(app)
    result = bisected(command)
    assert boundaries(result) == {"m05": ("1.13", "1.14")}
    assert contents(app) == before


def test_ends_with_the_wrong_verdict_are_refused(app: Path) -> None:
    message = refused("bisect", "old.lock", "new.lock", "--", *write_check(app, "sys.exit(7)"))
    assert "M791" in message
    assert "exits with status 7" in message
    log = Path(message.rsplit("Its output: ", 1)[1])
    assert log.exists()
    message = refused("bisect", "old.lock", "new.lock", "--", *write_check(app, "sys.exit(0)"))
    assert "M792" in message
    message = refused("bisect", "old.lock", "old.lock", "--", "true")
    assert "M790" in message
    message = refused("bisect", "old.lock", "new.lock", "--", "no-such-command-here")
    assert "status 127" in message
    message = refused("bisect", "old.lock", "none.lock", "--", "true")
    assert "none.lock" in message
    assert "give the path of a lock file that exists" in message
    assert "run 'modpkg lock'" not in message
    message = refused("bisect", "old.lock", "new.lock", "--", *write_check(app, "sys.exit(125)"))
    assert "M793" in message
    code = "if v['m00'] > (1, 1): os.kill(os.getpid(), signal.SIGSEGV)"
    message = refused("bisect", "old.lock", "new.lock", "--", *write_check(app, code))
    assert "M794" in message
    assert "signal 11" in message
    refused("bisect", "old.lock", "new.lock", status=2)


def test_a_flaky_command_is_reported(app: Path) -> None:
    command = write_check(app, "sys.exit(count == 2)")
    message = refused("bisect", "old.lock", "new.lock", "--repeat", "3", "--", *command)
    assert "M796" in message
    assert "1 of 2 runs" in message


def test_an_intermittent_failure_is_found_by_repeating(app: Path) -> None:
    command = write_check(app, "sys.exit(v['m01'] >= (1, 6) and count % 2)")
    result = bisected(command, "--repeat", "2")
    assert boundaries(result) == {"m01": ("1.5", "1.6")}


def test_runs_are_remembered_until_something_changes(app: Path) -> None:
    command = write_check(app, "sys.exit(v['m05'] >= (1, 14))")
    first = bisected(command)
    again = bisected(command)
    assert again | {"earlier": 0} == first
    assert again["earlier"] == again["runs"] == runs_of(app)
    assert bisected(command, "--fresh") == first
    write_check(app, "sys.exit(v['m02'] >= (1, 14))")
    assert boundaries(bisected(command)) == {"m02": ("1.13", "1.14")}


def test_damaged_notes_are_not_believed(app: Path, home: Path) -> None:
    command = write_check(app, "sys.exit(v['m05'] >= (1, 14))")
    first = bisected(command)
    (state,) = (home / "trials").glob("*/state.json")
    state.write_bytes(state.read_bytes().replace(b'"exits":[0]', b'"exits":[1]', 1))
    assert bisected(command) == first


def test_options_after_the_dashes_are_the_command_s(app: Path) -> None:
    command = [*write_check(app, "sys.exit('--debug' not in sys.argv)"), "--debug", "--json"]
    message = refused("bisect", "old.lock", "new.lock", "--", *command)
    assert message.startswith("error[M792]")


# Mixes that cannot be ---------------------------------------------------------------------


def steps(count: int) -> list[str]:
    return [f"{number}.0" for number in range(1, count + 1)]


def test_modules_that_only_move_together_move_together(home: Path) -> None:
    """a and b are released in step; c is free; d's new versions need the newer a."""
    publish_graph(
        home / "registry",
        {
            "a": {v: {"b": f"=={v}"} for v in steps(8)},
            "b": {v: {} for v in steps(8)},
            "c": {v: {} for v in steps(8)},
            "d": {v: {"a": f">={v}"} for v in steps(8)},
        },
    )
    folder, wanted = Path.cwd(), {"a": "*", "c": "*", "d": "*"}
    lock_as("old.lock", folder, wanted, dict.fromkeys("abcd", "<=1.0"))
    lock_as("new.lock", folder, wanted)
    command = write_check(folder, "sys.exit(v['b'] >= (5, 0))")
    result = bisected(command)
    (one,) = result["blamed"]
    assert (one["name"], one["good"], one["bad"]) == ("b", "4.0", "5.0")
    assert one["along"] == [{"name": "a", "before": "1.0", "after": "5.0"}]
    command = write_check(folder, "sys.exit(v['d'] >= (6, 0))")
    (one,) = bisected(command)["blamed"]
    assert (one["name"], one["good"], one["bad"]) == ("d", "5.0", "6.0")
    assert {change["name"] for change in one["along"]} == {"a", "b"}


def test_unresolvable_versions_are_skipped_without_a_run(home: Path) -> None:
    """a 3.0 to 5.0 need a b that neither lock has, and no version between works with another."""
    publish_graph(
        home / "registry",
        {
            "a": {v: {"b": ">=9" if v in ("3.0", "4.0", "5.0") else "<9"} for v in steps(8)},
            "b": {"1.0": {}, "9.0": {}},
        },
    )
    folder, wanted = Path.cwd(), {"a": "*", "b": "*"}
    lock_as("old.lock", folder, wanted, {"a": "==1.0", "b": "==1.0"})
    lock_as("new.lock", folder, wanted, {"a": "==8.0", "b": "==1.0"})
    command = write_check(folder, "sys.exit(v['a'] >= (4, 0))")
    result = bisected(command)
    (one,) = result["blamed"]
    assert (one["good"], one["bad"], one["untested"]) == ("2.0", "6.0", ["3.0", "4.0", "5.0"])
    assert result["runs"] == runs_of(folder)
    assert {skipped["mix"] for skipped in result["skipped"]} <= {"a 3.0", "a 4.0", "a 5.0"}


def test_requirements_that_changed_are_changes_too(home: Path) -> None:
    publish_graph(
        home / "registry",
        {name: {v: {} for v in steps(6)} for name in ("kept", "added", "gone", "moved")},
    )
    folder = Path.cwd()
    lock_as("old.lock", folder, {"kept": "*", "gone": "*", "moved": "~=2.0"}, {"kept": "<=1.0"})
    lock_as("new.lock", folder, {"added": ">=3", "kept": "*", "moved": ">=5"})
    for code, name in (
        ("sys.exit('added' in v)", "added"),
        ("sys.exit('gone' not in v)", "gone"),
        ("sys.exit(v['moved'] >= (4, 0))", "moved"),
    ):
        (one,) = bisected(write_check(folder, code))["blamed"]
        assert one["name"] == name
        output = modpkg("bisect", "old.lock", "new.lock", "--", sys.executable, "check.py").stdout
        assert f"{name} breaks it, of 4 changed modules" in output
    assert (one["good"], one["bad"]) == ("3.0", "4.0")


def test_a_lock_from_another_registry_is_refused(home: Path) -> None:
    publish_graph(home / "registry", {"a": {v: {} for v in steps(3)}})
    folder = Path.cwd()
    lock_as("old.lock", folder, {"a": "*"}, {"a": "==1.0"})
    lock = lock_as("new.lock", folder, {"a": "*"})
    text = lock.read_text()
    digest = text.split('release = "sha256:')[1][:64]
    lock.write_text(text.replace(digest, "0" * 64))
    assert "M795" in refused("bisect", "old.lock", "new.lock", "--", "true")


def test_a_registry_beside_the_manifest_and_a_pyproject(home: Path) -> None:
    """Relative addresses mean the same in the project of the trials."""
    publish_graph(Path.cwd() / "near", {"a": {v: {} for v in steps(4)}})
    folder = Path.cwd() / "app"
    folder.mkdir()
    head = '[project]\nname = "x"\n\n[tool.modpkg.app]\nname = "x"\n'
    rest = '[tool.modpkg.registries]\nacme = "../near"\n[tool.modpkg.dependencies]\n'
    line = 'a = {{ version = "{}", registry = "acme" }}\n'
    manifest = folder / "pyproject.toml"
    for name, version in (("old.lock", "<=1.0"), ("new.lock", "*")):
        manifest.write_text(head + rest + line.format(version))
        modpkg("lock", cwd=folder)
        (folder / "modpkg.lock").rename(folder / name)
    command = write_check(folder, "sys.exit(v['a'] >= (3, 0))")
    output = modpkg("bisect", "old.lock", "new.lock", "--", *command, cwd=folder).stdout
    assert "a 2.0 is good, 3.0 is bad" in output
    assert "[tool.modpkg.constraints]" in output


# Real models ------------------------------------------------------------------------------


@pytest.fixture
def talker(home: Path, tmp_path: Path) -> Path:
    """A model of a base and an adapter with 4 versions, of which the last two are bad."""
    registry, projects = home / "registry", tmp_path / "projects"
    tiny.publish(tiny.write_base(projects / "base"), registry)
    for number in range(1, 5):
        seed = 1 if number < 3 else 2
        folder = tiny.write_adapter(projects / f"l{number}", f"{number}.0", seed=seed)
        tiny.publish(folder, registry)
    tiny.publish(tiny.write_model(projects / "talker", "1.0"), registry)
    write_app(Path.cwd(), {"talker": "*"})
    return Path.cwd()


CHECK_WEIGHTS = """
import json, sys, modpkg
weight = modpkg.load("talker").state_dict()["model.layers.0.self_attn.q_proj.weight"]
output = round(float(weight.abs().sum()), 4)
sys.exit(output != {expected})
"""


@pytest.mark.usefixtures("forked_python")
def test_a_model_that_the_command_loads(talker: Path) -> None:
    """modpkg.load in the command sees the trial, and the project's environment stays."""
    write_app(talker, {"talker": "*"}, {"tiny-lora": "<=1.0"})
    modpkg("install")
    measured = subprocess.run(
        [sys.executable, "-c", CHECK_WEIGHTS.format(expected="print(output)")],
        capture_output=True,
        text=True,
        check=False,
    )
    write_app(talker, {"talker": "*"})
    modpkg("install", "--upgrade")
    before = contents(talker / ".modpkg" / "generations")
    (talker / "check.py").write_text(CHECK_WEIGHTS.format(expected=float(measured.stdout)))
    result = json.loads(
        modpkg("bisect", "@1", "@2", "--json", "--", sys.executable, "check.py").stdout
    )
    assert boundaries(result) == {"tiny-lora": ("2.0", "3.0")}
    assert result["keep"]["enough"] is True
    assert contents(talker / ".modpkg" / "generations") == before
    assert not list((Path(os.environ["MODPKG_HOME"]) / "trials").glob("*/project"))


def test_modpkg_run_in_the_command_sees_the_trial(home: Path) -> None:
    publish_collection(home / "registry", "a", "1.0")
    publish_collection(home / "registry", "a", "2.0")
    folder = Path.cwd()
    lock_as("old.lock", folder, {"a": "*"}, {"a": "<2"})
    lock_as("new.lock", folder, {"a": "*"})
    code = (
        "import subprocess, json\n"
        "output = subprocess.run([sys.executable, '-m', 'modpkg', 'list', '--json'],"
        " capture_output=True, check=True).stdout\n"
        "sys.exit(json.loads(output)['modules'][0]['version'] == '2.0')"
    )
    assert boundaries(bisected(write_check(folder, code))) == {"a": ("1.0", "2.0")}
