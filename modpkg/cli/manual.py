"""Manual pages, made from the commands: ``man modpkg``, ``man modpkg-install``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from modpkg.cli.everywhere import options_of_all
from modpkg.core.files import write_atomically
from modpkg.core.version import __version__

SECTION = 1


def manual_pages(root: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the page of modpkg and of each command: its name, as ``modpkg-install``, and text."""
    pending = [root]
    while pending:
        context = pending.pop(0)
        name = context.command_path.replace(" ", "-")
        command = context.command
        children = []
        if isinstance(command, click.Group):
            children = [
                click.Context(child, info_name=each, parent=context)
                for each in command.list_commands(context)
                if (child := command.get_command(context, each)) is not None
            ]
        yield name, _page(name, context, children)
        pending += children


def write_manual(root: click.Context, folder: Path) -> list[Path]:
    """Write all pages into ``man1`` in a folder, where ``man`` finds them, and return their paths.

    Raises:
        OSError: The folder cannot be written.
    """
    paths = []
    for name, text in manual_pages(root):
        path = folder / f"man{SECTION}" / f"{name}.{SECTION}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
        paths.append(path)
    return paths


def _page(name: str, context: click.Context, children: list[click.Context]) -> str:
    command = context.command
    parts = [
        f'.TH "{name.upper()}" "{SECTION}" "" "modpkg {__version__}" "modpkg"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(_first_sentence(command.help or ''))}",
        ".SH SYNOPSIS",
        f".B {_escaped(context.command_path)}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
        _paragraphs(command.help or ""),
    ]
    own = [
        record
        for option in command.params
        if isinstance(option, click.Option)
        and (record := option.get_help_record(context)) is not None
    ]
    if own:
        parts += [".SH OPTIONS", *(_item(*record) for record in own)]
    if children:
        parts.append(".SH COMMANDS")
        for child in children:
            page = f"{child.command_path.replace(' ', '-')}({SECTION})"
            parts.append(_item(page, _first_sentence(child.command.help or "")))
    if context.parent is not None:
        shared = [option.get_help_record(context) for option in options_of_all()]
        parts += [".SH OPTIONS OF EVERY COMMAND", *(_item(*each) for each in shared if each)]
        above = context.parent.command_path.replace(" ", "-")
        parts += [".SH SEE ALSO", f".BR {_escaped(above)} ({SECTION})"]
    return "\n".join(parts) + "\n"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].removesuffix(".")


def _paragraphs(text: str) -> str:
    r"""Return a command's help as paragraphs; those after ``\b`` keep their lines."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        if lines[0] == "\b":
            parts += [".PP", ".nf", *(f"  {_escaped(line)}" for line in lines[1:]), ".fi"]
        else:
            parts += [".PP", _escaped(" ".join(lines))]
    return "\n".join(parts[1:] if parts[0] == ".PP" else parts)


def _item(term: str, text: str) -> str:
    return f".TP\n\\fB{_escaped(term)}\\fR\n{_escaped(' '.join(text.split()))}"


def _escaped(text: str) -> str:
    """Return text as roff prints it: nothing in it is a request, an escape or a typeset dash."""
    shown = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{shown}" if shown[:1] in (".", "'") else shown
