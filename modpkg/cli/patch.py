"""``patch``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from modpkg.cli.documents import ModuleDocument
from modpkg.cli.module_names import files, names_or_files
from modpkg.cli.options import accept_named_option, project_options, with_workspace
from modpkg.cli.output import good, note, print_json, say, strong, table, tell
from modpkg.community.modules.reference import find_view, find_weights
from modpkg.community.patch.base import check_base, fetch_base, is_published
from modpkg.core.files import human_bytes, shown
from modpkg.core.names import module_name, parse_version
from modpkg.environment.workspace import Workspace

if TYPE_CHECKING:
    from modpkg.community.patch.create import Patch
    from modpkg.community.patch.tensor_encodings import Form

_BASE = click.option(
    "--base", required=True, metavar="NAME==VERSION", help="The release that was fine-tuned."
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the new module. [default: its name]"
)
_LICENSE = click.option("--license", "license_", help="SPDX expression. [default: the base's]")


class PatchForm(Struct, frozen=True, kw_only=True):
    """How a tensor is written in a patch."""

    name: str
    form: str
    rank: int | None
    """Of a change that is written as a product of two matrices."""
    elements: int
    changed: int
    places: int
    """Values that are stored individually."""
    bytes: int


class PatchDocument(Struct, frozen=True, kw_only=True):
    """A patch that was created."""

    name: str
    version: str
    folder: str
    base: str
    """Name and version."""
    bytes: int
    """Of the patch's tensors in a release."""
    copy_bytes: int
    """Of the copy's tensors."""
    elements: int
    changed: int
    """Elements that the patch changes."""
    tensors: int
    added: list[str]
    """Tensors that the base does not have."""
    removed: list[str]
    """Tensors that the copy does not have."""
    files: list[str]
    removed_files: list[str]
    forms: list[PatchForm]


@click.group("patch")
def patch_command() -> None:
    """Turn a fine-tuned copy of a model into a small patch, and back."""


@patch_command.command("create")
@click.argument("copy", metavar="DIR", shell_complete=files)
@_BASE
@_OUT
@click.option("--name", help="The patch's name. [default: DIR's, with '-patch']")
@click.option(
    "--version", "version", default="1.0.0", show_default=True, help="The patch's version."
)
@_LICENSE
@click.option(
    "--factors",
    metavar="LORA",
    help="The LoRA (as PEFT saves it) that was merged into DIR, if there is one: its factors are "
    "written, and not searched.",
    shell_complete=files,
)
@accept_named_option
@project_options
@with_workspace
def patch_create_command(
    workspace: Workspace,
    copy: str,
    base: str,
    out: Path | None,
    name: str | None,
    version: str,
    license_: str | None,
    factors: str | None,
    as_json: bool,
) -> None:
    """Create a patch with the difference between DIR and a published release.

    DIR is a folder with *.safetensors (a module project, or as transformers saves it), an
    installed model or a release. Each tensor is written in the smallest form that restores it bit
    for bit.
    """
    from modpkg.community.patch.create import create, write_patch
    from modpkg.community.patch.given_factors import given_factors
    from modpkg.interop.module_project import check_new_project
    from modpkg.manifest.values import parse_license

    given = parse_version(version)
    license_ = None if license_ is None else parse_license(license_)
    check_base(base, workspace)
    view = find_weights(copy, workspace)
    chosen = module_name(name or f"{view.name or Path(copy).resolve().name}-patch")
    folder = out if out is not None else Path(chosen)
    check_new_project(folder)
    found = fetch_base(base, workspace)
    module = found.module
    handed = {} if factors is None else given_factors(module, find_view(factors, workspace))
    with tempfile.TemporaryDirectory(prefix="modpkg-") as spool:
        patch = create(
            module,
            view,
            deltas=is_published(found, workspace),
            progress=workspace.progress,
            spool=Path(spool),
            factors=handed,
        )
        write_patch(
            patch,
            folder,
            name=chosen,
            version=str(given),
            license=license_ or module.record.license,
            origin=view,
            parts=found.parts,
        )
    if as_json:
        print_json(_document(chosen, str(given), folder, patch))
        return
    _show(patch)
    say(
        f"{good('Wrote')} the patch {strong(chosen)} {given} to {shown(folder)}/: "
        f"{human_bytes(patch.bytes)} in a release, {_percent(patch.bytes, patch.length)} of the "
        "copy."
    )


