"""``run``."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modpkg.cli.module_names import files, installed_names
from modpkg.cli.options import json_option, user_option, with_workspace
from modpkg.cli.output import faint, print_json, say
from modpkg.core.bounds import (
    SMALL_FILE_BYTES,
    STOP_CHARACTERS,
    TASK_NEW_TOKENS,
    TASK_STOPS,
    TASK_TEMPERATURE,
)
from modpkg.core.errors import RunError, UsageError
from modpkg.core.extras import require_transformers
from modpkg.core.printable import printable
from modpkg.core.regular_file import OversizedFile, read_at_most, read_file
from modpkg.core.system_signals import handled
from modpkg.environment.workspace import Workspace
from modpkg.runtime.installed import find_model

if TYPE_CHECKING:
    from modpkg.runtime.pipeline import Pipeline
    from modpkg.runtime.sampling import Sampling

Command = TypeVar("Command", bound=Callable[..., Any])


class NumberRange(click.FloatRange):
    """A range of numbers, which NaN is not in."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def _stops(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    """Check the texts to stop at."""
    if len(texts) > TASK_STOPS:
        raise click.BadParameter(f"there may be at most {TASK_STOPS}.")
    if not all(0 < len(text) <= STOP_CHARACTERS for text in texts):
        raise click.BadParameter(f"a text has 1 to {STOP_CHARACTERS} characters.")
    return texts


def sampling_options(command: Command) -> Command:
    """Add the options for how text is generated; `_sampling` reads them."""
    options = [
        click.option(
            "--temperature",
            type=NumberRange(0, TASK_TEMPERATURE),
            metavar="T",
            help="Sample with this temperature; 0 gives the most probable text.",
        ),
        click.option(
            "--top-p",
            type=NumberRange(0, 1, min_open=True),
            metavar="P",
            help="Sample from the most probable tokens with this probability together.",
        ),
        click.option(
            "--max-new-tokens",
            type=click.IntRange(1, TASK_NEW_TOKENS),
            metavar="N",
            help="Generate at most N tokens.",
        ),
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Repeat a sampled text."),
        click.option(
            "--stop",
            multiple=True,
            metavar="TEXT",
            callback=_stops,
            help="End before this text; repeatable.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("run")
@click.argument("name", shell_complete=installed_names)
@click.argument("text", required=False, shell_complete=files)
@click.option(
    "--file",
    "-f",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Read the text from a file; '-' is standard input.",
)
@click.option("--interactive", "-i", is_flag=True, help="Have a conversation, line by line.")
@click.option("--system", metavar="TEXT", help="The system message of a chat model.")
@sampling_options
@click.option(
    "--prompt-name",
    metavar="NAME",
    help="Put the model's prompt NAME before the text, instead of its default one "
    "(sentence-transformers models).",
)
@click.option(
    "--device", "place", metavar="DEVICE", help="Run on this device of torch, like 'cuda'."
)
@click.option("--dtype", metavar="DTYPE", help="Run in this dtype of torch, like 'bfloat16'.")
@user_option
@json_option
@with_workspace
def run_command(
    workspace: Workspace,
    name: str,
    text: str | None,
    file: str | None,
    interactive: bool,
    system: str | None,
    temperature: float | None,
    top_p: float | None,
    max_new_tokens: int | None,
    seed: int | None,
    stop: tuple[str, ...],
    prompt_name: str | None,
    place: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Run an installed model on TEXT, on a file, or on standard input.

    If there is a file with the name TEXT, its content is the text. Without TEXT, standard input is
    read. Line breaks at the end are removed.

    The model's task decides what is printed: generated text as it is produced, labels with their
    probabilities, or an embedding. How text is generated is, where no option says it, what the
    model's [task] says, then its generation_config.json.
    """
    if text is not None and file is not None:
        raise UsageError("M901", message="Pass TEXT or --file, not both.")
    if interactive and (text is not None or file is not None or as_json):
        raise UsageError(
            "M901", message="-i reads its texts line by line; pass none, and no --json."
        )
    folder, packs = find_model(name, workspace, composed=False)
    given = "" if interactive else _text(text, file, workspace.progress.warn)
    require_transformers("Running a model")
    from modpkg.runtime.load import load_model  # torch; after everything that can fail fast
    from modpkg.runtime.pipeline import Pipeline, check_runs
    from modpkg.runtime.sampling import Sampling
    from modpkg.runtime.task_kinds import WRITING

    tokenizer = check_runs(folder)
    find_model(name, workspace)
    model = load_model(folder, packs, device=place, dtype=dtype)
    warn = workspace.progress.warn
    pipeline = Pipeline(model, folder, packs, tokenizer=tokenizer, warn=warn)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
    )
    if interactive:
        _converse(pipeline, system, sampling)
        return
    options: dict[str, Any] = {"system": system, "sampling": sampling}
    if pipeline.kind in WRITING and not as_json and prompt_name is None:
        _print(pipeline.stream(given, **options))
        return
    result = pipeline(given, prompt_name=prompt_name, **options)
    if as_json:
        print_json(result)
    elif result.labels is not None:
        for label, score in result.labels:
            say(f"{score:6.1%}  {label}")
    elif result.embedding is not None:
        say(" ".join(f"{value:.6g}" for value in result.embedding))


