"""``owner``: who owns, maintains and reviews a module of a registry that is served."""

from __future__ import annotations

from typing import get_args

import click

from modpkg.cli.module_names import known_names
from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import a_role, good, print_json, say, strong, table, tell
from modpkg.core.names import module_name
from modpkg.registry.account_client import registry_api
from modpkg.registry.api_records import (
    ModuleOwners,
    ModuleRole,
    OfferedRole,
    OfferList,
    RoleRequest,
    TransferRequest,
)
from modpkg.registry.server_api import ServerApi, api_path

_module = click.argument("name", shell_complete=known_names)
_account = click.argument("account")


@click.group("owner")
def owner_command() -> None:
    """Show and change who owns, maintains and reviews a module of a registry that is served.

    An owner decides who else does, a maintainer publishes, a reviewer approves candidates; each is
    a person or an organisation.
    """


def _owners(api: ServerApi, name: str) -> ModuleOwners:
    return api.request("GET", api_path("modules", module_name(name), "owners"), ModuleOwners)


@owner_command.command("list")
@_module
@registry_option
@json_option
def list_owners(name: str, registry: str | None, as_json: bool) -> None:
    """Show who has which role for the module NAME."""
    owners = _owners(registry_api(registry), name)
    if as_json:
        print_json(owners)
        return
    kinds = {True: "organisation", False: "person"}
    rows = [[one.name, one.role, kinds[one.organisation]] for one in owners.holders]
    rows += [[one.name, f"{one.role} (invited)", kinds[one.organisation]] for one in owners.invited]
    table(rows, ["Name", "Role", "Is a"])
    if owners.transfer is not None:
        offer = owners.transfer
        say(f"{offer.by} offers it to {strong(offer.to)}, since {offer.offered[:10]}.")


@owner_command.command("add")
@_module
@_account
@click.option(
    "--role",
    type=click.Choice(get_args(ModuleRole)),
    default="maintainer",
    show_default=True,
    help="What ACCOUNT is from then on.",
)
@registry_option
@json_option
def add_owner(
    name: str, account: str, role: ModuleRole, registry: str | None, as_json: bool
) -> None:
    """Offer ACCOUNT a role for the module NAME, or give it another one than it has."""
    api = registry_api(registry)
    api.check_login(f"change who maintains {name}")
    path = api_path("modules", module_name(name), "owners", account)
    changed = api.request("PUT", path, ModuleOwners, RoleRequest(role))
    if as_json:
        print_json(changed)
    elif any(one.name == module_name(account) for one in changed.invited):
        tell(f"{good('Invited')} {account} as {a_role(role)} of {name}.")
        tell(f"{account} accepts with: modpkg owner accept {name}")
    else:
        tell(f"{account} is {a_role(role)} of {name} now.")


@owner_command.command("remove")
@_module
@_account
@registry_option
@json_option
def remove_owner(name: str, account: str, registry: str | None, as_json: bool) -> None:
    """Take the role of ACCOUNT for the module NAME away, or the offer; its last owner stays."""
    api = registry_api(registry)
    api.check_login(f"change who maintains {name}")
    api.send("DELETE", api_path("modules", module_name(name), "owners", account))
    _tell(api, name, f"{good('Removed')} {account} from {name}.", as_json)


@owner_command.command("transfer")
@_module
@_account
@registry_option
@json_option
def transfer_module(name: str, account: str, registry: str | None, as_json: bool) -> None:
    """Offer the module NAME to ACCOUNT, which becomes its owner when it accepts."""
    api = registry_api(registry)
    api.check_login(f"transfer {name}")
    path = api_path("modules", module_name(name), "transfer")
    api.send("POST", path, TransferRequest(account))
    then = f"{account} accepts with: modpkg owner accept {name}"
    _tell(api, name, f"{good('Offered')} {name} to {account}.\n{then}", as_json)


@owner_command.command("accept")
@_module
@registry_option
@json_option
def accept_module(name: str, registry: str | None, as_json: bool) -> None:
    """Accept the module NAME, or a role for it, which was offered to you."""
    api = registry_api(registry)
    api.check_login(f"accept {name}")
    own = api_path("modules", module_name(name))
    roles = _offered_roles(api, name)
    for one in roles:
        api.send("POST", f"{own}/{api_path('owners', one.to, 'accept')}")
    if not roles:
        api.send("POST", f"{own}/transfer/accept")
    lines = [f"{one.to} is {a_role(one.role)} of {name} now." for one in roles]
    _tell(api, name, "\n".join(lines) or f"{good('Accepted')} {name}.", as_json)


def _offered_roles(api: ServerApi, name: str) -> list[OfferedRole]:
    """Return the roles for a module that whoever asks is offered; none if it is offered itself."""
    offers, own = api.request("GET", "transfers", OfferList), module_name(name)
    if any(one.module == own for one in offers.transfers):
        return []
    return [one for one in offers.roles if one.module == own]


@owner_command.command("decline")
@_module
@registry_option
@json_option
def decline_module(name: str, registry: str | None, as_json: bool) -> None:
    """End an offer of the module NAME, as the one who made it or the one whom it was made.

    A role that is offered to you is declined too.
    """
    api = registry_api(registry)
    api.check_login(f"decline {name}")
    own = api_path("modules", module_name(name))
    roles = _offered_roles(api, name)
    for one in roles:
        api.send("DELETE", f"{own}/{api_path('owners', one.to)}")
    if not roles:
        api.send("DELETE", f"{own}/transfer")
    _tell(api, name, f"{good('Ended')} the offer of {name}.", as_json)


@owner_command.command("offers")
@registry_option
@json_option
def list_offers(registry: str | None, as_json: bool) -> None:
    """List the modules and roles that are offered to you, and the modules that you offer."""
    api = registry_api(registry)
    api.check_login("list offers")
    offers = api.request("GET", "transfers", OfferList)
    if as_json:
        print_json(offers)
        return
    rows = [[one.module, "all of it", one.by, one.to, one.offered[:10]] for one in offers.transfers]
    rows += [[one.module, one.role, one.by, one.to, one.offered[:10]] for one in offers.roles]
    table(rows, ["Module", "Offered", "From", "To", "Since"])


def _tell(api: ServerApi, name: str, text: str, as_json: bool) -> None:
    """Print what was done, or who has which role now."""
    if as_json:
        print_json(_owners(api, name))
        return
    for line in text.splitlines():
        tell(line)
