"""Executors by address: composing on a cluster instead of in this process."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator

from modpkg.core.errors import ComposeError
from modpkg.core.extras import import_extra

CONNECT_TIMEOUT = 10.0
"""Seconds that a scheduler may take to answer."""
SCHEMES = ("dask://",)


@contextlib.contextmanager
def open_executor(address: str | None) -> Iterator[concurrent.futures.Executor | None]:
    """Yield an executor that `modpkg.compose.executor.compose` can use; None for None.

    ``dask://HOST:PORT`` is a Dask scheduler. Its workers need modpkg and torch, and must see the
    store under the same path as this machine.

    Raises:
        ComposeError: The address has another scheme, or the scheduler cannot be reached.
        MissingExtra: Distributed is not installed.
    """
    if address is None:
        yield None
        return
    if not address.startswith(SCHEMES):
        raise ComposeError(
            "M621",
            address=address,
            reason="only Dask schedulers are supported, such as dask://127.0.0.1:8786",
        )
    distributed = import_extra("distributed", what="A Dask cluster", extra="dask")
    try:
        client = distributed.Client(
            f"tcp://{address.removeprefix('dask://')}", timeout=CONNECT_TIMEOUT
        )
    except (OSError, ValueError, TimeoutError) as error:
        raise ComposeError(
            "M621", address=address, reason=f"the scheduler cannot be reached ({error})"
        ) from None
    with client, client.get_executor(pure=False) as executor:
        yield executor