def _converse(pipeline: Pipeline, system: str | None, sampling: Sampling) -> None:
    """Answer line by line until the input ends; an interrupt ends an answer, not the program."""
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() then edits lines and has a history
        say(faint("Ctrl-C stops an answer, Ctrl-D ends the conversation."))
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = input("> ") if terminal else _piped_line()
        except EOFError:
            say()
            return
        except KeyboardInterrupt:
            handled()
            say()
            continue
        if not line and not terminal:
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.rstrip("\r\n")})
        answer = _print(pipeline.stream(messages, system=system, sampling=sampling))
        messages.append({"role": "assistant", "content": answer})


def _piped_line() -> str:
    """Return the next line of standard input, with its end; text of a pipe is UTF-8."""
    return _decoded(sys.stdin.buffer.readline(), "A line of standard input")


def _print(pieces: Iterator[str]) -> str:
    """Print the pieces of a text as they come, and return it; an interrupt ends it.

    What a terminal would obey is written out there; a file or a pipe gets the text as it is.

    Raises:
        KeyboardInterrupt: It was interrupted before its first piece.
    """
    text, terminal = "", sys.stdout.isatty()
    try:
        for piece in pieces:
            text += piece
            sys.stdout.write(printable(piece) if terminal else piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        handled()
    say()
    return text


def _text(text: str | None, file: str | None, warn: Callable[[str], None]) -> str:
    """Return the text to run on, without line breaks at its end.

    Raises:
        RunError: There is none, or what is read is not text.
    """
    source = file if file is not None else text if text is not None else "-"
    if source == "-":
        if sys.stdin.isatty():
            click.echo("Type the text, then Ctrl-D:", err=True)
        found = _decoded(sys.stdin.buffer.read(), "standard input")
    elif file is not None or _is_file(source):
        found = _decoded(_content(source), source)
    else:
        if _looks_like_a_file(source):
            warn(f"there is no file {source}; it was taken as the text")
        found = source
    found = found.rstrip("\r\n")
    if not found.strip():
        named = "standard input" if source == "-" else "TEXT" if source == found else source
        raise RunError("M706", source=named)
    return found


def _decoded(data: bytes, named: str) -> str:
    """Return a text of bytes from outside.

    Raises:
        RunError: They are not text.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        reason = f"its byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8 text"
        raise RunError("M709", choice=named, reason=reason) from None
    if "\0" in text:
        raise RunError("M709", choice=named, reason="it has a NUL character, so it is not text")
    return text


def _content(source: str) -> bytes:
    """Return the bytes of a file, or of a descriptor that the shell opened, as for ``<(…)``."""
    number = source.rpartition("/")[2]
    if source.startswith(("/dev/fd/", "/proc/self/fd/")) and number.isdigit():
        data = read_at_most(int(number), SMALL_FILE_BYTES + 1)
        if len(data) > SMALL_FILE_BYTES:
            raise OversizedFile(source, SMALL_FILE_BYTES)
        return data
    return read_file(source)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or not one
        return False


def _looks_like_a_file(text: str) -> bool:
    """Return whether a text without a file of its name was probably meant as one."""
    return not any(map(str.isspace, text)) and bool(Path(text).suffix[1:]) and len(text) < 256
