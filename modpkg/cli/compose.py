"""``compose``: the work of an install, ahead of it or elsewhere."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.options import accept_option, device_option, project_options, with_workspace
from modpkg.cli.output import good, print_json, tell
from modpkg.compose.clusters import SCHEMES, open_executor
from modpkg.environment.install import compose_models
from modpkg.environment.plan import InstallRequest, plan_install
from modpkg.environment.workspace import Workspace


class ComposeDocument(Struct, frozen=True):
    """Models that were composed."""

    composed: dict[str, str]
    """By model, the digest of its weights."""


def _cluster(context: click.Context, option: click.Parameter, address: str | None) -> str | None:
    """Check the form of a cluster's address."""
    if address is not None and not address.startswith(SCHEMES):
        raise click.BadParameter(f"{address!r} is not like dask://127.0.0.1:8786", context, option)
    return address


@click.command("compose")
@click.option(
    "--executor",
    metavar="ADDRESS",
    callback=_cluster,
    help="Compose on a cluster: dask://HOST:PORT. Its workers need access to the store.",
)
@click.option("--threads", type=click.IntRange(1), help="Threads to use. [default: one per core]")
@device_option
@accept_option
@project_options
@with_workspace
def compose_command(
    workspace: Workspace, executor: str | None, threads: int | None, as_json: bool
) -> None:
    """Compose the project's models into the store, ahead of an install.

    The bytes are the same wherever they are composed. The environment is not changed.
    """
    with open_executor(executor) as pool, workspace.store.lock():
        plan = plan_install(workspace, InstallRequest())
        results = compose_models(plan, threads=threads, executor=pool)
    if as_json:
        print_json(ComposeDocument(dict(results)))
        return
    for name, result in results.items():
        tell(f"{good('Composed')} {name}: {result}")
