"""``merge``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from modpkg.cli.merge_method import AUTO, method_again, read_method
from modpkg.cli.module_names import names_or_files
from modpkg.cli.options import accept_named_option, limit_option, project_options, with_workspace
from modpkg.cli.output import faint, good, print_json, say, strong, table, tell
from modpkg.community.modules.reference import find_view, find_weights
from modpkg.community.patch.base import fetch_base
from modpkg.core.errors import UsageError
from modpkg.core.filenames import MANIFEST
from modpkg.core.files import shown, write_atomically
from modpkg.core.report import Report
from modpkg.environment.project import Project
from modpkg.environment.workspace import Workspace

if TYPE_CHECKING:
    from modpkg.community.patch.merge import MergePlan, MergeResult
    from modpkg.community.patch.method_tournament import MethodScore
    from modpkg.manifest.schema import RememberedMerge


class MergedTensor(Struct, frozen=True, kw_only=True):
    """A tensor that several copies changed differently."""

    name: str
    parents: tuple[int, ...]
    """Indices of those that changed it."""
    reason: str
    """Why values cannot be compared; empty if they can."""
    elements: int
    positions: int
    """Values that at least two changed."""
    different: int
    """Of those, the ones changed to different values: the conflicts."""
    opposite: int
    """Of those, the ones changed in opposite directions."""
    conflicts: bool
    """Whether a choice is needed."""
    choice: str | int | None
    """The resolution file's: ``base``, ``mean``, or a parent's index."""


class MergedFile(Struct, frozen=True):
    """A file that several copies changed differently."""

    path: str
    reason: str
    choice: str | int | None
    """The resolution file's, as for a tensor."""


class MethodResult(Struct, frozen=True):
    """How one method did in the tests (``--method auto``)."""

    method: str
    failed: int
    gain: float
    """Relative improvement over the first method, as a mean over the tests."""
    report: Report


class MergeDocument(Struct, frozen=True, kw_only=True):
    """A merge, with its conflicts."""

    base: str
    parents: list[str]
    tensors: list[MergedTensor]
    files: list[MergedFile]
    name: str | UnsetType = UNSET
    """Of the module that was written; left out with ``--check``, like what follows."""
    version: str | UnsetType = UNSET
    folder: str | UnsetType = UNSET
    method: str | UnsetType | None = UNSET
    """How conflicts were merged; null if there was no method."""
    result: str | UnsetType = UNSET
    """Digest of the merged tensors, as under ``[provenance]`` of the manifest."""
    tried: list[MethodResult] | UnsetType = UNSET
    """Best first; empty without ``--method auto``."""


@click.command("merge")
@click.argument("parents", metavar="PATCH PATCH ...", nargs=-1, shell_complete=names_or_files)
@click.option("--base", metavar="NAME==VERSION", help="The release that they were made from.")
@click.option(
    "--method",
    metavar="METHOD",
    help="How tensors in conflict are merged: mean, ties, fisher … (docs/merging.md), or auto: "
    "the one of several whose tests come out best.",
)
@click.option(
    "--parameter", multiple=True, metavar="KEY=VALUE", help="For the method: density=0.5."
)
@click.option(
    "--weights", metavar="W,W,...", help="For the method, the weight of each PATCH: 0.7,0.3."
)
@click.option(
    "--importance",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="For fisher, a folder for each PATCH with the weight of each of its values.",
)
@click.option(
    "--resolution",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with a choice for tensors and files in conflict.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: NAME-VERSION]")
