"""What ``add`` and ``install`` are to add: requirements, and models of a hub."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from modpkg.cli.options import name_of
from modpkg.core.errors import UsageError
from modpkg.core.hub_address import is_hub_address, parse_hub_address
from modpkg.core.names import ModuleName, Requirement, parse_requirement
from modpkg.manifest.schema import HubModel


class Added(Struct, frozen=True):
    """What the arguments of a command name."""

    requirements: list[Requirement]
    of_hub: dict[ModuleName, HubModel]


def added(texts: Sequence[str], name: str | None = None, against: str | None = None) -> Added:
    """Return what is to be added.

    Args:
        texts: Each a requirement, or ``hf://ORG/NAME[@REVISION]``.
        name: The name of the one model of a hub; by default that of its repository.
        against: What it was trained on, if it is an adapter.

    Raises:
        InvalidValue, RegistryError: One is neither.
        UsageError: ``name`` or ``against`` is given, and not one model of a hub; or two get a name.
    """
    addresses = [parse_hub_address(text) for text in texts if is_hub_address(text)]
    if (name is not None or against is not None) and len(addresses) != 1:
        raise UsageError(
            "M901", message="--name and --against are for one model of a hub (hf://…)."
        )
    of_hub: dict[ModuleName, HubModel] = {}
    for address in addresses:
        chosen = name_of(name, address.name)
        if chosen in of_hub:
            message = f"two models would be called {chosen}; add one of them alone, with --name."
            raise UsageError("M901", message=message)
        of_hub[chosen] = HubModel(address, against)
    return Added([parse_requirement(text) for text in texts if not is_hub_address(text)], of_hub)
