"""``export``."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.options import json_option, offline_option, user_option
from modpkg.cli.output import TerminalProgress, good, print_json, say
from modpkg.core.names import module_name


@click.command("export")
@click.argument("name")
@click.option(
    "--to",
    "form",
    type=click.Choice(["hf", "sentence-transformers", "peft", "safetensors"]),
    default="hf",
    show_default=True,
    help="peft: the adapter alone; safetensors: the weights alone.",
)
@click.argument("folder", type=click.Path(path_type=Path))
@offline_option
@user_option
@json_option
def export_command(
    name: str, form: str, folder: Path, offline: bool, user: bool, as_json: bool
) -> None:
    """Write an installed model into FOLDER, as a directory that other tools open by themselves."""
    with TerminalProgress() as progress:
        progress.stage("Exporting")
        if form == "peft":
            files = _export_adapter(name, folder, offline, user, progress)
        else:
            files = _export_model(name, form, folder, user)
    if as_json:
        print_json({"folder": str(folder), "format": form, "files": files})
    else:
        say(f"{good('Wrote')} {name} to {folder}/ ({', '.join(files)}).")


def _export_model(name: str, form: str, folder: Path, user: bool) -> list[str]:
    from modpkg.environment.workspace import Workspace
    from modpkg.interop.hf import export_hf
    from modpkg.interop.plain import export_plain
    from modpkg.interop.sentence_transformers import export_sentence_transformers
    from modpkg.runtime.installed import find_model

    writers = {
        "hf": export_hf,
        "sentence-transformers": export_sentence_transformers,
        "safetensors": export_plain,
    }
    return writers[form](*find_model(name, Workspace(user=user)), folder)


def _export_adapter(
    name: str, folder: Path, offline: bool, user: bool, progress: TerminalProgress
) -> list[str]:
    from modpkg.core.home import store_folder
    from modpkg.environment.project import find_project
    from modpkg.environment.registries import Registries
    from modpkg.interop.peft import export_peft, fetch_adapter
    from modpkg.store.store import Store

    project, store = find_project(user=user), Store(store_folder())
    registries = Registries(project.parse(), store.blobs, offline=offline, warn=progress.warn)
    module, scale = fetch_adapter(project, module_name(name), registries, store, progress)
    return export_peft(module, folder, scale=scale)
