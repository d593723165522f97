"""What a server does beside answering: sweeping sessions, counting downloads, preparing pages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from modpkg.server.pages.ahead import prepare_candidates, prepare_module, prepare_pages
from modpkg.server.signing import sign_again
from modpkg.server.state import Server
from modpkg.server.sweeping import sweep

COUNTS_SECONDS = 30.0
"""Between two times that counts are written."""
SWEEP_SECONDS = 600.0
"""Between two sweeps, the first of which is at the start."""
LOOK_SECONDS = 3600.0
"""Between two times that all signed metadata is looked through, the first of which is at the start.
"""
_log = logging.getLogger(__name__)


class Chores:
    """A thread that does them; what fails is done again the next time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin with them."""
        self._ends.clear()
        self._thread = threading.Thread(target=self._run, name="modpkg-chores", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, when what is under way is done, and write what is not written."""
        self._ends.set()
        self._server.changed.wake()
        if self._thread is not None:
            self._thread.join()
        self._do("downloads", self._server.downloads.write)

    def _run(self) -> None:
        swept = looked = -LOOK_SECONDS
        prepared: set[str] = set()
        while True:
            if time.monotonic() - swept >= SWEEP_SECONDS:
                swept = time.monotonic()
                self._do("sweep", lambda: sweep(self._server))
            if (metadata := self._server.metadata) is not None:
                is_due = time.monotonic() - looked >= LOOK_SECONDS
                looked = time.monotonic() if is_due else looked
                self._do("metadata", partial(sign_again, metadata, thoroughly=is_due))
            self._do("pages", lambda: prepare_pages(self._server.catalogue, prepared))
            self._prepare_changed(prepared)
            if self._ends.is_set():
                return
            self._do("downloads", self._server.downloads.write)

    def _prepare_changed(self, prepared: set[str]) -> None:
        """Prepare the pages of what is published, as it comes, until counts are written."""
        catalogue = self._server.catalogue
        until = time.monotonic() + COUNTS_SECONDS
        while not self._ends.is_set() and (left := until - time.monotonic()) > 0:
            names = self._server.changed.wait(left)
            if names and self._ends.wait(catalogue.lag):
                return
            for name in names:
                self._do("pages", partial(prepare_module, catalogue, name, prepared))
                self._do("pages", partial(prepare_candidates, catalogue, name))

    def _do(self, what: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:  # a database or disk that is away for a while
            _log.exception("chore failed: %s", what)
