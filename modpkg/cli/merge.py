"""``merge``: several patches or copies of one base made one release candidate."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from modpkg.cli.options import limit_option, project_options
from modpkg.cli.output import TerminalProgress, faint, good, print_json, say, strong, table
from modpkg.cli.patch import base_release, target_of
from modpkg.core.errors import UsageError
from modpkg.core.files import shown, write_atomically
from modpkg.core.home import store_folder
from modpkg.store.store import Store

if TYPE_CHECKING:
    from modpkg.community.modules.view import ModuleView
    from modpkg.community.patch.merge import Merged, Merging, Method
    from modpkg.community.patch.tournament import Attempt
    from modpkg.manifest.schema import Setting

AUTO = "auto"


@click.command("merge")
@click.argument("parents", metavar="PATCH PATCH ...", nargs=-1, required=True)
@click.option(
    "--base", required=True, metavar="NAME==VERSION", help="The release that they begin from."
)
@click.option(
    "--method",
    metavar="METHOD",
    help="What makes one of tensors that conflict: mean, ties, fisher … (docs/merging.md), or "
    "auto: the one of several that the base's tests like best.",
)
@click.option("--parameter", multiple=True, metavar="KEY=VALUE", help="Of the method: density=0.5.")
@click.option(
    "--importance",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="For fisher, a folder for each PATCH: how much each of its values counts.",
)
@click.option(
    "--resolution",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that says what becomes of tensors and files in conflict.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder. [default: NAME-VERSION]")
@click.option("--name", help="The result's name. [default: the base's]")
@click.option("--version", help="The result's version. [default: the next after all of them]")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the conflicts by layer."
)
@click.option("--check", is_flag=True, help="Report conflicts only; exit status 1 if there are.")
@limit_option
@project_options
def merge_command(
    parents: tuple[str, ...],
    base: str,
    method: str | None,
    parameter: tuple[str, ...],
    importance: tuple[str, ...],
    resolution: Path | None,
    out: Path | None,
    name: str | None,
    version: str | None,
    svg: Path | None,
    check: bool,
    time_limit: float,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> int:
    """Merge what several parents changed in one base.

    Each PATCH is a patch (a folder, or a release NAME==VERSION) or a whole copy. What they changed
    apart from each other is put together; where they changed one value to different ones, a
    --method or a --resolution file has to say what becomes of it. The result is a module project
    with the base's manifest and tests, and its parents under [provenance].
    """
    from modpkg.community.modules.reference import find_view
    from modpkg.community.patch.candidate import write_candidate
    from modpkg.community.patch.conflicts import conflict_picture
    from modpkg.community.patch.merge import begin, carry_out
    from modpkg.community.patch.resolution_file import read_choices

    if (parameter or importance) and method in (None, AUTO):
        raise UsageError("M901", message="--parameter and --importance belong to a --method.")
    if importance and len(importance) != len(parents):
        raise UsageError("M901", message="Name one --importance for each PATCH, in their order.")
    how = _method(method, parameter)
    store = Store(store_folder())
    choices = read_choices(resolution) if resolution is not None else None
    with TerminalProgress() as progress, store.lock():

        def find(text: str) -> ModuleView:
            return find_view(text, store, progress, user=user, registry=registry, offline=offline)

        module = base_release(base, store, progress, registry, offline)
        merging = begin(module, [find(text) for text in parents], store, progress, choices)
        progress.close()
        if svg is not None:
            labels = ", ".join(side.label for side in merging.parents)
            title = f"Conflicts of {labels} from {merging.label}"
            write_atomically(svg, conflict_picture(merging.overlaps, title).encode())
        if not as_json:
            _conflicts(merging)
        if check:
            if as_json:
                print_json(_document(merging))
            return int(bool(merging.overlaps.conflicts or merging.files.conflicts))
        if how is not None and importance:
            counts = tuple(find(folder).refs() for folder in importance)
            how = structs.replace(how, importance=counts)
        with tempfile.TemporaryDirectory(prefix="modpkg-merge-") as scratch:
            attempts: list[Attempt] = []
            if method == AUTO and merging.open:
                merged, attempts = _automatic(
                    merging, store, Path(scratch), progress, (registry, offline), time_limit
                )
            else:
                merged = carry_out(merging, how, store, Path(scratch), progress)
            chosen, number = target_of(module, name, version or _after(module.name, merging))
            folder = out if out is not None else Path(f"{chosen}-{number}")
            origins = [(module.name, module.version, "built")]
            origins += [
                (side.name, side.version, "merged")
                for side in merging.parents
                if side.name is not None and side.version is not None
            ]
            progress.stage("Writing")
            write_candidate(
                module,
                merged.tensors,
                merged.files,
                folder,
                name=chosen,
                version=number,
                origins=origins,
            )
    by = attempts[0].method if attempts else None if how is None else how.name
    if as_json:
        result = {"name": chosen, "version": number, "folder": str(folder), "method": by}
        print_json(_document(merging) | result | {"tried": _tried(attempts)})
        return 0
    _attempts(attempts)
    unknown = [side.label for side in merging.parents if side.name is None]
    if unknown:
        say(faint(f"Not under [provenance], as they are no modules: {', '.join(unknown)}."))
    way = f" by {by}" if by is not None and merging.open else ""
    say(f"{good('Merged')} into {strong(chosen)} {number} in {shown(folder)}/{way}.")
    return 0


def _method(name: str | None, parameters: Sequence[str]) -> Method | None:
    from modpkg.community.patch.merge import Method
    from modpkg.compose.reducers import find_reducer

    if name is None or name == AUTO:
        return None
    find_reducer(name, "--method")
    told: dict[str, Setting] = {}
    for text in parameters:
        key, separator, value = text.partition("=")
        if not separator:
            raise UsageError("M901", message=f"Write --parameter {key}=VALUE.")
        told[key] = _value(value)
    return Method(name=name, parameters=told)


def _value(text: str) -> Setting:
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def _after(name: str, merging: Merging) -> str:
    """Return the version after that of the base, and of parents that are releases of it."""
    from modpkg.community.patch.candidate import next_version
    from modpkg.core.names import parse_version

    told = [merging.base.version]
    told += [side.version for side in merging.parents if side.name == name and side.version]
    return next_version(str(max(map(parse_version, told))))


def _automatic(
    merging: Merging,
    store: Store,
    scratch: Path,
    progress: TerminalProgress,
    wishes: tuple[str | None, bool],
    limit: float,
) -> tuple[Merged, list[Attempt]]:
    """Merge by each method of several, and return what the base's tests like best."""
    from modpkg.community.evaluate.run import run_project_tests
    from modpkg.community.evaluate.test_runner import TestRunner
    from modpkg.community.patch.candidate import next_version, write_candidate
    from modpkg.community.patch.merge import Method, carry_out
    from modpkg.community.patch.tournament import METHODS, choose
    from modpkg.core.filenames import MANIFEST
    from modpkg.core.report import Report
    from modpkg.environment.project import Project
    from modpkg.environment.workspace import RegistryOptions, Workspace

    base = merging.base
    found, folders = {}, {}
    for method in METHODS:
        own = scratch / method
        own.mkdir()
        found[method] = carry_out(merging, Method(name=method), store, own, progress)
        folders[method] = own / "candidate"
        write_candidate(
            base,
            found[method].tensors,
            found[method].files,
            folders[method],
            name=base.name,
            version=next_version(base.version),
            origins=[],
        )
    with TestRunner(store, progress, limit=limit) as runner:

        def score(folder: Path) -> Report:
            project = Project(folder.absolute() / MANIFEST)
            options = RegistryOptions(*wishes)
            workspace = Workspace(project, options=options, progress=progress, store=store)
            (tried,) = run_project_tests(workspace, runner)
            return tried.report

        attempts = choose(folders, score)
    return found[attempts[0].method], attempts