@click.option("--name", help="The result's name. [default: the base's]")
@click.option("--version", help="The result's version. [default: the next after all of them]")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the conflicts to a file as a heat map by layer.",
)
@click.option("--check", is_flag=True, help="Only report conflicts; exit status 1 if any.")
@click.option(
    "--again",
    metavar="MERGED",
    help="Make an earlier merge (a folder or a release) again, and compare; of its parents, name "
    "those that are folders.",
)
@limit_option
@accept_named_option
@project_options
@with_workspace
def merge_command(
    workspace: Workspace,
    parents: tuple[str, ...],
    base: str | None,
    method: str | None,
    parameter: tuple[str, ...],
    weights: str | None,
    importance: tuple[str, ...],
    resolution: Path | None,
    out: Path | None,
    name: str | None,
    version: str | None,
    svg: Path | None,
    check: bool,
    again: str | None,
    time_limit: float,
    as_json: bool,
) -> int:
    """Merge the changes of several patches or copies of one base.

    Each PATCH is a patch (a folder, or a release NAME==VERSION) or a whole copy. Changes at
    different places are combined; where they set one value differently, a --method or a
    --resolution file has to decide. The result is a module project with the base's manifest and
    tests; [provenance] has its parents and how they were merged.
    """
    from modpkg.community.patch.candidate import candidate_name, write_candidate
    from modpkg.community.patch.conflicts import conflicts_svg
    from modpkg.community.patch.merge import (
        ConflictMethod,
        check_method,
        merge_origins,
        plan_merge,
        run_merge,
    )
    from modpkg.community.patch.remembered_merge import (
        check_same_merge,
        choices_again,
        parents_again,
        remember_merge,
    )
    from modpkg.community.patch.resolution_file import read_choices
    from modpkg.interop.module_project import check_new_project

    choices = read_choices(resolution) if resolution is not None else None
    before: RememberedMerge | None = None
    if again is not None:
        given: dict[str, object] = {"--base": base, "--method": method, "--parameter": parameter}
        given |= {"--weights": weights, "--resolution": resolution, "--version": version}
        for option, value in given.items():
            if value:
                message = f"--again has {option} from {again}: leave it out."
                raise UsageError("M901", message=message)
        before = _remembered(again, workspace)
        parents, base = tuple(parents_again(before, parents)), before.base
        choices = choices_again(before, again)
        chosen_method = method_again(before, importance, workspace)
    else:
        if base is None or not parents:
            raise UsageError("M901", message="Name two patches, and what they are for by --base.")
        chosen_method = read_method(method, parameter, weights, importance, len(parents), workspace)
        if chosen_method is not None:
            check_method(chosen_method, len(parents))
    store, progress = workspace.store, workspace.progress
    if out is not None:
        check_new_project(out)
    with store.lock(), tempfile.TemporaryDirectory(prefix="modpkg-merge-") as folder:
        found = fetch_base(base, workspace)
        module = found.module
        views = [find_weights(text, workspace) for text in parents]
        chosen, number = candidate_name(module, name, version, after=views)
        target = out if out is not None else Path(f"{chosen}-{number}")
        if not check and again is None:
            check_new_project(target)
        merge = plan_merge(module, views, store, progress, choices)
        if svg is not None:
            labels = ", ".join(view.label for view in merge.parents)
            title = f"Conflicts of {labels} from {merge.label}"
            write_atomically(svg, conflicts_svg(merge.overlaps, title).encode())
        if not as_json:
            _show_conflicts(merge)
        if check:
            if as_json:
                print_json(_document(merge))
            return int(bool(merge.overlaps.conflicts or merge.files.conflicts))
        scores: list[MethodScore] = []
        if method == AUTO and merge.open:
            result, scores = _automatic(merge, workspace, Path(folder), time_limit)
            chosen_method = ConflictMethod(name=scores[0].method)
        else:
            result = run_merge(merge, chosen_method, store, Path(folder), progress)
        remembered = remember_merge(merge, chosen_method, choices, result.tensors)
        if before is not None:
            check_same_merge(before, remembered, str(again))
        if before is None or out is not None:
            progress.stage("Writing")
            write_candidate(
                module,
                result.tensors,
                result.files,
                target,
                name=chosen,
                version=number,
                origins=merge_origins(merge),
                parts=found.parts,
                merge=remembered,
            )
    by = None if chosen_method is None else chosen_method.name
    if as_json:
        written = before is None or out is not None
        print_json(
            replace(
                _document(merge),
                name=chosen,
                version=number,
                folder=str(target) if written else UNSET,
                method=by,
                result=remembered.result,
                tried=[
                    MethodResult(score.method, score.failed, score.gain, score.report)
                    for score in scores
                ],
            )
        )
        return 0
    _show_scores(scores)
    if before is not None:
        tell(f"{good('Merged again')}: {again} has the same weights.")
        return 0
    if unknown := [view.label for view in merge.parents if view.name is None]:
        tell(faint(f"Not under [provenance], because they are not modules: {', '.join(unknown)}."))
    way = f" by {by}" if by is not None and merge.open else ""
    tell(f"{good('Merged')} into {strong(chosen)} {number} in {shown(target)}/{way}.")
    return 0


