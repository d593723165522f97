"""Making anew what follows from the storage: after a database was lost, or a storage was moved."""

from __future__ import annotations

from msgspec import Struct

from modpkg.registry.upkeep import all_names
from modpkg.registry.writer import RegistryWriter
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.sweeping import sweep
from modpkg.server.tables import Module


class Rebuilt(Struct, frozen=True):
    """What was made anew."""

    modules: list[str]
    """Modules to which nobody had a right, and has none yet: an administrator names an owner."""
    swept: int
    """Sessions that had expired."""


def rebuild(server: Server) -> Rebuilt:
    """Write the list of modules, and give those rows that have none.

    Raises:
        What reading or writing the storage can raise.
    """
    RegistryWriter(server.place).describe_all()
    registry = server.registry()
    names = [name for name in all_names(registry) if registry.index(name)]
    with server.database.begin() as db:
        made = [name for name in names if db.get(Module, name) is None]
        db.add_all(Module(name=name, created=now()) for name in made)
    return Rebuilt(made, sweep(server))
