"""Whether a server is alive, whether it can serve, and what it counts: for who looks after it."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import anyio.to_thread
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Struct
from sqlalchemy import func, select, text

from modpkg.core import bounds
from modpkg.core.errors import AccessRefused
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.server.callers import Caller
from modpkg.server.metrics import CONTENT_TYPE
from modpkg.server.request_log import log_failure
from modpkg.server.state import Server
from modpkg.server.tables import Account, Module, PublishingSession, SessionBlob

SECONDS = 5
"""How long the database or the storage may take to answer."""
KEPT_SECONDS = 1
"""For how long an answer is given again: anybody may ask, and each asks the database."""


class Readiness(Struct, frozen=True):
    """Whether a server can serve: each part is ``ok`` or ``failed``."""

    database: str
    storage: str
    migrations: str
    """Whether the tables are those that this version of modpkg needs."""

    @property
    def is_ready(self) -> bool:
        """Return whether all of it is."""
        return {self.database, self.storage, self.migrations} == {"ok"}


@get("/healthz", sync_to_thread=False)
def healthz() -> str:
    """Return that the process answers."""
    return "ok"


class ReadinessProbe:
    """Looks whether a server can serve, at most once a second."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._found: tuple[float, Readiness] | None = None
        self._lock = anyio.Lock()

    async def look(self) -> Readiness:
        """Return whether it can."""
        async with self._lock:
            if self._found is None or time.monotonic() - self._found[0] > KEPT_SECONDS:
                found = Readiness(
                    database=await _try(self._ask_database),
                    storage=await _try(self._read_storage),
                    migrations=await _try(self._server.database.check_upgraded),
                )
                self._found = time.monotonic(), found
            return self._found[1]

    def _ask_database(self) -> None:
        with self._server.database.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def _read_storage(self) -> None:
        self._server.place.source.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)


async def _try(step: Callable[[], None]) -> str:
    try:
        with anyio.fail_after(SECONDS):
            await anyio.to_thread.run_sync(step, abandon_on_cancel=True)
    except Exception as error:
        log_failure(error, readiness=step.__name__.lstrip("_"))
        return "failed"
    return "ok"


@get("/readyz")
async def readyz(readiness: NamedDependency[ReadinessProbe]) -> Response[Readiness]:
    """Return whether database, tables and storage can be used; status 503 if any cannot."""
    found = await readiness.look()
    headers = {"Cache-Control": "no-store"}
    return Response(found, status_code=200 if found.is_ready else 503, headers=headers)


@get("/metrics", sync_to_thread=True)
def metrics(server: NamedDependency[Server], caller: NamedDependency[Caller]) -> Response[bytes]:
    """Return what the server counts, in the format of Prometheus, to administrators."""
    if not caller.is_known:
        raise AccessRefused("M431", action="read", module="the metrics")
    if not caller.is_administrator or "read" not in caller.actions:
        raise AccessRefused("M432", name=caller.name, action="read", module="the metrics")
    return Response(server.metrics.text(), media_type=CONTENT_TYPE)


def ask_of_database(server: Server) -> None:
    """Add the figures that the database knows to the metrics."""

    def counted(query: object) -> Callable[[], float]:
        def count() -> float:
            with server.database.engine.connect() as connection:
                return float(connection.execute(query).scalar() or 0)  # type: ignore[call-overload]

        return count

    is_open = PublishingSession.state == "open"
    sizes = select(func.sum(SessionBlob.size)).join(
        PublishingSession, PublishingSession.id == SessionBlob.session_id
    )
    for name, about, query in (
        ("accounts", "People and organisations.", select(func.count()).select_from(Account)),
        ("modules", "Modules with rights.", select(func.count()).select_from(Module)),
        (
            "open_sessions",
            "Publishing sessions that are not committed.",
            select(func.count()).select_from(PublishingSession).where(is_open),
        ),
        ("open_session_bytes", "Bytes that these have declared.", sizes.where(is_open)),
    ):
        server.metrics.ask(name, about, counted(query))


ROUTES = [healthz, readyz, metrics]
