"""The options that every command takes, before and after its name, and what they chose."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click


class CommonChoices:
    """What the options of this process chose; `reset` begins the next command line."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.quiet = 0
        """1 leaves out progress and what was done; 2 leaves out warnings as well."""
        self.verbose = False
        self.color: bool | None = None
        """None leaves it to the environment and to whether it is a terminal."""
        self.debug = False
        self.warned: set[str] = set()
        """Warnings that were shown: each is shown once."""


chosen = CommonChoices()


def _go(context: click.Context, option: click.Parameter, folders: tuple[str, ...]) -> None:
    folder = ""
    try:
        for folder in folders:
            os.chdir(folder)
    except OSError as error:
        reason = f"{folder!r} cannot be entered: {error.strerror}"
        raise click.BadParameter(reason, context, option) from None


def _quiet(context: click.Context, option: click.Parameter, count: int) -> None:
    chosen.quiet += count


def _flag(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        setattr(chosen, str(option.name), True)


def _color(context: click.Context, option: click.Parameter, when: str | None) -> None:
    if when is not None:
        chosen.color = {"always": True, "never": False, "auto": None}[when]


class _Unlisted(click.Option):
    """An option that a shell completes, and that the help of its command leaves out."""

    def get_help_record(self, ctx: click.Context) -> None:
        return None


def options_of_all(*, in_help: bool = True) -> list[click.Option]:
    """Return the options, which set `chosen` and the working folder, and pass nothing on."""
    option = click.Option if in_help else _Unlisted
    return [
        option(
            ["-C", "folders"],
            multiple=True,
            metavar="DIR",
            type=click.Path(file_okay=False),
            is_eager=True,
            expose_value=False,
            callback=_go,
            help="Work in DIR, as if modpkg was started there.",
        ),
        option(
            ["-q", "--quiet"],
            count=True,
            expose_value=False,
            callback=_quiet,
            help="Print only what was asked for, and warnings; -qq leaves out warnings too.",
        ),
        option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_flag,
            help="Show each stage, and which folders are used.",
        ),
        option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            is_flag=False,
            flag_value="always",
            expose_value=False,
            callback=_color,
            help="Colours; auto means on terminals only. [env: NO_COLOR, FORCE_COLOR]",
        ),
        option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_flag,
            help="Show a traceback on errors.",
        ),
    ]


def take_everywhere(command: click.Command) -> click.Command:
    """Give a command, and those in its group, the options; its help does not repeat them."""
    if any(option.name == "debug" for option in command.params):
        return command
    for parameter in command.params:
        _refuse_empty(parameter)
    command.params += options_of_all(in_help=False)
    if isinstance(command, click.Group):
        _each(command.commands.values())
    return command


_MAY_BE_EMPTY = ("system", "text", "command")
"""A system message, a text to run on, and the words of another command."""


def _refuse_empty(parameter: click.Parameter) -> None:
    """Make an empty text no value of a parameter, such as an unset variable in a script leaves."""
    flag = getattr(parameter, "flag_value", None)
    if parameter.name in _MAY_BE_EMPTY or "" in (parameter.default, flag):  # it has a meaning
        return
    own = parameter.process_value

    def process(context: click.Context, value: Any) -> Any:
        values = value if isinstance(value, tuple | list) else (value,)
        if "" in values:
            raise click.BadParameter("it is empty", context, parameter)
        return own(context, value)

    parameter.process_value = process  # type: ignore[method-assign,assignment]


def _each(commands: Iterable[click.Command]) -> None:
    for command in commands:
        take_everywhere(command)
