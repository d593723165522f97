"""``publisher``: the CI jobs that may publish a module of a registry that is served."""

from __future__ import annotations

import click
from msgspec import Struct

from modpkg.cli.module_names import known_names
from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import good, print_json, table, tell
from modpkg.core.names import module_name
from modpkg.registry.account_client import registry_api
from modpkg.registry.api_records import PublisherInfo, PublisherList, PublisherRequest
from modpkg.registry.server_api import api_path

GITHUB = "https://token.actions.githubusercontent.com"

_module = click.argument("name", shell_complete=known_names)


class RemovedPublisher(Struct, frozen=True):
    """A CI job that may not publish a module any more."""

    id: int
    module: str


@click.group("publisher")
def publisher_command() -> None:
    """Show and change which CI jobs may publish a module, without a secret that anybody keeps."""


def _path(name: str, *more: object) -> str:
    return api_path("modules", module_name(name), "trusted-publishers", *more)


@publisher_command.command("list")
@_module
@registry_option
@json_option
def list_publishers(name: str, registry: str | None, as_json: bool) -> None:
    """List the CI jobs that may publish the module NAME."""
    api = registry_api(registry)
    api.check_login(f"see who publishes {name}")
    found = api.request("GET", _path(name), PublisherList)
    if as_json:
        print_json(found)
        return
    rows = [
        [str(one.id), one.repository, one.workflow, one.environment or "any", one.issuer]
        for one in found.publishers
    ]
    table(rows, ["Number", "Repository", "Workflow", "Environment", "Issuer"])


@publisher_command.command("add")
@_module
@click.argument("repository", metavar="OWNER/REPOSITORY")
@click.argument("workflow")
@click.option("--environment", default="", help="The one it has to run in. [default: any]")
@click.option("--issuer", default=GITHUB, show_default=True, help="Who says which job runs.")
@registry_option
@json_option
def add_publisher(
    name: str,
    repository: str,
    workflow: str,
    environment: str,
    issuer: str,
    registry: str | None,
    as_json: bool,
) -> None:
    """Let the CI job of the file WORKFLOW, like release.yml, publish the module NAME.

    On GitHub it is a file in .github/workflows; another issuer tells a path in the repository.
    """
    api = registry_api(registry)
    api.check_login(f"let a job publish {name}")
    wanted = PublisherRequest(
        issuer=issuer, repository=repository, workflow=workflow, environment=environment
    )
    added = api.request("POST", _path(name), PublisherInfo, wanted)
    if as_json:
        print_json(added)
    else:
        tell(f"{good('Added')} {added.workflow} of {added.repository} as a publisher of {name}.")


@publisher_command.command("remove")
@_module
@click.argument("number", type=click.IntRange(min=0))
@registry_option
@json_option
def remove_publisher(name: str, number: int, registry: str | None, as_json: bool) -> None:
    """Let the job NUMBER of 'modpkg publisher list' publish the module NAME no more."""
    api = registry_api(registry)
    api.check_login(f"change who publishes {name}")
    api.send("DELETE", _path(name, number))
    if as_json:
        print_json(RemovedPublisher(number, module_name(name)))
    else:
        tell(f"{good('Removed')} the publisher {number} of {name}.")
