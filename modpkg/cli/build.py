"""``build``."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import UNSET
from msgspec.structs import asdict

from modpkg.cli.options import (
    accept_named_option,
    json_option,
    offline_option,
    registry_option,
    with_workspace,
)
from modpkg.cli.output import good, note, print_json, strong, tell, warn
from modpkg.community.modules.project import (
    build_project,
    module_project,
    published_tensors,
)
from modpkg.core.filenames import CONFIG, DIST, REPORT
from modpkg.core.files import human_bytes, shown
from modpkg.core.names import listed
from modpkg.core.records import IndexLine, ReleaseRecord
from modpkg.core.untied import TIES
from modpkg.environment.workspace import Workspace
from modpkg.manifest.editor_schema import refresh_schema
from modpkg.release.build import Built
from modpkg.release.content import collect
from modpkg.release.packing import Tally


class BuildDocument(IndexLine, kw_only=True):
    """A built release, as a registry's index would have it."""

    weights: Tally
    checked_with: list[str]
    """The releases that its recipe was checked with, as name and version."""


@click.command("build")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option("--against", metavar="RELEASE", help="Release of the base it was made for.")
@click.option("--out", type=click.Path(path_type=Path), help="Output folder. [default: dist/]")
@click.option("--no-deltas", is_flag=True, help="Write changed tensors in full.")
@accept_named_option
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

    An adapter, head or patch is bound to the release of its base that it was trained on: the one
    of "against" under [module], or of --against NAME==VERSION. Without, it is the newest that its
    requirement allows; if it fits another one too, which differs where it acts, build asks. The
    registry of the base is read. Tensors that the target registry already has are referred to, and
    those that changed since the previous release are written as changes.

    A recipe is planned with the newest releases of its modules that it allows, so that what
    installing it would refuse is reported here.
    """
    project = module_project(folder, workspace)
    target = out if out is not None else project.project.folder / DIST

    def accept(tree: Path, record: ReleaseRecord) -> None:
        """Refuse a release that its architecture does not fit, or its test report is not about."""
        if REPORT in record.files:
            from modpkg.community.evaluate.builds import view_of_tree
            from modpkg.community.evaluate.project_tests import check_report

            check_report(project, view_of_tree(project, tree))
        if record.tensors and record.kind in ("base", "model") and CONFIG in record.files:
            from modpkg.interop.architecture_fit import check_project

            if (reason := check_project(project.manifest)) is not None:
                warn(f"the weights were not compared with an architecture: {reason}")
            from modpkg.interop.chat_templates import unrenderable

            if (reason := unrenderable(collect(project.manifest).files)) is not None:
                warn(f"a conversation with it will be refused: {reason}")

    built = build_project(
        project,
        target,
        against=against,
        known=published_tensors(project),
        deltas=not no_deltas,
        accept=accept,
    )
    refresh_schema(folder)
    if as_json:
        checked = list(built.checked_with)
        print_json(BuildDocument(**asdict(built.line), weights=built.tally, checked_with=checked))
    else:
        _show(built, target)
    if built.untied:
        note(
            f"{built.line.name} changes only some of the tensors that its base ties "
            f"({listed(built.untied, 4)}): a recipe with it needs {TIES} = false"
        )


def _show(built: Built, target: Path) -> None:
    line, tally = built.line, built.tally
    tell(f"{good('Built')} {strong(line.name)} {line.version} ({line.kind}) in {shown(target)}/")
    tell(f"  release  {line.release}")
    if tally.tensors:
        known = [f"{tally.unchanged} unchanged"] if tally.unchanged else []
        known += [f"{tally.changes} as changes"] if tally.changes else []
        total = human_bytes(tally.bytes)
        known += [f"{human_bytes(tally.new_bytes)} new of {total}" if known else total]
        tell(f"  weights  {', '.join([f'{tally.tensors} tensors', *known])}")
    size = sum(entry.size for entry in built.record.files.values())
    tell(f"  files    {len(built.record.files)}, {human_bytes(size)}")
    if built.checked_with:
        tell(f"  recipe   can be composed of {listed(built.checked_with)}")
    for origin in built.record.provenance.built_from:
        how = "against " if origin.relation is UNSET else f"{origin.relation} from"
        tell(f"  {how} {origin.name} {origin.version}")
