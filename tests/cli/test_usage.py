"""A command that is used wrongly exits with status 2, and does nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from modpkg.cli import cli, main
from tests.modules import publish_collection, write_module

FREE = ("system", "text", "command")
"""Parameters whose value may be empty."""


def leaves(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    """Yield each command that is no group, and the words that name it."""
    if not isinstance(command, click.Group):
        yield command, path
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        yield from leaves(below, (*path, name))


def wrong(command: click.Command) -> Iterator[list[str]]:
    """Yield arguments that a command cannot take."""
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    needed = [str(Path.cwd())] * sum(each.required for each in arguments)
    yield ["--nonsense"]
    if needed:
        yield []
        yield [""] * len(needed)
    if not any(each.nargs == -1 for each in arguments):
        yield [*needed, *["x"] * (len(arguments) + 1)]
    for each in command.params:
        if not isinstance(each, click.Option) or each.is_flag or each.count:
            continue
        if each.name not in FREE and "" not in (each.default, each.flag_value):
            yield [*needed, each.opts[-1], ""]
        if not each._flag_needs_value:
            yield [*needed, each.opts[-1]]
        if isinstance(each.type, click.Choice | click.IntRange | click.FloatRange):
            yield [*needed, each.opts[-1], "!!"]


def test_wrong_usage_of_every_command_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    before, others = [*Path().rglob("*")], []
    for command, path in leaves():
        for arguments in wrong(command):
            with pytest.raises(SystemExit) as left:
                main([*path, *arguments])
            if left.value.code != 2:
                others.append((path, arguments, left.value.code, capsys.readouterr()))
    assert others == []
    assert [*Path().rglob("*")] == before


@pytest.mark.parametrize(
    "words",
    [
        ["compose", "--executor", "here"],
        ["compose", "--device", "tpu"],
        ["lock", "--accept-changed", "!!"],
        ["install", "--upgrade-package", "a b"],
        ["lock", "--exclude-newer", "yesterday"],
        ["vet", ".", "--dependants", "few"],
        ["export", "x", "out", "--to", "onnx"],
        ["store", "gc", "--older-than", "long"],
        ["version", "one"],
        ["-C", "/nowhere", "list"],
        ["list", "--color", "blue"],
    ],
)
def test_bad_values_exit_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("modpkg.toml").write_text(
        '[module]\nname = "m"\nversion = "1"\nkind = "base"\nlicense = "MIT"\n'
    )
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2, capsys.readouterr()


PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
AS_ERRORS = {"lock --check", "outdated"}
"""Commands of the page that have no status of their own."""


def test_the_page_lists_the_commands_that_answer_by_their_status() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \|.*\|.*\|$", section(), re.MULTILINE))
    returning = {
        " ".join(path)
        for command, path in leaves()
        if command.callback and inspect.signature(command.callback).return_annotation == "int"
    }
    assert {text.removesuffix(" --check") for text in listed - AS_ERRORS} == returning
    assert listed >= AS_ERRORS


def section() -> str:
    """Return what the documentation says of exit statuses."""
    return PAGE.read_text().partition("## Exit statuses")[2].partition("\n## ")[0]


def test_statuses_are_those_of_the_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def status(*arguments: str) -> int:
        with pytest.raises(SystemExit) as left:
            main([*arguments])
        return int(str(left.value.code))

    registry = home / "registry"
    publish_collection(registry, "lib", "1.0")
    publish_collection(registry, "lib", "1.5")
    app = Path("modpkg.toml")
    app.write_text('[app]\nname = "app"\n[dependencies]\nlib = "<1.5"\n')
    assert status("lock", "--check") == 1
    assert status("lock") == 0
    assert status("lock", "--check") == 0
    assert status("outdated") == 0
    assert "1.5" in capsys.readouterr().out
    assert status("licenses") == 0
    app.write_text(app.read_text() + '[licenses]\nallow = ["Apache-2.0"]\n')
    assert status("licenses") == 1
    app.write_text(app.read_text().replace("<1.5", "*"))
    assert status("lock", "--check") == 1
    assert status("test") == 1
    assert status("store", "verify") == 0
    more = '[[tests]]\nname = "t"\ncases = "c.txt"\nmetric = "exact_match"\nat_least = 0.5\n'
    folder = write_module(Path("s").absolute(), "s", kind="suite", more=more, files={"c.txt": b""})
    assert status("-C", str(folder), "test") == 1
    assert status("check", str(folder)) == 0
    for number in re.findall(r"^\| (\d+) \|", section(), re.MULTILINE):
        assert number in ["0", "1", "2", "3", "130", "143"]
