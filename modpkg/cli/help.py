"""``help``."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from modpkg.cli.manual import write_manual
from modpkg.cli.output import counted, good, say, tell


def _commands(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    root = context.find_root()
    found = root.command.shell_complete(root, incomplete)
    return [item for item in found if not item.value.startswith("-")]


@click.command("help")
@click.argument("names", metavar="[COMMAND]...", nargs=-1, shell_complete=_commands)
@click.option(
    "--man",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write manual pages for 'man' into DIR instead.",
)
@click.pass_context
def help_command(context: click.Context, names: tuple[str, ...], man: Path | None) -> None:
    """Show the help of modpkg, or of a command, like --help after it.

    \b
      modpkg help install
      modpkg help store gc
      modpkg help --man ~/.local/share/man       then: man modpkg-install
    """
    shown = context.find_root()
    if man is not None:
        if names:
            context.fail("--man writes the pages of all commands; name none.")
        pages = write_manual(shown, man)
        tell(f"{good('Wrote')} {counted(len(pages), 'page')} to {man}/man1/.")
        return
    for name in names:
        if not isinstance(shown.command, click.Group):
            shown.fail(f"{shown.command_path!r} has no commands of its own.")
        _, command, _ = shown.command.resolve_command(shown, [name])
        if command is not None:
            shown = click.Context(command, info_name=name, parent=shown)
    say(shown.get_help())
