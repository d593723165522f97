"""``schema``: the JSON Schemas with which an editor checks and completes modpkg's files."""

from __future__ import annotations

import click

from modpkg.cli.output import print_json
from modpkg.manifest.json_schema import config_schema, manifest_schema


@click.command("schema")
@click.argument("file", type=click.Choice(["manifest", "config"]))
def schema_command(file: str) -> None:
    """Print the JSON Schema of modpkg.toml ("manifest") or config.toml ("config").

    An editor with a TOML language server (taplo, "Even Better TOML") uses it if the file begins
    with a line that names it:

    \b
      modpkg schema manifest > modpkg.schema.json
      #:schema ./modpkg.schema.json
    """
    print_json(manifest_schema() if file == "manifest" else config_schema())
