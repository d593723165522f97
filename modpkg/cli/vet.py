"""``vet``: test a new release against the one before it."""

from __future__ import annotations

import click

from modpkg.cli.module_names import names_or_files
from modpkg.cli.options import accept_named_option, limit_option, project_options, with_workspace
from modpkg.cli.output import (
    bad,
    counted,
    faint,
    good,
    print_json,
    say,
    strong,
    table,
)
from modpkg.cli.review_options import desk_of
from modpkg.community.vet.verdict import TestChange, VetReport
from modpkg.core.names import ModuleName
from modpkg.environment.workspace import Workspace


def _count(ctx: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """Return the number of dependants to test; None for all."""
    if value == "all":
        return None
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'", ctx, parameter)
    return int(value)


@click.command("vet")
@click.argument("candidate", shell_complete=names_or_files)
@click.option(
    "--against",
    metavar="NAME==VERSION",
    help="Release to compare with. [default: the newest one before it]",
)
@click.option(
    "--dependants",
    callback=_count,
    default="10",
    metavar="N|all",
    show_default=True,
    help="Number of dependants to test.",
)
@click.option(
    "--report", "reports", is_flag=True, help="Attach the result to the candidate NAME#7, for all."
)
@limit_option
@accept_named_option
@project_options
@with_workspace
def vet_command(
    workspace: Workspace,
    candidate: str,
    against: str | None,
    dependants: int | None,
    reports: bool,
    time_limit: float,
    as_json: bool,
) -> int:
    """Test CANDIDATE against the release before it, with its own tests and its dependants'.

    CANDIDATE is the folder of a module or of a built release, NAME==VERSION, or NAME#7. The
    published modules that depend on it, and whose requirement allows it, are composed with it and
    run on their own tests, most relevant first. Outcomes are cached in the store.

    Exit status 0 for accept, 1 for reject, 3 if a person has to decide.
    """
    from modpkg.community.evaluate.test_runner import TestRunner
    from modpkg.community.review.vetting import report_of_vet
    from modpkg.community.vet.vet import compared_release, find_candidate, vet

    desk, name, number = None, ModuleName(""), 0
    if reports:
        desk, name, number = desk_of(workspace, candidate)
    with (
        TestRunner(workspace.store, workspace.progress, limit=time_limit) as runner,
        find_candidate(workspace, candidate) as (own, release),
    ):
        earlier = compared_release(own, release, against)
        report = vet(own, runner, release, earlier, most=dependants)
    if desk is not None:
        desk.say(name, number, "report", "", report_of_vet(report))
    if as_json:
        print_json(report)
    else:
        _show(report)
    return {"accept": 0, "reject": 1, "needs-a-person": 3}[report.verdict]


def _show(report: VetReport) -> None:
    new, old = report.candidate, report.against
    title = f"{strong(new.name)} {new.version}"
    say(title if old is None else f"{title} against {strong(old.name)} {old.version}")
    _show_changes(report.changes, old is not None)
    for dependant in report.dependants:
        say(f"\n{strong(dependant.name)} {dependant.version} ({dependant.kind}): {dependant.state}")
        if dependant.reason:
            say(f"  {dependant.reason}")
        _show_changes(dependant.changes, True)
    if report.dependants_found is None:
        say("\nThe registry cannot list its modules, so dependants are unknown.")
    elif len(report.dependants) < report.dependants_found:
        left = report.dependants_found - len(report.dependants)
        say(faint(f"\n{counted(left, 'more dependant')}; use --dependants all to test them."))
    if report.claim == "holds":
        say("\nIts report matches what was measured.")
    colour = good if report.verdict == "accept" else bad
    say(f"\n{colour(report.verdict)}: {report.reason}")


def _show_changes(changes: list[TestChange], compared: bool) -> None:
    rows = []
    for change in changes:
        before, after = change.before, change.after
        moved = change.difference
        rows.append(
            [
                after.test if change.current else f"{after.test} (as before)",
                after.metric,
                f"{before.value:.4g}" if compared else "-",
                f"{after.value:.4g} ({after.low:.4g} to {after.high:.4g})",
                f"{moved.value:+.4g} ({moved.low:+.4g} to {moved.high:+.4g})" if compared else "-",
                f"-{change.negative} +{change.positive}" if change.judged and compared else "-",
                "passes" if after.passed else "FAILS",
            ]
        )
    if rows:
        table(rows, ["Test", "Metric", "Before", "Now", "Change", "Flips", ""])
