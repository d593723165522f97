"""``build``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import msgspec
from msgspec import UNSET

from modpkg.cli.options import json_option, offline_option, registry_option, with_workspace
from modpkg.cli.output import good, print_json, say, strong
from modpkg.core.errors import ManifestError, PublishError
from modpkg.core.filenames import REPORT
from modpkg.core.files import human_bytes, shown
from modpkg.core.records import ReleaseRecord
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace
from modpkg.manifest.find import find_manifest
from modpkg.manifest.read import read_manifest
from modpkg.manifest.schema import Manifest, ModuleTable
from modpkg.registry.base import find_base
from modpkg.registry.known import KnownTensors, known_tensors
from modpkg.registry.location import writable_folder
from modpkg.registry.origins import find_origins
from modpkg.release.build import acts_on_base, build

DIST = "dist"


def module_project(folder: Path) -> tuple[Manifest, ModuleTable]:
    """Return the manifest of the module project around a folder.

    Raises:
        ManifestError. ManifestError: it is an app's.
    """
    path = find_manifest(folder.absolute())
    if path is None:
        raise ManifestError("M111", folder=folder)
    manifest = read_manifest(path)
    if manifest.module is None:
        raise ManifestError(
            "M112",
            path=path,
            found="an app",
            needed="a module",
            remedy="name the folder of a module ('modpkg init --kind adapter' begins one).",
        )
    return manifest, manifest.module


@click.command("build")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option("--against", metavar="VERSION", help="Version of the base it was made for.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to. [default: dist/]")
@click.option("--no-deltas", is_flag=True, help="Write changed tensors whole.")
@registry_option
@offline_option
@json_option
@with_workspace
def build_command(
    workspace: Workspace,
    folder: Path,
    against: str | None,
    out: Path | None,
    no_deltas: bool,
    as_json: bool,
) -> None:
    """Build the release of the module in FOLDER: digests, tensor table and interface included.

    An adapter, head or patch is bound to the newest release of its base that its requirement
    allows (or the one that --against names), so the registry of the base is read. Tensors that
    the registry to publish to has already are referred to, and those that changed since the
    release before are written as changes.
    """
    manifest, module = module_project(folder)
    base = None
    registries = workspace.registries_for(manifest)
    origins = find_origins(manifest, registries.of)
    if acts_on_base(manifest):
        by_name = {str(item.name): registries.of(item.name) for item in manifest.dependencies}
        base = find_base(manifest, by_name, against)
    workspace.progress.stage(f"Building {module.name}")
    target = out if out is not None else manifest.folder / DIST
    built = build(
        manifest,
        module,
        target,
        base=base,
        origins=origins,
        known=_known(manifest, module, workspace.options.registry),
        deltas=not no_deltas,
        progress=workspace.progress.advance,
        accept=partial(_accept, workspace, manifest),
    )
    line, tally = built.line, built.tally
    if as_json:
        print_json({**msgspec.to_builtins(line), "weights": tally})
        return
    say(f"{good('Built')} {strong(line.name)} {line.version} ({line.kind}) in {shown(target)}/")
    say(f"  release  {line.release}")
    if tally.tensors:
        known = [f"{tally.unchanged} unchanged"] if tally.unchanged else []
        known += [f"{tally.changes} as changes"] if tally.changes else []
        total = human_bytes(tally.bytes)
        known += [f"{human_bytes(tally.new_bytes)} new of {total}" if known else total]
        say(f"  weights  {', '.join([f'{tally.tensors} tensors', *known])}")
    size = sum(entry.size for entry in built.record.files.values())
    say(f"  files    {len(built.record.files)}, {human_bytes(size)}")
    for origin in built.record.provenance.built_from:
        how = "against " if origin.relation is UNSET else f"{origin.relation} from"
        say(f"  {how} {origin.name} {origin.version}")


def _accept(workspace: Workspace, manifest: Manifest, tree: Path, record: ReleaseRecord) -> None:
    """Refuse a release whose report.json is about another release or other tests."""
    if REPORT in record.files:
        from modpkg.community.evaluate.builds import view_of_tree
        from modpkg.community.evaluate.run import check_report

        own = workspace.for_project(Project(manifest.path))
        check_report(own, view_of_tree(own, tree))


def _known(manifest: Manifest, module: ModuleTable, registry: str | None) -> KnownTensors | None:
    """Return what the registry has that the release will be published to, if that is a folder."""
    try:
        folder = writable_folder(manifest, registry)
    except PublishError:
        return None
    return known_tensors(folder, module.name, module.version)
