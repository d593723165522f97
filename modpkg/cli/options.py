"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modpkg.cli.everywhere import chosen
from modpkg.cli.module_names import known_names, locked_names
from modpkg.cli.output import TerminalProgress, faint, note
from modpkg.core.decoding import check_reason
from modpkg.core.errors import InvalidValue, ModpkgError, UsageError
from modpkg.core.home import store_folder
from modpkg.core.hub_address import HubAddress
from modpkg.core.names import ModuleName, module_name
from modpkg.core.printable import one_line
from modpkg.core.progress import Progress
from modpkg.core.version import __version__
from modpkg.environment.workspace import RegistryOptions, Workspace

if TYPE_CHECKING:
    from modpkg.environment.hub_modules import Checkout

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def user_option(command: Command) -> Command:
    return click.option(
        "--user", is_flag=True, help="Use your user environment, even inside a project."
    )(command)


def registry_option(command: Command) -> Command:
    return click.option(
        "--registry",
        metavar="URL",
        help="Default registry: a folder, URL or alias. [env: MODPKG_REGISTRY]",
    )(command)


def check_reason_option(reason: str, *, required: bool = False) -> None:
    """Check what ``--reason`` says of a release: one line of text, such that readers take it.

    Raises:
        UsageError: It is not one line, or ``required`` and empty.
        InvalidValue: It is too long.
    """
    if one_line(reason) != reason or (required and not reason):
        raise UsageError("M901", message="--reason is one line of text.")
    check_reason(reason)


def with_workspace(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command a `Workspace` in place of ``--registry``, ``--offline``, ``--user``,
    ``--accept-changed`` and ``--device``.

    It comes first of the arguments, and shows progress on the terminal. The decorator stands right
    above the function, below those of its options.
    """

    @functools.wraps(command)
    def run(
        *arguments: Any,
        registry: str | None = None,
        offline: bool = False,
        user: bool = False,
        accept_changed: tuple[str, ...] = (),
        device: str | None = None,
        **values: Any,
    ) -> Any:
        with TerminalProgress() as progress:
            options = RegistryOptions(registry, offline, accept_changed)
            workspace = Workspace(
                user=user,
                options=options,
                device=device,
                progress=progress,
                fetch_hub=_checked_out,
            )
            if chosen.verbose:
                _note_folders(workspace)
            return command(workspace, *arguments, **values)

    return run


def _checked_out(address: HubAddress, progress: Progress) -> AbstractContextManager[Checkout]:
    from modpkg.community.modules.hub_checkout import checked_out  # seldom needed

    return checked_out(address, progress)


def _note_folders(workspace: Workspace) -> None:
    try:
        project = workspace.project
        kind = "user environment" if project.is_user else "project"
        used = f"{kind} {project.manifest_path}"
    except ModpkgError:  # not every command needs one; what does will say it
        used = "no project"
    note(faint(f"modpkg {__version__}: {used}, store {store_folder()}"))


def _names(
    context: click.Context, option: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Check that each is the name of a module."""
    from modpkg.core.names import module_name  # an install with nothing to do has no use for it

    for name in names:
        module_name(name)
    return names


def accept_option(command: Command) -> Command:
    """Add ``--accept-changed``, for commands that resolve again."""
    text = "Lock what a registry has now as NAME's version, although it is another release."
    return _accept(command, locked_names, text)


def accept_named_option(command: Command) -> Command:
    """Add ``--accept-changed``, for commands that make something of a release that is named."""
    text = "Take a release of NAME although another one, or another signer, is locked."
    return _accept(command, known_names, text)


def _accept(command: Command, complete: Callable[..., Any], text: str) -> Command:
    return click.option(
        "--accept-changed",
        multiple=True,
        metavar="NAME",
        callback=_names,
        shell_complete=complete,
        help=text,
    )(command)


def policy_options(command: Command) -> Command:
    """Add ``--resolution`` and ``--exclude-newer``, which override the manifest's.

    With them comes ``--accept-changed``.
    """
    newer = click.option(
        "--exclude-newer",
        metavar="WHEN",
        help="Ignore releases published after a date, or within a span before now like '7 days'.",
    )
    strategy = click.option(
        "--resolution",
        type=click.Choice(["highest", "lowest", "lowest-direct"]),
        help="Versions to prefer. [default: the manifest's, else highest]",
    )
    return strategy(newer(accept_option(command)))


def strict_option(command: Command) -> Command:
    """Add ``--strict`` and ``--require-signed``, which narrow what is locked."""
    signed = click.option(
        "--require-signed", is_flag=True, help="Only releases that somebody has signed."
    )
    strict = click.option(
        "--strict",
        is_flag=True,
        help="Only versions on which every module fits its base exactly (no drift).",
    )
    return strict(signed(command))


def _device(context: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """Check that a device is one that can be named."""
    if name is not None:
        from modpkg.compose.device import is_device

        if not is_device(name):
            raise click.BadParameter(f"{name!r} is not auto, cpu, cuda or cuda:1", context, option)
    return name


def device_option(command: Command) -> Command:
    """Add ``--device``, for commands that compose."""
    return click.option(
        "--device",
        metavar="DEVICE",
        callback=_device,
        help="Compose with: auto, cpu, cuda, or cuda:1. [env: MODPKG_DEVICE; default: auto]",
    )(command)


def offline_option(command: Command) -> Command:
    return click.option("--offline", is_flag=True, help="Do not use the network.")(command)


def project_options(command: Command) -> Command:
    """Add the options of every command that reads a project and its registries."""
    return registry_option(offline_option(user_option(json_option(command))))


def upgrade_options(command: Command) -> Command:
    """Add ``--upgrade`` and ``--upgrade-package``, which release locked versions."""
    one = click.option(
        "--upgrade-package",
        multiple=True,
        metavar="NAME",
        callback=_names,
        shell_complete=locked_names,
        help="Upgrade a module; repeatable.",
    )
    every = click.option(
        "--upgrade", is_flag=True, help="Ignore locked versions and prefer the newest."
    )
    return every(one(command))


def span_option(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Return the seconds of a span of time that is written as an option's value."""
    if text is None:
        return None
    from modpkg.manifest.cutoff import parse_cutoff  # most commands have no use for it

    try:
        span = parse_cutoff(text).span
    except InvalidValue:
        span = None
    if span is None:
        raise UsageError("M901", message=f"{text!r} is not a span of time; write it as '30 days'.")
    return span.total_seconds()


def limit_option(command: Command) -> Command:
    """Add ``--time-limit``, the timeout of a test."""
    return click.option(
        "--time-limit",
        type=click.FloatRange(min=0, min_open=True),
        default=1800.0,
        show_default=True,
        metavar="SECONDS",
        help="Stop a test that takes longer on one model.",
    )(command)


def trial_options(command: Command) -> Command:
    """Add the options of commands that test versions with a command."""
    timeout = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Treat a run as failed after SECONDS.",
    )
    repeat = click.option(
        "--repeat",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Run N times; all runs have to pass.",
    )
    fresh = click.option("--fresh", is_flag=True, help="Ignore the results of earlier runs.")
    return timeout(repeat(fresh(command)))


def name_of(name: str | None, stem: str) -> ModuleName:
    """Return a new project's name: as given, or that of its folder or source.

    Raises:
        InvalidValue: ``name`` is not a module name.
        UsageError: ``stem`` is not one.
    """
    try:
        return module_name(name or stem)
    except InvalidValue as error:
        if name is not None:
            raise
        raise UsageError("M901", message=f"{error} Pass --name with one.") from None
