"""Rebuilding what follows from the storage: after a database was lost, or a storage was moved."""

from __future__ import annotations

from msgspec import Struct

from modpkg.registry.place import Place, is_registry, registry_at
from modpkg.registry.standing import without_removed
from modpkg.registry.upkeep import all_names
from modpkg.registry.writer import RegistryWriter
from modpkg.server.clock import now
from modpkg.server.private_publishing import note_release
from modpkg.server.state import Server
from modpkg.server.sweeping import sweep
from modpkg.server.tables import Module


class Rebuilt(Struct, frozen=True):
    """What was rebuilt."""

    modules: list[str]
    """Modules to which nobody had a right, and has none yet: an administrator names an owner."""
    swept: int
    """Sessions that had expired."""


def rebuild(server: Server) -> Rebuilt:
    """Write the list of modules, and give those rows that have none.

    Raises:
        What reading or writing the storage can raise.
    """
    made = _described(server, server.place, private=False)
    if server.private is not None and is_registry(server.private):
        made += _described(server, server.private, private=True)
    return Rebuilt(made, sweep(server))


def _described(server: Server, place: Place, *, private: bool) -> list[str]:
    """Write the list of modules of a place; return those that had no row, and have one now."""
    RegistryWriter(place).describe_all()
    registry = registry_at(place)
    lines = {name: registry.index(name) for name in all_names(registry)}
    with server.database.begin() as db:
        made = [name for name, found in lines.items() if found and db.get(Module, name) is None]
        db.add_all(Module(name=name, is_private=private, created=now()) for name in made)
    if private:
        for found in lines.values():
            for line in without_removed(found):
                note_release(server, registry, line)
    return made
