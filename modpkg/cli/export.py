"""``export``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.module_names import installed_names
from modpkg.cli.options import json_option, offline_option, user_option, with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.core.installed import read_model
from modpkg.core.names import module_name
from modpkg.environment.workspace import Workspace
from modpkg.interop.export_card import export_card, ingredients
from modpkg.interop.hf import export_hf
from modpkg.interop.peft import base_names, export_peft, fetch_adapter
from modpkg.interop.plain import export_plain
from modpkg.interop.sentence_transformers import export_sentence_transformers
from modpkg.runtime.installed import find_model

_MODEL_WRITERS = {
    "sentence-transformers": export_sentence_transformers,
    "safetensors": export_plain,
}


class ExportDocument(Struct, frozen=True):
    """A model that was exported."""

    folder: str
    format: str
    files: list[str]
    """Those in the folder."""


@click.command("export")
@click.argument("name", shell_complete=installed_names)
@click.option(
    "--to",
    "form",
    type=click.Choice(["hf", "sentence-transformers", "peft", "safetensors"]),
    default="hf",
    show_default=True,
    help="peft writes the adapter only, safetensors the weights only.",
)
@click.argument("folder", type=click.Path(path_type=Path))
@offline_option
@user_option
@json_option
@with_workspace
def export_command(workspace: Workspace, name: str, form: str, folder: Path, as_json: bool) -> None:
    """Write an installed model into FOLDER, as a directory that other tools load."""
    workspace.progress.stage("Exporting")
    if form == "peft":
        adapter, scale = fetch_adapter(workspace, module_name(name))
        names = base_names(workspace, adapter)
        base = [origin.name for origin in adapter.record.provenance.built_from[:1]]
        made = ingredients(workspace, [*base, adapter.name])
        card = export_card(adapter.name, made, library="peft")
        files = export_peft(adapter, folder, scale=scale, rename=names, card=card)
    else:
        model = find_model(name, workspace)
        if form == "hf":
            files = export_hf(*model, folder, card=_card(workspace, model[0]))
        else:
            files = _MODEL_WRITERS[form](*model, folder)
    if as_json:
        print_json(ExportDocument(str(folder), form, files))
    else:
        tell(f"{good('Wrote')} {name} to {folder}/ ({', '.join(files)}).")


def _card(workspace: Workspace, folder: Path) -> str | None:
    """Return the card of a model; None for a base alone that has its own."""
    model = read_model(folder)
    if len(model.modules) == 1 and (folder / "README.md").exists():
        return None
    base = str(model.recipe["base"])
    made = ingredients(workspace, [base, *(name for name in model.modules if name != base)])
    task = (model.task or {}).get("kind")
    return export_card(model.name, made, library="transformers", task=task)
