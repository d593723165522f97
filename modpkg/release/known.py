"""What a registry has of a build's tensors, and what the others can be decoded on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from modpkg.core.records import TensorEntry
from modpkg.core.tensors import TensorIdentity, identity_of, type_of
from modpkg.release.places import MAX_CHAIN, chain_of


class Known(Protocol):
    """The tensors of the registry that a build is meant for."""

    def find(self, key: TensorIdentity) -> TensorEntry | None:
        """Return where a tensor lies, decoded on as few others as can be; None if nowhere."""
        ...

    def earlier(
        self, provides: str | None, keys: Mapping[str, TensorIdentity]
    ) -> Mapping[str, TensorEntry]:
        """Return, by name, the tensors of the release that this build comes after."""
        ...

    def size(self, pack: str) -> int:
        """Return the length of a pack in which a tensor lies that was found."""
        ...

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        """Return the bytes of a tensor that was found, decoded and verified."""
        ...


class Holdings:
    """Which of a build's tensors are known, and where all that it refers to lies."""

    def __init__(self, keys: Mapping[str, TensorIdentity], known: Known | None) -> None:
        self._known = known
        self._kinds: dict[str, set[TensorIdentity]] = {}
        for key in keys.values():
            self._kinds.setdefault(key.digest, set()).add(key)
        self.places: dict[TensorIdentity, TensorEntry] = {}
        """Of the build's tensors, those that are known."""
        self.missing: dict[TensorIdentity, str] = {}
        """The others, with the first of their names."""
        for name, key in keys.items():
            if key in self.places or key in self.missing:
                continue
            if (entry := self._find(key)) is not None and self._usable(entry):
                self.places[key] = entry
            else:
                self.missing[key] = name

    def _find(self, key: TensorIdentity) -> TensorEntry | None:
        return None if self._known is None else self._known.find(key)

    def _usable(self, entry: TensorEntry) -> bool:
        """Say whether a record may refer to the tensor: its chain is there and unambiguous."""
        try:
            chain = chain_of(entry, self._find)
        except ValueError:
            return False
        return not chain or self._unambiguous(entry, *chain)

    def _unambiguous(self, *entries: TensorEntry) -> bool:
        """Say whether no tensor of the build has these bytes with another dtype or shape.

        A digest alone has to say how to get a tensor, so such ones are plain in one record.
        """
        keys = map(identity_of, entries)
        return all(self._kinds.get(key.digest, {key}) == {key} for key in keys)

    def bases(
        self,
        provides: str | None,
        keys: Mapping[str, TensorIdentity],
        patched: Mapping[str, TensorEntry],
    ) -> dict[TensorIdentity, TensorEntry]:
        """Return, for missing tensors that have an earlier form, what to encode them on.

        It is the tensor of this name, dtype and shape in the earlier release, or else in
        ``patched``; where that one's own chain is as long as can be, the tensor at its end.
        """
        if self._known is None or not self.missing:
            return {}
        earlier = {**patched, **self._known.earlier(provides, keys)}
        found: dict[TensorIdentity, TensorEntry] = {}
        for name, key in keys.items():
            if name not in earlier or key in found or key not in self.missing:
                continue
            base = self._find(identity_of(earlier[name]))
            if base is None or type_of(base) != key.type or self._kinds[key.digest] != {key}:
                continue
            if self._usable(base) and self._unambiguous(base):
                chain = chain_of(base, self._find)
                found[key] = base if len(chain) < MAX_CHAIN else chain[-1]
        return found

    def sources(self, table: Mapping[TensorIdentity, TensorEntry]) -> dict[str, TensorEntry]:
        """Return, by digest, what the tensors of ``table`` are decoded on and it does not have."""

        def find(key: TensorIdentity) -> TensorEntry | None:
            return table.get(key) or self._find(key)

        chains = (chain_of(entry, find) for entry in table.values())
        found = {identity_of(earlier): earlier for chain in chains for earlier in chain}
        return {key.digest: found[key] for key in sorted(found) if key not in table}

    def sizes(self, packs: Iterable[str]) -> dict[str, int]:
        """Return the lengths of packs that the registry has."""
        return {} if self._known is None else {pack: self._known.size(pack) for pack in packs}

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        """Return the bytes of a tensor that `bases` gave."""
        if self._known is None:
            raise AssertionError("no base without a registry")
        return self._known.read(entry, what)
