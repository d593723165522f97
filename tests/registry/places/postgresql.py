"""PostgreSQL: a server in a folder of its own, with as many databases as tests want."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg

from tests.registry.places.store import PATIENCE, LoopbackServer, runs
from tests.registry.places.unpacked import find_program

USER = "modpkg"
NOBODY = 65534
# PostgreSQL refuses to run as root. The capability lets it pass folders that are root's alone.
_AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "off",  # the machine itself is not killed
    "shared_buffers": "32MB",
    "jit": "off",
}


class PostgreSQL(LoopbackServer):
    """Debian's PostgreSQL. Anybody on this machine may log in."""

    name = "postgresql"

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database, and return its address."""
        name = f"test_{secrets.token_hex(6)}"
        with self._connected() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.url(name)

    def start(self, folder: Path, owner: int) -> list[int]:
        data = folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        initdb, variables = find_program("initdb", "postgresql")
        if os.geteuid() == 0:
            os.chown(data, NOBODY, NOBODY)
        if not (data / "PG_VERSION").exists():
            options = ("--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C")
            command = [*_prefix(), initdb, f"--pgdata={data}", "--no-sync", *options]
            _done(command, variables)
        (data / "postmaster.pid").unlink(missing_ok=True)  # of one that was killed
        program, variables = find_program("postgres", "postgresql")
        settings = [part for key, value in _SETTINGS.items() for part in ("-c", f"{key}={value}")]
        command = [*_prefix(), program, "-D", str(data), "-p", str(self.port), *settings]
        return [self.run(command, folder, owner, variables)]

    def await_answer(self, folder: Path, groups: Sequence[int]) -> None:
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends and all(map(runs, groups)):
            with contextlib.suppress(psycopg.OperationalError), self._connected():
                return
            time.sleep(0.05)
        output = (folder / "output.txt").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} did not start.\n{output}")

    def _connected(self) -> psycopg.Connection:
        address = f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"
        return psycopg.connect(address, autocommit=True, connect_timeout=10)


def _prefix() -> Sequence[str]:
    return _AS_NOBODY if os.geteuid() == 0 else ()


def _done(command: Sequence[str], variables: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, (command, done.stderr)
