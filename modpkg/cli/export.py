"""``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import UNSET, Struct, UnsetType

from modpkg.cli.key import open_signer
from modpkg.cli.module_names import installed_names
from modpkg.cli.options import json_option, offline_option, user_option, with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.core.digests import parse_digest
from modpkg.core.errors import RegistryUnreachable, UsageError
from modpkg.core.filenames import CONFIG
from modpkg.core.files import human_bytes
from modpkg.core.installed import read_model
from modpkg.core.jsonfile import read_json
from modpkg.core.names import listed, module_name
from modpkg.core.oci_address import OciAddress, is_oci_address, parse_oci_address
from modpkg.core.packs import PackTensor
from modpkg.environment.workspace import Workspace
from modpkg.interop.export_card import Ingredient, export_card, ingredients
from modpkg.interop.hf import export_hf
from modpkg.interop.mergekit_export import RecipeModel, export_mergekit
from modpkg.interop.oci import export_oci
from modpkg.interop.peft import base_names, export_peft, fetch_adapter
from modpkg.interop.plain import export_plain
from modpkg.interop.sentence_transformers import export_sentence_transformers
from modpkg.manifest.schema import Compose
from modpkg.runtime.installed import find_model
from modpkg.trust.model_signature import check_form, sign_folder

_MODEL_WRITERS = {
    "sentence-transformers": export_sentence_transformers,
    "safetensors": export_plain,
}


class ExportDocument(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A model that was exported."""

    folder: str | UnsetType = UNSET
    """Left out where it was pushed to an OCI registry."""
    address: str | UnsetType = UNSET
    """What was pushed to an OCI registry, by its digest; left out for folders."""
    format: str
    files: list[str]
    """Those in the folder."""
    uploaded: int | UnsetType = UNSET
    """Bytes that an OCI registry did not have; left out for folders."""


