"""``compose``: the work of an install, ahead of it or elsewhere."""

from __future__ import annotations

import click

from modpkg.cli.options import json_option, offline_option, registry_option, user_option
from modpkg.cli.output import TerminalProgress, good, print_json, say


@click.command("compose")
@click.option(
    "--executor", metavar="ADDRESS", help="Where: dask://HOST:PORT, whose workers see the store."
)
@click.option("--threads", type=click.IntRange(1), help="Threads here. [default: one per core]")
@registry_option
@offline_option
@user_option
@json_option
def compose_command(
    executor: str | None,
    threads: int | None,
    registry: str | None,
    offline: bool,
    user: bool,
    as_json: bool,
) -> None:
    """Compose the project's models into the store, so that installing them takes no time.

    Wherever it is done, the bytes are the same. The environment stays as it is.
    """
    from modpkg.compose.clusters import open_executor
    from modpkg.core.home import store_folder
    from modpkg.environment.install import compose_models
    from modpkg.environment.plan import Request, plan_install
    from modpkg.environment.project import find_project
    from modpkg.store.store import Store

    store = Store(store_folder())
    request = Request(registry=registry, offline=offline)
    with TerminalProgress() as progress, open_executor(executor) as pool, store.lock():
        plan = plan_install(find_project(user=user), request, store, progress)
        results = compose_models(plan, store, progress, threads=threads, executor=pool)
    if as_json:
        print_json({"composed": results})
        return
    for name, result in results.items():
        say(f"{good('Composed')} {name}: {result}")