def _remembered(text: str, workspace: Workspace) -> RememberedMerge:
    """Return how a module was merged."""
    manifest = find_view(text, workspace).manifest
    if manifest is None or manifest.merge is None:
        raise UsageError("M901", message=f"{text} says nothing of a merge under [provenance].")
    return manifest.merge


def _automatic(
    merge: MergePlan, workspace: Workspace, scratch: Path, limit: float
) -> tuple[MergeResult, list[MethodScore]]:
    """Merge by several methods, and return the result whose tests come out best."""
    from modpkg.community.evaluate.project_tests import run_project_tests
    from modpkg.community.evaluate.test_runner import TestRunner
    from modpkg.community.patch.method_tournament import merge_by_tests

    store, progress = workspace.store, workspace.progress
    with TestRunner(store, progress, limit=limit) as runner:

        def score(folder: Path) -> Report:
            project = workspace.for_project(Project(folder.absolute() / MANIFEST))
            (run,) = run_project_tests(project, runner)
            return run.report

        return merge_by_tests(merge, store, scratch, progress, score)


def _show_conflicts(merge: MergePlan) -> None:
    """Print what the parents changed, and the conflicts by layer."""
    from modpkg.community.patch.conflicts import by_layer

    overlaps = merge.overlaps
    say(f"{strong(merge.label)} and its copies:")
    for number, view in enumerate(merge.parents):
        alone = sum(one == number for one in overlaps.clean.values())
        others = sum(number in item.parents for item in overlaps.tensors)
        say(f"  {view.label}: {alone} tensors changed only here, {others} in others too")
    rows = by_layer(overlaps)
    if rows:
        say()
        table(
            [
                [
                    "-" if row.layer is None else str(row.layer),
                    f"{row.conflicts} of {row.tensors}",
                    str(row.positions),
                    str(row.different),
                    str(row.opposite),
                ]
                for row in rows
            ],
            ["Layer", "In conflict", "Same places", "Different values", "Opposite signs"],
        )
    for item in overlaps.tensors:
        if item.reason:
            say(f"  {item.name}: {item.reason}")
    for conflict in merge.files.conflicts:
        say(f"  {conflict.path}: {conflict.reason}")
    say()


def _show_scores(scores: Sequence[MethodScore]) -> None:
    if not scores:
        return
    table(
        [
            [
                score.method,
                str(score.failed),
                f"{score.gain:+.4f}",
                ", ".join(f"{r.test} {r.value:.4g}" for r in score.report.results),
            ]
            for score in scores
        ],
        ["Method", "Failed", "Gain", "Tests"],
    )
    say()


def _document(merge: MergePlan) -> MergeDocument:
    return MergeDocument(
        base=merge.label,
        parents=[view.label for view in merge.parents],
        tensors=[
            MergedTensor(
                name=item.name,
                parents=item.parents,
                reason=item.reason,
                elements=item.elements,
                positions=item.positions,
                different=item.different,
                opposite=item.opposite,
                conflicts=item.conflicts,
                choice=merge.chosen.get(item.name),
            )
            for item in merge.overlaps.tensors
        ],
        files=[
            MergedFile(item.path, item.reason, merge.chosen_files.get(item.path))
            for item in merge.files.conflicts
        ],
    )