class _Destination(click.Path):
    """A folder, or what an address of an OCI registry names."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_oci_address(value):
            return parse_oci_address(value)
        return super().convert(value, param, ctx)


@click.command("export")
@click.argument("name", shell_complete=installed_names)
@click.option(
    "--to",
    "form",
    type=click.Choice(["hf", "sentence-transformers", "peft", "safetensors", "oci"]),
    help="peft writes the adapter only, safetensors the weights only; oci pushes what hf writes. "
    "[default: oci for an address, else hf]",
)
@click.option(
    "--recipe",
    type=click.Choice(["mergekit"]),
    help="Write what it is merged of, and not its weights: into a file, as YAML of mergekit.",
)
@click.option(
    "--sign",
    metavar="KEY",
    help="Sign the folder's files, for 'model_signing verify': a key of ECDSA ('modpkg key').",
)
@click.argument("folder", type=_Destination())
@offline_option
@user_option
@json_option
@with_workspace
def export_command(
    workspace: Workspace,
    name: str,
    form: str | None,
    recipe: str | None,
    sign: str | None,
    folder: Path | OciAddress,
    as_json: bool,
) -> None:
    """Write an installed model into FOLDER, as a directory that other tools load.

    In place of FOLDER stands oci://HOST/REPOSITORY:TAG to push it to an OCI registry, as an
    artifact of the CNCF's model-spec (ModelPack), with the lock of what it was composed of.

    With --recipe, FOLDER is a file. The model is an installed one, one of the project's manifest,
    or the project's own module; nothing has to be installed for the last two.
    """
    signer = None if sign is None else open_signer(sign)
    if sign is not None and (recipe is not None or form == "oci" or isinstance(folder, OciAddress)):
        raise UsageError("M901", message="--sign is for a folder; leave it out.")
    if signer is not None:
        check_form(signer)
    if recipe is not None:
        _write_recipe(workspace, name, recipe, form, folder, as_json=as_json)
        return
    if isinstance(folder, OciAddress) or form == "oci":
        document = _pushed(workspace, name, form, folder)
    else:
        files = _written(workspace, name, form or "hf", folder)
        if signer is not None:
            files = [*files, sign_folder(folder, signer).name]
        document = ExportDocument(folder=str(folder), format=form or "hf", files=files)
    if as_json:
        print_json(document)
        return
    where = f"{folder}/" if document.address is UNSET else document.address
    tell(f"{good('Wrote')} {name} to {where} ({', '.join(document.files)}).")
    if document.uploaded is not UNSET:
        sent = human_bytes(document.uploaded) if document.uploaded else "Nothing"
        tell(f"{sent} had to be sent; the registry had the rest.")


def _write_recipe(
    workspace: Workspace,
    name: str,
    recipe: str,
    form: str | None,
    file: Path | OciAddress,
    *,
    as_json: bool,
) -> None:
    if form is not None or isinstance(file, OciAddress):
        raise UsageError("M901", message="--recipe writes a file; leave --to and oci:// out.")
    composed, models = _recipe_of(workspace, name)
    modules = export_mergekit(name, composed, file, models)
    if as_json:
        print_json(ExportDocument(folder=str(file.parent), format=recipe, files=[file.name]))
        return
    tell(f"{good('Wrote')} the recipe of {name} to {file}.")
    first = modules[0]
    folders = listed([f"./{module}" for module in modules], len(modules))
    tell(f"Its models are the folders {folders} beside it; run mergekit from there.")
    tell(f"Each can be made so: modpkg add {first} && modpkg export {first} {first}")


def _recipe_of(workspace: Workspace, name: str) -> tuple[Compose, dict[str, RecipeModel]]:
    """Return the recipe of a model, and its modules as far as the store knows them."""
    manifest, chosen = workspace.manifest, module_name(name)
    own = {} if manifest.module is None else {manifest.module.name: manifest.compose}
    found = own.get(chosen) or manifest.models.get(chosen)
    if found is None:
        folder, _ = find_model(name, workspace)
        found = msgspec.convert(read_model(folder).recipe, Compose)
    models = {}
    for module in workspace.lock.module if workspace.lock is not None else ():
        what = f"the release record of {module.name}"
        if (record := workspace.store.record(module.release, what)) is not None:
            config = record.files.get(CONFIG)
            blobs = workspace.store.blobs
            known = config is not None and blobs.path(parse_digest(config.digest)).exists()
            models[module.name] = RecipeModel(
                config=read_json(blobs.path(parse_digest(config.digest)))
                if config is not None and known
                else {},
                tensors={
                    name: PackTensor(entry.dtype, tuple(entry.shape), entry.offset, entry.length)
                    for name, entry in record.tensors.items()
                },
            )
    return found, models


def _pushed(
    workspace: Workspace, name: str, form: str | None, address: Path | OciAddress
) -> ExportDocument:
    if not isinstance(address, OciAddress) or form not in (None, "oci"):
        message = f"--to {form} writes a folder, and {address} is none."
        if form == "oci":
            message = f"--to oci pushes to an address like oci://HOST/REPOSITORY:TAG, not {address}"
        raise UsageError("M901", message=message)
    if workspace.options.offline:
        reason, remedy = "--offline forbids it", "leave it out"
        raise RegistryUnreachable("M892", host=address.host, reason=reason, remedy=remedy)
    workspace.progress.stage("Exporting")
    folder, _ = find_model(name, workspace)
    made_of = _made_of(workspace, folder)
    card = _card(workspace, folder)
    pushed = export_oci(workspace, name, address, card=card, made_of=made_of)
    return ExportDocument(
        address=str(pushed.address), format="oci", files=pushed.files, uploaded=pushed.uploaded
    )


def _written(workspace: Workspace, name: str, form: str, folder: Path) -> list[str]:
    """Write a model into a folder, and return the names of its files."""
    workspace.progress.stage("Exporting")
    if form == "peft":
        adapter, scale = fetch_adapter(workspace, module_name(name))
        names = base_names(workspace, adapter)
        base = [origin.name for origin in adapter.record.provenance.built_from[:1]]
        made = ingredients(workspace, [*base, adapter.name])
        card = export_card(adapter.name, made, library="peft")
        return export_peft(adapter, folder, scale=scale, rename=names, card=card)
    model = find_model(name, workspace)
    if form == "hf":
        return export_hf(*model, folder, card=_card(workspace, model[0]))
    return _MODEL_WRITERS[form](*model, folder)


def _made_of(workspace: Workspace, folder: Path) -> list[Ingredient]:
    """Return the modules that a model was made of, the base first."""
    model = read_model(folder)
    base = str(model.recipe["base"])
    return ingredients(workspace, [base, *(name for name in model.modules if name != base)])


def _card(workspace: Workspace, folder: Path) -> str | None:
    """Return the card of a model; None for a base alone that has its own."""
    model = read_model(folder)
    if len(model.modules) == 1 and (folder / "README.md").exists():
        return None
    made = _made_of(workspace, folder)
    task = (model.task or {}).get("kind")
    return export_card(model.name, made, library="transformers", task=task)
