"""``python -m registry_spec``: write schemas, vectors and pages, or check a registry."""

from __future__ import annotations

import sys

import click

from modpkg.core.errors import ModpkgError
from registry_spec import SCHEMAS, VECTORS


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Write schemas, vectors and what pages take from the code, or check a registry."""
    if context.invoked_subcommand is None:
        context.invoke(schemas_command)
        context.invoke(vectors_command)
        context.invoke(json_page_command)
        context.invoke(bounds_page_command)
        context.invoke(parameters_page_command)


@main.command("schemas")
def schemas_command() -> None:
    """Write the JSON Schemas that the code generates."""
    from registry_spec.schemas import write_schemas

    click.echo(f"Wrote {len(write_schemas())} schemas into {SCHEMAS}.")


@main.command("vectors")
def vectors_command() -> None:
    """Write the test vectors."""
    from registry_spec.vectors import write_vectors

    write_vectors()
    click.echo(f"Wrote the vectors into {VECTORS}.")


@main.command("json-page")
def json_page_command() -> None:
    """Write docs/json.md: what commands print with --json."""
    from registry_spec.json_page import PAGE, write_json_page

    write_json_page()
    click.echo(f"Wrote {PAGE}.")


@main.command("bounds-page")
def bounds_page_command() -> None:
    """Write the tables of bounds in docs/security.md."""
    from registry_spec.bounds_page import PAGE, write_bounds_page

    write_bounds_page()
    click.echo(f"Wrote the bounds into {PAGE}.")


@main.command("parameters-page")
def parameters_page_command() -> None:
    """Write the table of parameters in docs/merging.md."""
    from registry_spec.parameters_page import PAGE, write_parameters_page

    write_parameters_page()
    click.echo(f"Wrote the parameters into {PAGE}.")


@main.command("check")
@click.argument("registry", metavar="FOLDER_OR_URL")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(registry: str, names: tuple[str, ...], as_json: bool) -> None:
    """Verify everything in a registry; print one line per problem.

    An HTTP server cannot list its modules: NAME them; the modules they require are checked too.
    Exits with 1 if there is a problem, with 2 if no name is known.
    """
    from registry_spec.check import NamesNeeded, check

    try:
        report = check(registry, names)
    except NamesNeeded as error:
        raise click.UsageError(str(error)) from None
    except ModpkgError as error:
        raise click.ClickException(f"[{error.code}] {error}") from None
    if as_json:
        click.echo(report.json())
    else:
        for problem in report.problems:
            click.echo(f"{problem.where}: [{problem.code}] {problem.message}")
        click.echo(report.summary(), err=bool(report.problems))
    sys.exit(1 if report.problems else 0)


@main.command("conformance")
@click.argument("registry", metavar="FOLDER_OR_URL")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--token", envvar="MODPKG_TOKEN", help="Of the server's API, to publish there.")
@click.option("--read-only", is_flag=True, help="Publish nothing.")
@click.option("--publish", is_flag=True, help="Publish also beside modules of others.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def conformance_command(
    registry: str,
    names: tuple[str, ...],
    token: str | None,
    read_only: bool,
    publish: bool,
    as_json: bool,
) -> None:
    """Try each rule of the spec on a registry; print one line per rule.

    What can be written to gets modules named conformance-…, which stay there: without --publish, a
    registry that has modules of others is only read. In the end, a small model is locked,
    installed and composed; its digests are the same from all registries.
    Exits with 1 if a rule is broken.
    """
    from registry_spec.conformance import conform

    try:
        report = conform(registry, names, token=token, read_only=read_only, among_others=publish)
    except ModpkgError as error:
        raise click.ClickException(f"[{error.code}] {error}") from None
    if as_json:
        click.echo(report.json())
    else:
        for tried in report.rules:
            click.echo(tried.text())
        click.echo(report.summary())
    sys.exit(1 if report.broken else 0)


if __name__ == "__main__":
    main(prog_name="python -m registry_spec")
