"""Servers as processes, as people start them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.registry.places.store import PATIENCE, free_port


class ServedProcess:
    """A process of ``modpkg registry serve``."""

    def __init__(self, storage: Path, *options: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "modpkg", "registry", "serve", str(storage)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    def wait(self) -> httpx.Client:
        """Return a client, when it answers."""
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)
        until = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > until or self.process.poll() is not None:
                raise TimeoutError(self.end(signal.SIGKILL)[1])
            time.sleep(0.05)
        return self.client

    def _answers(self) -> bool:
        try:
            return self.client.get("/registry.json").status_code == 200
        except httpx.TransportError:
            return False

    def end(self, sign: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it, and return its status and what it wrote."""
        if sign == signal.SIGKILL:
            os.killpg(self.process.pid, sign)
        else:
            self.process.send_signal(sign)
        text, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, text.decode()


@contextmanager
def served(storage: Path, *options: str) -> Iterator[ServedProcess]:
    """Give a process of a server."""
    process = ServedProcess(storage, *options)
    try:
        yield process
    finally:
        process.client.close()
        if process.process.poll() is None:
            process.end(signal.SIGKILL)
