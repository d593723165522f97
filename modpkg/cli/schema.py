"""``schema``: JSON Schemas of modpkg's files, for editors, and of what ``--json`` prints."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from modpkg.cli.documents import SHAPES, command_schema
from modpkg.cli.output import print_object
from modpkg.manifest.json_schema import config_schema, manifest_schema

_FILES = {"manifest": manifest_schema, "config": config_schema}


def _names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    before = context.params.get("names") or ()
    known = [tuple(name.split()) for name in [*_FILES, *SHAPES]]
    after = {name[len(before)] for name in known if name[: len(before)] == (*before,) != name}
    return [CompletionItem(name) for name in sorted(after) if name.startswith(incomplete)]


@click.command("schema")
@click.argument(
    "names", metavar="manifest|config|COMMAND", nargs=-1, required=True, shell_complete=_names
)
@click.pass_context
def schema_command(context: click.Context, names: tuple[str, ...]) -> None:
    """Print the JSON Schema of modpkg.toml, of config.toml, or of a command's --json.

    \b
      modpkg schema manifest
      modpkg schema store info

    An editor with a TOML language server (taplo, "Even Better TOML") uses it if the file begins
    with a line that names it, as what 'modpkg init' writes does.
    """
    name = " ".join(names)
    if name in _FILES:
        print_object(_FILES[name]())
    elif name in SHAPES:
        print_object(command_schema(name))
    else:
        context.fail(f"{name!r} is neither 'manifest', 'config', nor a command with --json.")
