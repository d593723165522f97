"""numpy's matrix products: one thread each, where tensors or blocks of rows are the parallel work.

OpenBLAS, which numpy's wheels contain, splits even small products over all cores: its threads then
wait for each other, and products of several Python threads for one lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from modpkg.core.lazy_numpy import np

_FOLDERS = ("../numpy.libs", ".libs", ".dylibs")
"""Beside or in numpy's own folder, by platform."""
_SYMBOLS = (
    "scipy_openblas_{}_num_threads64_",
    "scipy_openblas_{}_num_threads",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@functools.cache
def _functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return the library's functions that get and set its number of threads; None without it."""
    folder = Path(np.__file__).parent
    for name in _FOLDERS:
        for path in sorted((folder / name).glob("*openblas*")):
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(str(path.resolve()))  # numpy has loaded it
                for symbol in _SYMBOLS:
                    with contextlib.suppress(AttributeError):
                        get = getattr(library, symbol.format("get"))
                        change = getattr(library, symbol.format("set"))
                        change.argtypes, change.restype = [ctypes.c_int], None
                        return get, change
    return None


_lock = threading.Lock()
_users = 0
_before = 0


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run a block with one thread per matrix product in this process, if numpy's library is known.

    Blocks may overlap: the number of threads is restored at the end of the last one.
    """
    global _users, _before
    functions = _functions()
    if functions is None:
        yield
        return
    get, change = functions
    with _lock:
        if not _users:
            _before = get()
            change(1)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                change(_before)