def _conflicts(merging: Merging) -> None:
    """Print where the parents are at odds, by layer."""
    from modpkg.community.patch.conflicts import by_layer

    overlaps = merging.overlaps
    say(f"{strong(merging.label)} and what became of it:")
    for number, side in enumerate(merging.parents):
        alone = sum(one == number for one in overlaps.clean.values())
        others = sum(number in item.parents for item in overlaps.tensors)
        say(f"  {side.label}: {alone} tensors changed alone or alike, {others} as others did")
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
    for conflict in merging.files.conflicts:
        say(f"  {conflict.path}: {conflict.reason}")
    say()


def _attempts(attempts: Sequence[Attempt]) -> None:
    if not attempts:
        return
    table(
        [
            [
                attempt.method,
                str(attempt.failed),
                f"{attempt.gain:+.4f}",
                ", ".join(f"{r.test} {r.value:.4g}" for r in attempt.report.results),
            ]
            for attempt in attempts
        ],
        ["Method", "Failed", "Gain", "Tests"],
    )
    say()


def _tried(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    return [
        {
            "method": attempt.method,
            "failed": attempt.failed,
            "gain": attempt.gain,
            "report": attempt.report,
        }
        for attempt in attempts
    ]


def _document(merging: Merging) -> dict[str, Any]:
    return {
        "base": merging.label,
        "parents": [side.label for side in merging.parents],
        "tensors": [
            {
                "name": item.name,
                "parents": item.parents,
                "reason": item.reason,
                "elements": item.elements,
                "positions": item.positions,
                "different": item.different,
                "opposite": item.opposite,
                "conflicts": item.conflicts,
                "choice": merging.chosen.get(item.name),
            }
            for item in merging.overlaps.tensors
        ],
        "files": [
            {
                "path": item.path,
                "reason": item.reason,
                "choice": merging.chosen_files.get(item.path),
            }
            for item in merging.files.conflicts
        ],
    }
