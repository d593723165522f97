"""A server in a process of its own, as people run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from modpkg.server.settings import ServerSettings
from modpkg.server.state import Server
from tests.registry.places.store import PATIENCE, ROOT, free_port
from tests.server.conftest import token_for


class ServerProcess:
    """`modpkg registry serve`, which can be killed and started again."""

    def __init__(
        self,
        storage: str,
        output: Path,
        *,
        database: str | None = None,
        workers: int = 1,
        config: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.storage = storage
        self.database = database
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = output
        self._workers = workers
        self._config = config
        self._environment = os.environ | environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: It does not.
        """
        command = [sys.executable, "-m", "modpkg", "registry", "serve", self.storage]
        command += ["--port", str(self.port), "--name", "served", "--workers", str(self._workers)]
        if self.database is not None:
            command += ["--database", self.database]
        if self._config is not None:
            command += ["--config", str(self._config)]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(0.05)
        self.kill()
        raise RuntimeError(f"The server did not start.\n{self.output()[-3000:]}")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/registry.json", timeout=10).close()
        except OSError as error:
            return isinstance(error, urllib.error.HTTPError)
        return True

    def output(self) -> str:
        """Return what it wrote."""
        return self._output.read_text(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it and its workers."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self._process.pid, number)
            self._process.wait(PATIENCE)
            self._process = None

    def token(self, name: str = "somebody") -> str:
        """Make a person with a token for everything, and return it."""
        state = Server(ServerSettings(storage=self.storage, database=self.database))
        try:
            return token_for(state, name)
        finally:
            state.close()


@contextmanager
def server_process(
    storage: str,
    folder: Path,
    *,
    database: str | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[ServerProcess]:
    """Run a server on a storage until the block ends; what it writes lies in a folder."""
    server = ServerProcess(
        storage, folder / "server.txt", database=database, environment=environment
    )
    server.start()
    try:
        yield server
    finally:
        server.kill()
