"""Files that are asked for because something that is not verified yet names them.

Nothing depends on them: they are few and small, nobody waits for them but who needs them, and what
cannot be read is asked for again then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from modpkg.core.errors import ModpkgError
from modpkg.registry.source import FileMissing

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

T = TypeVar("T")


class HintedFiles(Generic[T]):
    """What was asked for ahead of one registry, by one command."""

    def __init__(self) -> None:
        self._begun: dict[str, Future[T]] = {}
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, path: str, read: Callable[[], T], pool: Executor, most: int) -> None:
        """Begin to read a file, unless it was begun, or ``most`` were.

        Raises:
            RuntimeError: The pool was shut down.
        """
        with self._lock:
            if path in self._names or len(self._names) >= most:
                return
            self._names.add(path)
            self._begun[path] = pool.submit(read)

    def take(self, path: str) -> T | None:
        """Return what was read; None if it has to be asked for now."""
        with self._lock:
            hinted = self._begun.pop(path, None)
        if hinted is not None and not hinted.cancel():  # what has not begun may never do
            with suppress(FileMissing, ModpkgError, RuntimeError):  # that its pool was shut down
                return hinted.result()
        return None
