"""``organisation``: groups of people who own modules of a registry that is served."""

from __future__ import annotations

from typing import Literal

import click

from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import a_role, good, print_json, say, strong, table, tell
from modpkg.core.errors import UsageError
from modpkg.core.names import module_name
from modpkg.core.printable import one_line
from modpkg.registry.account_client import registry_api, who_am_i
from modpkg.registry.api_records import (
    MemberRequest,
    OrganisationInfo,
    OrganisationInvitations,
    OrganisationRequest,
)
from modpkg.registry.server_api import ServerApi, api_path

MemberRole = Literal["owner", "member"]


@click.group("organisation")
def organisation_command() -> None:
    """Found organisations, and change who is in them.

    An organisation has roles for modules as a person has ('modpkg owner add'), and each of its
    members has them with it. Its owners decide who is invited to it.
    """


@organisation_command.command("create")
@click.argument("name")
@click.option("--full-name", default="", help="What it is called in full.")
@registry_option
@json_option
def create_organisation(name: str, full_name: str, registry: str | None, as_json: bool) -> None:
    """Found the organisation NAME, of which you are the owner."""
    if one_line(full_name) != full_name:
        raise UsageError("M901", message="--full-name is one line of text.")
    api = registry_api(registry)
    api.check_login("found an organisation")
    wanted = OrganisationRequest(name=name, full_name=full_name)
    founded = api.request("POST", "organisations", OrganisationInfo, wanted)
    if as_json:
        print_json(founded)
    else:
        tell(f"{good('Founded')} the organisation {founded.name}.")


@organisation_command.command("show")
@click.argument("name")
@registry_option
@json_option
def show_organisation(name: str, registry: str | None, as_json: bool) -> None:
    """Show who is in the organisation NAME."""
    found = _found(registry_api(registry), name)
    if as_json:
        print_json(found)
        return
    say(strong(found.name) + (f": {found.full_name}" if found.full_name else ""))
    rows = [[one.name, one.role] for one in found.members]
    rows += [[one.name, f"{one.role} (invited)"] for one in found.invited]
    table(rows, ["Name", "Role"])


@organisation_command.command("add")
@click.argument("name")
@click.argument("person")
@click.option(
    "--role",
    type=click.Choice(["owner", "member"]),
    default="member",
    show_default=True,
    help="What PERSON is from then on.",
)
@registry_option
@json_option
def add_member(
    name: str, person: str, role: MemberRole, registry: str | None, as_json: bool
) -> None:
    """Invite PERSON to the organisation NAME, or give a member another role there."""
    api = registry_api(registry)
    api.check_login(f"change who is in {name}")
    path = api_path("organisations", name, "members", person)
    changed = api.request("PUT", path, OrganisationInfo, MemberRequest(role))
    if as_json:
        print_json(changed)
    elif any(one.name == module_name(person) for one in changed.invited):
        tell(f"{good('Invited')} {person} to {name} as {role}.")
        tell(f"{person} accepts with: modpkg organisation accept {name}")
    else:
        tell(f"{person} is {a_role(role)} of {name} now.")


@organisation_command.command("accept")
@click.argument("name")
@registry_option
@json_option
def accept_organisation(name: str, registry: str | None, as_json: bool) -> None:
    """Join the organisation NAME, which has invited you."""
    api = registry_api(registry)
    api.check_login(f"join {name}")
    api.send("POST", api_path("organisations", name, "accept"))
    _tell(api, name, f"{good('Joined')} {name}.", as_json)


@organisation_command.command("decline")
@click.argument("name")
@registry_option
@json_option
def decline_organisation(name: str, registry: str | None, as_json: bool) -> None:
    """Decline the invitation to the organisation NAME."""
    _leave(name, registry, f"{good('Declined')} {name}.", as_json)


@organisation_command.command("invitations")
@registry_option
@json_option
def list_invitations(registry: str | None, as_json: bool) -> None:
    """List the organisations that you are invited to."""
    api = registry_api(registry)
    api.check_login("list invitations")
    found = api.request("GET", "me/invitations", OrganisationInvitations)
    if as_json:
        print_json(found)
        return
    rows = [[one.organisation, one.role, one.by, one.invited[:10]] for one in found.invitations]
    table(rows, ["Organisation", "Role", "From", "Since"])


@organisation_command.command("remove")
@click.argument("name")
@click.argument("person")
@registry_option
@json_option
def remove_member(name: str, person: str, registry: str | None, as_json: bool) -> None:
    """Take PERSON out of the organisation NAME, or the invitation back; its last owner stays."""
    api = registry_api(registry)
    api.check_login(f"change who is in {name}")
    api.send("DELETE", api_path("organisations", name, "members", person))
    _tell(api, name, f"{good('Removed')} {person} from {name}.", as_json)


@organisation_command.command("leave")
@click.argument("name")
@registry_option
@json_option
def leave_organisation(name: str, registry: str | None, as_json: bool) -> None:
    """Leave the organisation NAME; its last owner stays."""
    _leave(name, registry, f"{good('Left')} {name}.", as_json)


def _leave(name: str, registry: str | None, text: str, as_json: bool) -> None:
    api = registry_api(registry)
    me = who_am_i(api)
    api.send("DELETE", api_path("organisations", name, "members", me.name))
    _tell(api, name, text, as_json)


def _found(api: ServerApi, name: str) -> OrganisationInfo:
    return api.request("GET", api_path("organisations", name), OrganisationInfo)


def _tell(api: ServerApi, name: str, text: str, as_json: bool) -> None:
    """Print what was done, or who is in the organisation now."""
    if as_json:
        print_json(_found(api, name))
    else:
        tell(text)
