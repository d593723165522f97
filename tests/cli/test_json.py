"""``--json``: every command prints a document of the shape that is documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import jsonschema
import pytest

from modpkg.cli import COMMANDS, cli
from modpkg.cli.documents import FAILURE, SHAPES, command_schema, shape_schema
from tests import tiny
from tests.cli.test_everywhere import run
from tests.command import check_shape
from tests.modules import publish_collection, write_module


def commands_with_json() -> set[str]:
    found, pending = set(), [(name, cli.get_command(click.Context(cli), name)) for name in COMMANDS]
    while pending:
        name, command = pending.pop()
        assert command is not None
        if isinstance(command, click.Group):
            pending += [(f"{name} {each}", own) for each, own in command.commands.items()]
        elif any("--json" in option.opts for option in command.params):
            found.add(name)
    return found


def test_every_command_with_json_has_a_shape() -> None:
    assert commands_with_json() == set(SHAPES)


@pytest.mark.parametrize("command", SHAPES)
def test_the_shapes_are_schemas(command: str) -> None:
    schema = command_schema(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    for shape in schema.get("anyOf", [schema]):
        assert shape["required"][0] == "schema"
        assert shape["description"]


LINES = """
init ../new
install --dry-run
lock
lock --check
install
install
list
show tiny-lora
show lib
show mine
tree
tree mine
why tiny
why mine
why-not lib==2.0
why-not lib==1.0
outdated
licenses
registry list
log tiny
info tiny-lora
search tiny
compose
diff tiny tiny-lora
rollback --list
changelog lib==1.0 lib==2.0
changelog modpkg.lock modpkg.lock
add lib>=1
rollback
vendor ../vendored
fork tiny mine --out ../mine
version -C ../own
build
publish --dry-run
publish
check
yank own==1.0
store info
store gc --dry-run
store verify
store clear
"""


@pytest.fixture
def app(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.publish_talker(home / "registry", tmp_path / "projects")
    publish_collection(home / "registry", "lib", "1.0")
    publish_collection(home / "registry", "lib", "2.0")
    folder = tmp_path / "app"
    folder.mkdir()
    write_module(tmp_path / "own", "own", "1.0")
    (folder / "modpkg.toml").write_text(
        '[app]\nname = "app"\n[dependencies]\ntiny = "*"\ntiny-lora = "*"\nlib = "<2"\n'
        '[models.mine]\nbase = "tiny"\n'
    )
    monkeypatch.chdir(folder)
    return folder


def test_what_is_printed_is_of_its_shape(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for line in LINES.splitlines():
        if arguments := line.split():
            status, out, err = run(capfd, *arguments, "--json")
            assert status == 0, (line, err, out)
            check_shape(json.loads(out), *arguments)


def test_a_failure_has_a_shape_too(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capfd, "list", "--json")
    assert status == 1
    document = json.loads(out)
    jsonschema.validate(document, shape_schema(FAILURE, "failure"))
    assert document["error"]["code"] == "M503"


def test_schemas_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capfd, "schema", "store", "info")[1]) == command_schema("store info")
    status, _, err = run(capfd, "schema", "store")
    assert status == 2
    assert "'store' is neither" in err
    assert run(capfd, "schema")[0] == 2


def test_the_shape_of_run_needs_no_torch() -> None:
    code = (
        "import sys\nfrom modpkg.cli import main\n"
        "try: main(['schema', 'run'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
