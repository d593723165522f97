"""A process that publishes a release and ends before a step, as one that is killed does.

usage: python -m registry_spec.interrupted_publisher ADDRESS TREE STEP
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from modpkg.core import bounds
from modpkg.registry.opening import open_place
from modpkg.registry.place import Blob, Place, Progress, RegistryChange, T
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from registry_spec.publishers import KILLED


class _InterruptedChange:
    """A change whose steps are counted, each blob and each file one."""

    def __init__(self, change: RegistryChange, step: Callable[[], None]) -> None:
        self._change = change
        self._step = step

    def read(self, path: str, most: int = bounds.SMALL_FILE_BYTES) -> bytes | None:
        return self._change.read(path, most)

    def add(self, blobs: Sequence[Blob], progress: Progress | None = None) -> int:
        size = 0
        for blob in blobs:
            self._step()
            size += self._change.add([blob], progress)
        return size

    def replace(self, path: str, data: bytes) -> None:
        self._step()
        self._change.replace(path, data)


class _InterruptedPlace:
    """A place; the process ends before a step of a change."""

    def __init__(self, place: Place, steps: int) -> None:
        self._place = place
        self._left = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def change(self, edit: Callable[[RegistryChange], T]) -> T:
        return self._place.change(lambda change: edit(_InterruptedChange(change, self._step)))

    def _step(self) -> None:
        if self._left == 0:
            os._exit(KILLED)  # nothing is tidied, as after SIGKILL
        self._left -= 1


def publish(address: str, tree: str, steps: int) -> None:
    """Publish the release of a tree; the process ends after so many steps."""
    built = Registry(tree)
    (line,) = (line for name in built.names() or () for line in built.index(name))
    place: Any = _InterruptedPlace(open_place(address), steps)
    RegistryWriter(place, "conformance").publish(built, line)


if __name__ == "__main__":
    publish(sys.argv[1], sys.argv[2], int(sys.argv[3]))
