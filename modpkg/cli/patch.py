"""``patch`` and ``merge``: fine-tuned copies as small modules, and several made one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modpkg.cli.options import project_options
from modpkg.cli.output import TerminalProgress, good, note, print_json, say, strong, table
from modpkg.core.errors import ModpkgError, PatchError, UsageError
from modpkg.core.files import human_bytes, shown
from modpkg.core.home import store_folder
from modpkg.core.names import ModuleName, module_name, parse_version
from modpkg.store.store import Store

if TYPE_CHECKING:
    from modpkg.community.patch.create import Patch
    from modpkg.core.installed import InstalledModule

_BASE = click.option(
    "--base", required=True, metavar="NAME==VERSION", help="The release that it begins from."
)
_OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the new module. [default: its name]"
)
_LICENSE = click.option("--license", "license_", help="SPDX expression. [default: the base's]")


@click.group("patch")
def patch_command() -> None:
    """Publish what a fine-tuned copy of a model changed, and nothing else."""


@patch_command.command("create")
@click.argument("copy", metavar="DIR")
@_BASE
@_OUT
@click.option("--name", help="The patch's name. [default: DIR's, with '-patch']")
@click.option(
    "--version", "version", default="1.0.0", show_default=True, help="The patch's version."
)
@_LICENSE
@project_options
def patch_create_command(
    copy: str,
    base: str,
    out: Path | None,
    name: str | None,
    version: str,
    license_: str | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Make a patch of how DIR differs from a published release.

    DIR is a folder with *.safetensors (a module project, or as transformers saves it), an
    installed model or a release. Each tensor is written in the form that takes least of those that
    give it back bit for bit.
    """
    from modpkg.community.modules.reference import find_view
    from modpkg.community.patch.create import create, write_patch

    store = Store(store_folder())
    given = parse_version(version)
    with TerminalProgress() as progress:
        module = base_release(base, store, progress, registry, offline)
        side = find_view(copy, store, progress, user=user, registry=registry, offline=offline)
        chosen = module_name(name or f"{side.name or Path(copy).resolve().name}-patch")
        folder = out if out is not None else Path(chosen)
        progress.stage("Comparing")
        progress.total(sum(ref.length for ref in side.refs().values()))
        patch = create(
            module, side, deltas=_published_here(module, registry), progress=progress.advance
        )
        write_patch(
            patch,
            folder,
            name=chosen,
            version=str(given),
            license=license_ or module.record.license,
            origin=side,
        )
    if as_json:
        print_json(_document(chosen, str(given), folder, patch))
        return
    _told(patch)
    say(
        f"{good('Wrote')} the patch {strong(chosen)} {given} to {shown(folder)}/: "
        f"{human_bytes(patch.bytes)} in a release, {_percent(patch.bytes, patch.length)} of the "
        "copy."
    )


def _told(patch: Patch) -> None:
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
    groups: dict[str, list[Any]] = {}
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
            ["Form", "Tensors", "Changed values", "Told singly", "Bytes"],
        )
        say()


def _document(name: str, version: str, folder: Path, patch: Patch) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "folder": str(folder),
        "base": patch.base,
        "bytes": patch.bytes,
        "copy_bytes": patch.length,
        "elements": patch.elements,
        "changed": patch.changed,
        "tensors": patch.tensors,
        "added": patch.added,
        "removed": list(patch.record.removed),
        "files": list(patch.files),
        "removed_files": patch.record.removed_files,
        "forms": [
            {
                "name": tensor,
                "form": form.name,
                "rank": form.rank,
                "elements": form.elements,
                "changed": form.changed,
                "places": form.places,
                "bytes": form.bytes,
            }
            for tensor, form in patch.forms.items()
        ],
    }


@patch_command.command("apply")
@click.argument("patch", metavar="PATCH")
@_BASE
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: NAME-VERSION]")
@click.option("--name", help="The result's name. [default: the base's]")
@click.option("--version", help="The result's version. [default: the one after the base's]")
@project_options
def patch_apply_command(
    patch: str,
    base: str,
    out: Path | None,
    name: str | None,
    version: str | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Turn a base and a patch back into a full module.

    PATCH is a folder or a release (NAME==VERSION). Weights and files are those of the copy that
    the patch was made of, bit for bit.
    """
    from modpkg.community.modules.reference import find_view
    from modpkg.community.patch.apply import apply
    from modpkg.community.patch.candidate import write_candidate

    store = Store(store_folder())
    with TerminalProgress() as progress, store.lock():
        module = base_release(base, store, progress, registry, offline)
        side = find_view(patch, store, progress, user=user, registry=registry, offline=offline)
        chosen, number = target_of(module, name, version)
        folder = out if out is not None else Path(f"{chosen}-{number}")
        found = apply(module, side, store, progress)
        origins = [(module.name, module.version, "patched")]
        if side.name is not None and side.version is not None:
            origins.append((side.name, side.version, "patched"))
        write_candidate(
            module,
            found.refs(),
            found.paths(),
            folder,
            name=chosen,
            version=number,
            origins=origins,
        )
    if as_json:
        print_json({"name": chosen, "version": number, "folder": str(folder)})
    else:
        say(f"{good('Wrote')} {strong(chosen)} {number} to {shown(folder)}/.")


def target_of(base: InstalledModule, name: str | None, version: str | None) -> tuple[str, str]:
    from modpkg.community.patch.candidate import next_version

    chosen = module_name(name or base.name)
    return chosen, str(parse_version(version or next_version(base.version)))


def base_release(
    text: str, store: Store, progress: TerminalProgress, registry: str | None, offline: bool
) -> InstalledModule:
    """Return the release that a person named as the base."""
    from modpkg.environment.project import find_project
    from modpkg.environment.registries import Registries
    from modpkg.environment.releases import fetch_release

    name, separator, version = text.partition("==")
    if not separator:
        raise UsageError("M901", message=f"Name the base's version too: --base {name}==1.0.0")
    registries = Registries(
        find_project().parse(), store.blobs, default=registry, offline=offline, warn=progress.warn
    )
    module = fetch_release(
        module_name(name), str(parse_version(version)), registries, store, progress
    )
    if not module.tensors:
        raise PatchError(
            "M735",
            what=f"What {text} is compared with",
            base=text,
            reason=f"{text} is of kind {module.kind!r} and has no weights of its own; name the "
            "base that it is composed of",
        )
    return module


def _published_here(base: InstalledModule, registry: str | None) -> bool:
    """Say whether the registry that the patch would be published to has the base, so that whole
    tensors are written there as changes of the base's."""
    from modpkg.environment.project import find_project
    from modpkg.registry.location import writable_folder
    from modpkg.registry.reader import Registry

    try:
        folder = writable_folder(find_project().parse(), registry)
        line = Registry(str(folder)).line(ModuleName(base.name), base.version)
    except ModpkgError:
        return False
    return line.release == base.release


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "0 %"
