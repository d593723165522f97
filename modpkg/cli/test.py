"""``test``: run the tests of a module, an app or an installed model."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.module_names import installed_names
from modpkg.cli.options import accept_named_option, limit_option, project_options, with_workspace
from modpkg.cli.output import bad, counted, faint, good, print_json, say, strong, tell
from modpkg.community.evaluate.report import TestRun, describe_result, junit_xml
from modpkg.core.filenames import REPORT
from modpkg.core.files import shown, write_atomically
from modpkg.core.report import Report, report_bytes
from modpkg.environment.workspace import Workspace


class TestsDocument(Struct, frozen=True):
    """The results of tests."""

    __test__ = False

    reports: list[Report]


class SuiteDocument(Struct, frozen=True):
    """A suite without a model, which was only checked."""

    tests: int
    cases: int


@click.command("test")
@click.argument("name", required=False, shell_complete=installed_names)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write JUnit XML.",
)
@click.option("--fresh", is_flag=True, help="Ignore cached outcomes.")
@limit_option
@accept_named_option
@project_options
@with_workspace
def test_command(
    workspace: Workspace,
    name: str | None,
    junit: Path | None,
    fresh: bool,
    time_limit: float,
    as_json: bool,
) -> int:
    """Run the [[tests]] of this project, or of the installed model NAME.

    A module is built, composed with the newest versions that it allows, and run on its tests and
    those of its [suites]; the report goes to report.json, which 'modpkg build' includes. An app's
    tests run on the models of modpkg.lock. Outcomes are cached in the store.

    Exit status 1 if a test fails.
    """
    from modpkg.community.evaluate.project_tests import run_project_tests
    from modpkg.community.evaluate.suite import check_cases
    from modpkg.community.evaluate.test_runner import TestRunner

    manifest = workspace.manifest
    module = manifest.module
    if module is not None and module.kind == "suite" and not manifest.dependencies:
        cases = check_cases(manifest)
        if as_json:
            print_json(SuiteDocument(len(manifest.tests), cases))
            return 0
        say(
            f"{good('Valid')}: {counted(len(manifest.tests), 'test')} with "
            f"{counted(cases, 'case')}; to run them, add a model to [dependencies]."
        )
        return 0
    with TestRunner(workspace.store, workspace.progress, limit=time_limit, fresh=fresh) as runner:
        runs = run_project_tests(workspace, runner, name=name)
    if junit is not None:
        write_atomically(junit, junit_xml(runs).encode())
    if module is not None and module.kind != "suite" and name is None:
        write_atomically(workspace.project.folder / REPORT, report_bytes(runs[0].report))
    passed = all(run.report.passed for run in runs)
    if as_json:
        print_json(TestsDocument([run.report for run in runs]))
    else:
        for run in runs:
            _show(run)
        if module is not None and module.kind != "suite" and name is None:
            tell(f"\n{good('Wrote')} {shown(workspace.project.folder / REPORT)}.")
    return 0 if passed else 1


def _show(run: TestRun) -> None:
    report = run.report
    say(f"{strong(report.subject.name)} {report.subject.version}")
    for result, seconds in zip(report.results, run.seconds, strict=True):
        mark = good("passed") if result.passed else bad("FAILED")
        whose = "" if result.suite == report.subject.name else f" [{result.suite}]"
        took = f"{seconds:.1f} s" if seconds else "cached"
        say(f"  {mark}  {result.test}{whose}: {describe_result(result)} {faint(took)}")
