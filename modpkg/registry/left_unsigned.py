"""What is left to do where somebody without its key wrote the index of a signed registry."""

from __future__ import annotations

from modpkg.core import system
from modpkg.registry.place import Place, registry_at
from modpkg.registry.server_place import ServerPlace


def left_unsigned(place: Place, module: str | None = None) -> str | None:
    """Return what is left to do after the index at a place was changed; None if nothing is.

    Its readers refuse what is not signed yet: of a module, all of its index file, with the releases
    that were there before. A server signs by itself.

    Raises:
        RegistryUnreachable, RegistryError: ``registry.json`` cannot be read.
    """
    if isinstance(place, ServerPlace) or registry_at(place).info.tuf is None:
        return None
    what = "reads what was changed" if module is None else f"locks any release of {module}"
    return (
        f"the index of {place.url} is signed, and nobody {what} until its maintainers run: "
        f"modpkg registry trust sign {system.shell_word(place.url)} --online-key KEY"
    )
