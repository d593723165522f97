"""How old a registry's releases have to be before they are locked, where no manifest says."""

from __future__ import annotations

from modpkg.manifest.cutoff import Cutoff, parse_cutoff
from modpkg.registry.reader import Registry


def cool_down_of(registry: Registry) -> Cutoff | None:
    """Return how old a registry's releases have to be to be locked, as a span; None for any age.

    Raises:
        NotFound, RegistryError, RecordError: There is no registry, or it cannot be read.
    """
    text = registry.info.cool_down
    return None if text is None else parse_cutoff(text.strip())
