"""``registry serve``."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from modpkg.cli.output import tell
from modpkg.core.errors import UsageError
from modpkg.core.extras import require_extra


@click.command("serve")
@click.argument("storage", default="registry")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8420, show_default=True, help="The port to listen at.")
@click.option("--url", help="Where people reach it. [default: http://HOST:PORT]")
@click.option("--database", help="A URL of PostgreSQL. [default: a file of SQLite in STORAGE]")
@click.option("--name", help="What a new registry calls itself; for ever.")
@click.option("--workers", default=1, show_default=True, help="Processes that answer.")
def serve_command(
    storage: str,
    host: str,
    port: int,
    url: str | None,
    database: str | None,
    name: str | None,
    workers: int,
) -> None:
    """Serve the registry in STORAGE (a folder, or an object store's URL), with its pages.

    It is made if there is none yet. 'modpkg[server]' has what this needs.
    """
    what = "A server"
    for package in ("litestar", "granian", "sqlalchemy", "alembic"):
        require_extra(package, what=what, extra="server")
    from modpkg.server.serving import serve
    from modpkg.server.settings import ServerSettings

    address = (url or f"http://{host}:{port}").rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise UsageError("M901", message=f"--url {address} is not an address of http or https.")
    settings = ServerSettings(storage=storage, database=database, url=address, name=name)
    tell(f"Serving {storage} at {address}; stop it with Ctrl-C.")
    serve(settings, host, port, workers)
