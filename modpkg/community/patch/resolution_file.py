"""Resolution files: what is to become of each tensor and file that parents are at odds over.

    [tensors]
    "model.layers.3.*" = "ours"
    "*.bias" = "mean"

    [files]
    "generation_config.json" = "theirs"

The first entry that fits holds. Every entry has to name a conflict.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import tomli
from msgspec import Struct

from modpkg.core.errors import PatchError

Choice = Literal["base", "mean"] | int
"""What is taken: the base's, the mean, or that of a parent, by its place."""
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
        """Return the choice for each conflict that an entry names.

        ``parents`` are the parents' names as modules. ``known`` are all names there are.

        Raises:
            PatchError: an entry names nothing that is known, or no conflict, or no choice.
        """
        found: dict[str, Choice] = {}
        for pattern, word in getattr(self, table).items():
            side = self._side(pattern, word, parents, table)
            fitting = [name for name in conflicts if fnmatchcase(name, pattern)]
            if not fitting:
                there = any(fnmatchcase(name, pattern) for name in known)
                reason = (
                    "names no conflict: the parents are not at odds there; take the line out"
                    if there
                    else f"names no {table[:-1]} that there is; mend its name or take it out"
                )
                raise PatchError("M741", path=self.path, entry=pattern, reason=reason)
            for name in fitting:
                found.setdefault(name, side)
        return found

    def _side(self, entry: str, word: str, parents: Sequence[str | None], table: str) -> Choice:
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
    """Return what a resolution file says.

    Raises:
        PatchError: it is not TOML, or has something else in it than those two tables of words.
        PatchError: it is not there.
    """
    try:
        document = tomli.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise PatchError("M742", what=path, reason="there is no such resolution file") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
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
                    'has to be a word: "ours", "theirs", "mean" or "base"; quote names with dots'
                )
                raise PatchError("M741", path=path, entry=entry, reason=reason)
    return Choices(path, document.get("tensors", {}), document.get("files", {}))
