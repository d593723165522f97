"""nginx over folders: what most people would put before a registry that is only read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tests.registry.places.store import LoopbackServer
from tests.registry.places.unpacked import find_program

_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log {log};
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/sites;
    }}
}}
"""


class Nginx(LoopbackServer):
    """Debian's nginx, in one process and its worker."""

    name = "nginx"
    logs = False
    """Whether it writes a line for each request, as it does in Debian's settings."""

    def start(self, folder: Path, owner: int) -> list[int]:
        (folder / "sites").mkdir()
        user = "user root;" if os.geteuid() == 0 else ""
        log = folder / "access.log" if self.logs else "off"
        text = _CONFIGURATION.format(user=user, folder=folder, port=self.port, log=log)
        (folder / "nginx.conf").write_text(text)
        program, variables = find_program("nginx", "nginx")
        command = [program, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
        return [self.run(command, folder, owner, variables)]

    def site(self, folder: Path) -> str:
        """Serve a folder too, and return its address."""
        name = secrets.token_hex(6)
        (self.folder / "sites" / name).symlink_to(folder, target_is_directory=True)
        return f"{self.address}/{name}"
