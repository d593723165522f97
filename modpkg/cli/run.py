"""``run``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import print_json, say
from modpkg.core.errors import RunError
from modpkg.environment.workspace import Workspace
from modpkg.runtime.installed import find_model


@click.command("run")
@click.argument("name")
@click.argument("file", type=click.Path(allow_dash=True), default="-")
@click.option(
    "--prompt-name",
    metavar="NAME",
    help="Put the model's prompt NAME before the text, instead of its default one "
    "(sentence-transformers models).",
)
@user_option
@json_option
@with_workspace
def run_command(
    workspace: Workspace, name: str, file: str, prompt_name: str | None, as_json: bool
) -> None:
    """Run an installed model on the text in FILE or on standard input.

    The model's task decides what is printed: generated text as it is produced, labels with their
    probabilities, or an embedding.
    """
    folder, packs = find_model(name, workspace)
    text = _text(file)
    from modpkg.runtime.tasks import run_task  # torch; after everything that can fail fast

    stream = None if as_json else _print_piece
    warn = workspace.progress.warn
    result = run_task(folder, packs, text, prompt_name=prompt_name, stream=stream, warn=warn)
    if as_json:
        print_json(result)
    elif result.text is not None:
        say()
    elif result.labels is not None:
        for label, score in result.labels:
            say(f"{score:6.1%}  {label}")
    elif result.embedding is not None:
        say(" ".join(f"{value:.6g}" for value in result.embedding))


def _print_piece(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _text(file: str) -> str:
    if file == "-":
        if sys.stdin.isatty():
            click.echo("Type the text, then Ctrl-D:", err=True)
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    else:
        text = Path(file).read_bytes().decode("utf-8", "replace")
    if not text.strip():
        raise RunError("M706", source="standard input" if file == "-" else file)
    return text
