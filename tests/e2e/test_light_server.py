"""The server as its container has it: without torch, from the start to the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

from tests.documents import ROOT
from tests.e2e.environments import fresh_environment
from tests.registry.places.store import free_port
from tests.server.test_deploy import instructions, server_requirements


def test_the_command_of_the_container_runs_without_torch(tmp_path: Path) -> None:
    needed = server_requirements(tmp_path)
    light = ("--requirement", str(ROOT / "requirements-light.txt"), "--requirement", str(needed))
    commands = fresh_environment(tmp_path / "venv", *light)
    only, port = dict(instructions()), str(free_port())
    given = [*json.loads(only["ENTRYPOINT"])[1:], *json.loads(only["CMD"])]
    words = {"/var/lib/modpkg/registry": str(tmp_path / "registry"), "8420": port}
    command = [commands / "python", "-m", "modpkg", *(words.get(word, word) for word in given)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment |= {"MODPKG_HOME": str(tmp_path / "home")}
    check = json.loads(only["HEALTHCHECK"].partition(" CMD ")[2])
    check = [commands / "python", *check[1:-1], check[-1].replace("8420", port)]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment)
    try:
        until = time.monotonic() + 120
        while subprocess.run(check, env=environment, capture_output=True).returncode:
            assert time.monotonic() < until
            assert running.poll() is None
        page = urlopen(f"http://127.0.0.1:{port}/").read().decode()
        assert "</html>" in page
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 0
    finally:
        running.kill()
        running.wait()
    without = subprocess.run([commands / "python", "-c", "import torch"], capture_output=True)
    assert without.returncode != 0
