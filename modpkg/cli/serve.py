"""``registry serve``, and what an operator does beside it: ``registry admin``, ``rebuild``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click
from msgspec import Struct

from modpkg.cli.options import json_option
from modpkg.cli.output import counted, good, print_json, strong, tell
from modpkg.core.errors import UsageError
from modpkg.core.extras import require_extra
from modpkg.core.names import listed

if TYPE_CHECKING:
    from modpkg.server.settings import ServerSettings
    from modpkg.server.state import Server

Command = TypeVar("Command", bound=Callable[..., Any])
NEEDED = ("litestar", "uvicorn", "sqlalchemy", "alembic", "argon2", "anyio")


class AdministratorDocument(Struct, frozen=True):
    """Somebody who is an administrator of a server now."""

    name: str


class RebuiltDocument(Struct, frozen=True):
    """What was rebuilt of a server's database."""

    modules: list[str]
    """Modules to which nobody has a right yet."""
    swept: int
    """Publishing sessions that had expired."""


def server_options(command: Command) -> Command:
    """Add what says which server is meant."""
    for option in (
        click.option(
            "--config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A TOML file with the server's settings; options come before it.",
        ),
        click.option(
            "--database",
            envvar="MODPKG_DATABASE",
            help="A URL of PostgreSQL. [default: a file of SQLite in STORAGE]",
        ),
    ):
        command = option(command)
    return command


def _settings(config: Path | None, **given: Any) -> ServerSettings:
    for package in NEEDED:
        require_extra(package, what="A server", extra="server")
    from modpkg.server.settings_file import read_server_settings

    return read_server_settings(config, **given)


@contextmanager
def _opened(settings: ServerSettings) -> Iterator[Server]:
    from modpkg.server.state import Server

    server = Server(settings)
    try:
        server.database.upgrade()
        yield server
    finally:
        server.close()


@click.command("serve")
@click.argument("storage", default="registry")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8420, show_default=True, help="The port to listen at.")
@click.option("--url", help="Where people reach it. [default: http://HOST:PORT]")
@click.option("--moved", is_flag=True, help="Take --url in place of the registry's address.")
@click.option("--name", help="What a new registry calls itself; for ever.")
@click.option(
    "--tuf-keys",
    type=click.Path(exists=True, file_okay=False),
    help="The folder of the key that signs the index; see 'modpkg registry trust'.",
)
@click.option("--workers", default=1, show_default=True, help="Processes that answer.")
@click.option(
    "--log-key",
    metavar="KEY",
    help="Keep a log of all releases, signed by this key of 'modpkg key', or file.",
)
@click.option(
    "--log-key-before",
    metavar="KEY",
    help="The key that has signed the log so far, if --log-key takes its place.",
)
@server_options
def serve_command(
    storage: str,
    host: str,
    port: int,
    url: str | None,
    moved: bool,
    database: str | None,
    name: str | None,
    tuf_keys: str | None,
    workers: int,
    log_key: str | None,
    log_key_before: str | None,
    config: Path | None,
) -> None:
    """Serve the registry in STORAGE (a folder, or an object store's URL), with its pages.

    It is made if there is none yet. 'modpkg[server]' has what this needs; the first administrator
    is made with 'modpkg registry admin'.
    """
    given = {"storage": storage, "database": database, "name": name, "moved": moved or None}
    given["tuf_keys"] = tuf_keys
    given |= {"log_key": log_key, "log_key_before": log_key_before}
    settings = _settings(config, **given, url=url)
    if url is None and settings.url == type(settings)(storage="").url:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        settings = _settings(config, **given, url=url)
    if urlsplit(settings.url).scheme not in ("http", "https"):
        message = f"--url {settings.url} is not an address of http or https."
        raise UsageError("M901", message=message)
    from modpkg.server.serving import serve

    def ready() -> None:
        tell(f"Serving {storage} at {settings.url}; stop it with Ctrl-C.")

    serve(settings, host, port, workers, ready)


@click.command("admin")
@click.argument("name")
@click.argument("storage", default="registry")
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read a password from standard input: the account gets it, and is made if need be.",
)
@server_options
@json_option
def admin_command(
    name: str,
    storage: str,
    password_stdin: bool,
    database: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make NAME an administrator of the server of the registry in STORAGE.

    Whoever can write the storage and the database can do this; the server need not run.
    """
    settings = _settings(config, storage=storage, database=database)
    password = None
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    from modpkg.server.accounts import make_administrator

    with _opened(settings) as server:
        make_administrator(server.database, name, password)
    if as_json:
        print_json(AdministratorDocument(name))
    else:
        tell(f"{good('Made')} {strong(name)} an administrator.")


@click.command("rebuild")
@click.argument("storage", default="registry")
@server_options
@json_option
def rebuild_command(storage: str, database: str | None, config: Path | None, as_json: bool) -> None:
    """Rebuild what a server's database lost that follows from the registry in STORAGE.

    No release is ever in the database alone. People, tokens and rights are: restore them from a
    back-up of it, or name owners again.
    """
    settings = _settings(config, storage=storage, database=database)
    from modpkg.server.rebuilding import rebuild

    with _opened(settings) as server:
        done = rebuild(server)
    if as_json:
        print_json(RebuiltDocument(done.modules, done.swept))
        return
    tell(f"{good('Rebuilt')}: {counted(len(done.modules), 'module')} without an owner before.")
    if done.modules:
        tell(
            f"Name owners for {listed(done.modules, 5)}: modpkg owner add NAME PERSON --role owner"
        )
