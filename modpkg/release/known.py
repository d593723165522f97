"""Tensors of a build that a registry already has, and bases to encode the others on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from modpkg.core.bounds import DELTA_CHAIN
from modpkg.core.records import TensorEntry
from modpkg.core.tensors import TensorIdentity, identity_of, type_of
from modpkg.release.places import chain_of


class Known(Protocol):
    """The tensors of the registry that a build is made for."""

    def find(self, key: TensorIdentity) -> TensorEntry | None:
        """Return the entry of a tensor with the shortest chain; None if the registry lacks it."""
        ...

    def earlier(
        self, provides: str | None, keys: Mapping[str, TensorIdentity]
    ) -> Mapping[str, TensorEntry]:
        """Return, by name, the tensors of the release before this build."""
        ...

    def size(self, pack: str) -> int:
        """Return the length of a pack that has a tensor that was found."""
        ...

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        """Return the bytes of a tensor that was found, decoded and verified."""
        ...


class Holdings:
    """The known and the missing tensors of a build, and the entries it refers to."""

    def __init__(self, keys: Mapping[str, TensorIdentity], known: Known | None) -> None:
        self._known = known
        self._found: dict[TensorIdentity, TensorEntry | None] = {}
        self._kinds: dict[str, set[TensorIdentity]] = {}
        for key in keys.values():
            self._kinds.setdefault(key.digest, set()).add(key)
        self.places: dict[TensorIdentity, TensorEntry] = {}
        """Entries of the build's tensors that the registry has."""
        self.missing: dict[TensorIdentity, str] = {}
        """The others, with the first name of each."""
        for name, key in keys.items():
            if key in self.places or key in self.missing:
                continue
            if (entry := self._find(key)) is not None and self._usable(entry):
                self.places[key] = entry
            else:
                self.missing[key] = name

    def _find(self, key: TensorIdentity) -> TensorEntry | None:
        if self._known is None:
            return None
        if key not in self._found:
            self._found[key] = self._known.find(key)
        return self._found[key]

    def _usable(self, entry: TensorEntry) -> bool:
        """Return whether a record may refer to it: its chain is complete, and unambiguous."""
        try:
            chain = chain_of(entry, self._find)
        except ValueError:
            return False
        return not chain or self._unambiguous(entry, *chain)

    def _unambiguous(self, *entries: TensorEntry) -> bool:
        """Return whether no tensor of the build has these bytes with another dtype or shape.

        In one record a digest alone determines the encoding, so such tensors stay plain.
        """
        keys = map(identity_of, entries)
        return all(self._kinds.get(key.digest, {key}) == {key} for key in keys)

    def bases(
        self,
        provides: str | None,
        keys: Mapping[str, TensorIdentity],
        patched: Mapping[str, TensorEntry],
    ) -> dict[TensorIdentity, TensorEntry]:
        """Return, for missing tensors with an earlier form, the entry to encode them on.

        It is the tensor of the same name, dtype and shape in the earlier release, or else in
        ``patched``; if its chain has the maximum length, the tensor at its end.
        """
        if self._known is None or not self.missing:
            return {}
        earlier = {**patched, **self._known.earlier(provides, keys)}
        bases: dict[TensorIdentity, TensorEntry] = {}
        for name, key in keys.items():
            if name not in earlier or key in bases or key not in self.missing:
                continue
            base = self._find(identity_of(earlier[name]))
            if base is None or type_of(base) != key.type or self._kinds[key.digest] != {key}:
                continue
            if self._usable(base) and self._unambiguous(base):
                chain = chain_of(base, self._find)
                bases[key] = base if len(chain) < DELTA_CHAIN else chain[-1]
        return bases

    def sources(self, table: Mapping[TensorIdentity, TensorEntry]) -> dict[str, TensorEntry]:
        """Return, by digest, the tensors outside of ``table`` that its tensors are decoded on."""

        def find(key: TensorIdentity) -> TensorEntry | None:
            return table.get(key) or self._find(key)

        chains = (chain_of(entry, find) for entry in table.values())
        sources = {identity_of(earlier): earlier for chain in chains for earlier in chain}
        return {key.digest: sources[key] for key in sorted(sources) if key not in table}

    def sizes(self, packs: Iterable[str]) -> dict[str, int]:
        """Return the lengths of packs that the registry has."""
        return {} if self._known is None else {pack: self._known.size(pack) for pack in packs}

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        """Return the bytes of a tensor that `bases` returned."""
        if self._known is None:
            raise AssertionError("no base without a registry")
        return self._known.read(entry, what)
