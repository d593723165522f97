"""Resolution files: how to decide each tensor and file in conflict.

    [tensors]
    "model.layers.3.*" = "ours"
    "*.bias" = "mean"

    [files]
    "generation_config.json" = "theirs"

The first matching entry counts. Every entry has to match a conflict.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import tomli
from msgspec import Struct

from modpkg.core.errors import PatchError
from modpkg.core.regular_file import read_file

Choice = Literal["base", "mean"] | int
"""The base's, the mean, or a parent's, by its index."""
_WILD = frozenset("*?[")
_TABLES = ("tensors", "files")


class Choices(Struct, frozen=True):
    """A resolution file."""

    path: Path
    tensors: dict[str, str] = {}
    files: dict[str, str] = {}

    def resolve(
        self,
        table: Literal["tensors", "files"],
        conflicts: Collection[str],
        known: Collection[str],
        parents: Sequence[str | None],
    ) -> Mapping[str, Choice]:
        """Return the choice for each conflict that an entry matches.

        Args:
            table: Whether tensors or files are in conflict.
            conflicts: Names of the conflicts.
            known: Names of all tensors or files.
            parents: Names of the parents; None for one that is not a module.

        Raises:
            PatchError: An entry matches no conflict, or has no valid choice.
        """
        chosen: dict[str, Choice] = {}
        names = frozenset(conflicts)
        for pattern, word in getattr(self, table).items():
            choice = self._choice(pattern, word, parents, table)
            if pattern in names and _WILD.isdisjoint(pattern):
                matches = [pattern]
            else:
                matches = [name for name in conflicts if fnmatchcase(name, pattern)]
            if not matches:
                there = any(fnmatchcase(name, pattern) for name in known)
                reason = (
                    "names no conflict; remove the line"
                    if there
                    else f"names no existing {table[:-1]}; fix the name or remove the line"
                )
                raise PatchError("M741", path=self.path, entry=pattern, reason=reason)
            for name in matches:
                chosen.setdefault(name, choice)
        return chosen

    def _choice(self, entry: str, word: str, parents: Sequence[str | None], table: str) -> Choice:
        if word == "base":
            return "base"
        if word == "mean" and table == "tensors":
            return "mean"
        if word == "ours":
            return 0
        if word == "theirs" and len(parents) == 2:
            return 1
        if parents.count(word) == 1:
            return parents.index(word)
        names = [name for name in parents if name is not None and parents.count(name) == 1]
        words = ["ours", *["theirs"] * (len(parents) == 2), *["mean"] * (table == "tensors")]
        raise PatchError(
            "M741",
            path=self.path,
            entry=entry,
            reason=f"is {word!r}, and can be {', '.join([*words, 'base', *names])}",
        )


def read_choices(path: Path) -> Choices:
    """Read a resolution file.

    Raises:
        PatchError: There is no such file, it is not TOML, or it has anything but these two tables
            of strings.
    """
    try:
        document = tomli.loads(read_file(path).decode())
    except FileNotFoundError:
        raise PatchError("M742", what=path, reason="there is no such resolution file") from None
    except (ValueError, RecursionError) as error:
        raise PatchError(
            "M741", path=path, entry="the file", reason=f"is not TOML ({error})"
        ) from None
    for key, table in document.items():
        if key not in _TABLES or not isinstance(table, dict):
            reason = "is neither the table [tensors] nor [files]"
            raise PatchError("M741", path=path, entry=key, reason=reason)
        for entry, word in table.items():
            if not isinstance(word, str):
                reason = (
                    'has to be a string: "ours", "theirs", "mean" or "base"; quote names with dots'
                )
                raise PatchError("M741", path=path, entry=entry, reason=reason)
    return Choices(path, document.get("tensors", {}), document.get("files", {}))