def _show(patch: Patch) -> None:
    record, changed = patch.record, len(patch.forms)
    removed = len(record.removed)
    more = [f"{len(patch.added)} new"] * bool(patch.added) + [f"{removed} removed"] * bool(removed)
    say(f"From {patch.base}:")
    say(f"  tensors  {', '.join([f'{changed} of {patch.tensors} changed', *more])}")
    say(
        f"  values   {patch.changed} of {patch.elements} changed "
        f"({_percent(patch.changed, patch.elements)})"
    )
    for name in patch.added:
        note(f"new: {name}")
    for name in record.removed:
        note(f"removed: {name}")
    if patch.files:
        say(f"  files    {', '.join(patch.files)}")
    if record.removed_files:
        say(f"  removed  {', '.join(record.removed_files)}")
    groups: dict[str, list[Form]] = {}
    for form in patch.forms.values():
        groups.setdefault(form.name, []).append(form)
    if groups:
        say()
        table(
            [
                [
                    form,
                    str(len(group)),
                    str(sum(item.changed for item in group)),
                    str(sum(item.places for item in group)) if form != "whole" else "-",
                    human_bytes(sum(item.bytes for item in group)),
                ]
                for form, group in sorted(groups.items())
            ],
            ["Form", "Tensors", "Changed values", "Stored individually", "Bytes"],
        )
        say()


def _document(name: str, version: str, folder: Path, patch: Patch) -> PatchDocument:
    return PatchDocument(
        name=name,
        version=version,
        folder=str(folder),
        base=patch.base,
        bytes=patch.bytes,
        copy_bytes=patch.length,
        elements=patch.elements,
        changed=patch.changed,
        tensors=patch.tensors,
        added=patch.added,
        removed=list(patch.record.removed),
        files=list(patch.files),
        removed_files=patch.record.removed_files,
        forms=[
            PatchForm(
                name=tensor,
                form=form.name,
                rank=form.rank,
                elements=form.elements,
                changed=form.changed,
                places=form.places,
                bytes=form.bytes,
            )
            for tensor, form in patch.forms.items()
        ],
    )


@patch_command.command("apply")
@click.argument("patch", metavar="PATCH", shell_complete=names_or_files)
@_BASE
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: NAME-VERSION]")
@click.option("--name", help="The result's name. [default: the base's]")
@click.option("--version", help="The result's version. [default: the next after the base's]")
@accept_named_option
@project_options
@with_workspace
def patch_apply_command(
    workspace: Workspace,
    patch: str,
    base: str,
    out: Path | None,
    name: str | None,
    version: str | None,
    as_json: bool,
) -> None:
    """Restore the full module from a base and a patch.

    PATCH is a folder or a release (NAME==VERSION). Weights and files are those of the copy that
    the patch was created from, bit for bit.
    """
    from modpkg.community.patch.apply import apply_patch
    from modpkg.community.patch.candidate import candidate_name, write_candidate

    with workspace.store.lock():
        found = fetch_base(base, workspace)
        module = found.module
        view = find_view(patch, workspace)
        chosen, number = candidate_name(module, name, version)
        folder = out if out is not None else Path(f"{chosen}-{number}")
        copy = apply_patch(module, view, workspace.store, workspace.progress)
        origins = [(module.name, module.version, "patched")]
        if view.name is not None and view.version is not None:
            origins.append((view.name, view.version, "patched"))
        write_candidate(
            module,
            copy.refs(),
            copy.paths(),
            folder,
            name=chosen,
            version=number,
            origins=origins,
            parts=found.parts,
        )
    if as_json:
        print_json(ModuleDocument(chosen, str(number), str(folder)))
    else:
        tell(f"{good('Wrote')} {strong(chosen)} {number} to {shown(folder)}/.")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "0 %"
