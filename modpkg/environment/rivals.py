"""A name that several configured registries have, and that nothing assigns to one of them.

Where a name of a private registry is also in a public one, the public one's may be anybody's. A
dependency that names no registry would come from the default one; it does so only if no other
configured registry has the name, or if the manifest or the lock say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from modpkg.core.errors import ModpkgError, RegistryError
from modpkg.environment.inherited import contested_error
from modpkg.manifest.dependencies import DEFAULT
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.mutable_files import NOT_KEPT
from modpkg.registry.reader import Registry


class Rivals:
    """The configured registries beside the default one.

    Args:
        default: The default registry.
        others: The others, by alias.
        warn: Called with a message for a registry that cannot be asked.
    """

    def __init__(
        self,
        default: Registry,
        others: Mapping[str, Registry],
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._default = default
        self.others = others
        """By alias."""
        self._warn = warn

    def of(self, name: str) -> str | None:
        """Return the alias of another registry that has a name; None if there is none."""
        return next((alias for alias in self.others if self._has(alias, name)), None)

    def contested(self, names: Iterable[str], why: Mapping[str, str]) -> dict[str, RegistryError]:
        """Return the error of each name that the default registry and another one have.

        Args:
            names: Names that come from the default registry for want of another.
            why: Where it is known, who asks for a name, as a predicate.
        """
        wanted = list(names)
        if not self.others or not wanted:
            return {}
        self._prefetch(wanted, (self._default, *self.others.values()))
        errors = {}
        for name in wanted:
            alias = self.of(name)
            if alias is None or not self._default_has(name):
                continue
            asked = why.get(name, "is asked for without a registry")
            both = f"{asked}, and both {self._default.shown} and {self.others[alias].shown} have it"
            errors[name] = contested_error(name, both, (DEFAULT, alias))
        return errors

    def settled(self, names: Sequence[str], asked: Collection[str]) -> dict[str, str]:
        """Return which other registry has a name too, for names that the lock keeps.

        Only registries in folders and those of the aliases ``asked``, which are needed anyway, are
        looked at: one that is down must not hold up what is settled.
        """
        near = [a for a, one in self.others.items() if one.folder is not None or a in asked]
        self._prefetch(names, [self.others[alias] for alias in near])
        found = {}
        for name in names:
            for alias in near:
                with suppress(ModpkgError):
                    if self.others[alias].knows(name):
                        found[name] = alias
        return found

    def _has(self, alias: str, name: str) -> bool:
        try:
            return self.others[alias].knows(name)
        except ModpkgError as error:
            self._tell(alias, error)
            return False

    def _default_has(self, name: str) -> bool:
        try:
            return self._default.knows(name)
        except ModpkgError:
            return False  # the resolver tells it

    def _prefetch(self, names: Iterable[str], registries: Iterable[Registry]) -> None:
        remote = [one for one in registries if one.folder is None]
        if remote:
            with fetch_pool() as pool:
                for name in names:
                    for registry in remote:
                        registry.prefetch(name, pool)

    def _tell(self, alias: str, error: ModpkgError) -> None:
        if self._warn is not None and error.code not in NOT_KEPT:  # it was not asked for
            self._warn(
                f"the registry {alias!r} could not be asked whether it has modules of the same "
                f"names too: {error}"
            )
