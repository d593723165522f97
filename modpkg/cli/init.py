"""``init``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.options import json_option, name_of
from modpkg.cli.output import good, print_json, tell
from modpkg.core.errors import UsageError
from modpkg.core.filenames import MANIFEST, PYPROJECT
from modpkg.core.files import write_atomically
from modpkg.core.records import KINDS
from modpkg.manifest.editor_schema import refresh_schema
from modpkg.manifest.find import find_manifest
from modpkg.manifest.starter import new_manifest


class InitDocument(Struct, frozen=True):
    """A manifest that was written."""

    name: str
    kind: str
    """A kind of module, or ``app``."""
    manifest: str
    """Its path."""


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--kind", type=click.Choice(KINDS), help="Kind of module. [default: an app]")
@click.option("--name", help="Name. [default: the folder's]")
@json_option
def init_command(folder: Path, kind: str | None, name: str | None, as_json: bool) -> None:
    """Create a modpkg.toml for an app or (with --kind) a module, with comments to fill in."""
    if folder.is_file():
        raise UsageError("M901", message=f"{folder} is a file; name the folder of the project.")
    path = folder / MANIFEST
    if path.exists():
        raise UsageError("M901", message=f"{path} exists; 'modpkg init' does not replace it.")
    if find_manifest(folder) == (other := folder.absolute() / PYPROJECT):
        raise UsageError(
            "M901",
            message=f"{other} has [tool.modpkg], the manifest of this folder; a {MANIFEST} beside "
            "it would take its place. Edit that, or remove it first.",
        )
    chosen = name_of(name, folder.resolve().name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, new_manifest(kind or "app", chosen).encode())
    refresh_schema(folder)
    if as_json:
        print_json(InitDocument(chosen, kind or "app", str(path)))
        return
    tell(f"{good('Wrote')} {path}, {'a ' + kind if kind else 'an app'} named {chosen}.")
