"""The command line: parses, calls, prints. The file of a command is imported when it is used.

What starts every command stays light, and so do an install with nothing to do and a lock without
conflicts. Imports within a function are therefore for three reasons only: what these two do
without, torch or numpy and what imports them, and optional packages. For the same reason patterns
are made with `modpkg.core.lazy_pattern`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import keyword
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from modpkg.cli.everywhere import chosen, options_of_all, take_everywhere
from modpkg.core.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from modpkg.core.errors import ModpkgError

COMMANDS = {
    "install": "Install modules, or everything in the lock file.",
    "add": "Add modules to the project's manifest, and install them.",
    "remove": "Remove modules from the manifest and the environment.",
    "lock": "Resolve the manifest and write modpkg.lock.",
    "update": "Upgrade modules to the newest versions the manifest allows.",
    "outdated": "List modules with newer versions available.",
    "audit": "Check locked modules against the advisories of their registries.",
    "compose": "Compose the project's models into the store ahead of an install.",
    "rollback": "Restore an earlier generation of the environment.",
    "run": "Run an installed model on a text.",
    "list": "List installed modules and models.",
    "show": "Show details of an installed module.",
    "info": "Show what a registry has of a module.",
    "search": "Search registries for modules.",
    "tree": "Show the dependency tree.",
    "why": "Show why a module is installed: every path that requires it.",
    "why-not": "Explain why a version was not selected.",
    "test": "Run the tests of a module, an app or an installed model.",
    "licenses": "List the licences of locked modules, and what the project accepts.",
    "verify": "Prove that what is installed is what the lock says.",
    "sbom": "Write the bill of materials of what is locked (CycloneDX).",
    "vet": "Test a new release against the one before it.",
    "bisect": "Find the module versions that broke a command.",
    "diff": "Compare two sets of weights.",
    "patch": "Create and apply patches: the changes of a fine-tuned copy.",
    "merge": "Merge patches or copies of one base into a release.",
    "init": "Create the modpkg.toml of a new module or app.",
    "check": "Compute the version bump (patch/minor/major) the changes require.",
    "changelog": "Generate a changelog between two releases or locks.",
    "version": "Show the module's version, or set it in the manifest.",
    "build": "Build a module's release into dist/.",
    "publish": "Publish a built release to a registry.",
    "submit": "Submit a built release as a candidate, for others to review.",
    "candidates": "List a module's release candidates, or show one.",
    "comment": "Comment on a release candidate.",
    "approve": "Say that a release candidate should be accepted.",
    "accept": "Publish a release candidate.",
    "reject": "Decide that a release candidate becomes no release.",
    "withdraw": "Take back a release candidate that you have submitted.",
    "fork": "Create a new module from a release.",
    "log": "Show the release history of a module, and its origins.",
    "yank": "Yank a release, so that it is not selected any more.",
    "archive": "Let nothing more be published of a module of a served registry.",
    "deprecate": "Say that a release should not be used any more, and what to use instead.",
    "key": "Make and list the keys that releases are signed with.",
    "trust": "Show and decide who has to have signed which modules.",
    "login": "Log in to a registry that is served.",
    "logout": "Forget the login to a registry.",
    "whoami": "Show whose login to a registry it is.",
    "account": "Make an account of a registry, change passwords, close accounts.",
    "token": "List, make and revoke tokens of a registry.",
    "owner": "Show and change who owns, maintains and reviews a module.",
    "organisation": "Found organisations, and change who is in them.",
    "publisher": "Show and change which CI jobs may publish a module.",
    "registry": "Show where modules come from; make, copy and look after registries.",
    "store": "Manage the local store.",
    "vendor": "Copy all locked modules into a folder for offline use.",
    "import": "Convert a model of another format into a module (hf, gguf, peft …).",
    "export": "Write an installed model in a format that other tools load.",
    "schema": "Print the JSON Schema of modpkg.toml or config.toml, for editors.",
    "help": "Show the help of a command.",
    "completion": "Print the script that completes modpkg in bash, zsh or fish.",
}
"""Every command, with its line of help; `file_of` has its code."""


def file_of(command: str) -> str:
    """Return the module of ``modpkg.cli`` that has a command.

    >>> file_of("why-not"), file_of("import")
    ('why_not', 'import_')
    """
    name = command.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


class _Collector:
    """The garbage collector, which waits until a command of this process is imported."""

    waits = False

    @classmethod
    def wait(cls, waits: bool) -> None:
        cls.waits = waits
        (gc.disable if waits else gc.enable)()


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]  # not list(): that is modpkg.cli.list, once it is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"modpkg.cli.{file_of(cmd_name)}")
        if _Collector.waits:
            gc.freeze()
            _Collector.wait(False)
        return take_everywhere(getattr(module, f"{cmd_name.replace('-', '_')}_command"))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        # Not the group's: it would import every command.
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])  # `list` is a module of this package

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[*options_of_all()],
)
@click.version_option(__version__, "-V", "--version", prog_name="modpkg")
def cli() -> None:
    """A package manager for models.

    Bases, adapters, heads and patches are versioned modules; modpkg resolves which versions fit
    together, fetches only what is new, and composes a model that runs.

    \b
      modpkg install "summarizer>=2.1"
      modpkg run summarizer article.txt

    The options stand before or after the command's name.
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line: exit status 0 for success, 1 for failure, 2 for wrong usage.

    It is 130 after an interruption (SIGINT) and 143 after a termination (SIGTERM).
    """
    from modpkg.core.errors import ModpkgError
    from modpkg.core.hub import turn_off_hub
    from modpkg.core.system import prepare_console, silence_output
    from modpkg.core.system_processes import Terminated, raise_on_termination
    from modpkg.core.system_signals import ended_in_time

    if argv is None:
        _Collector.wait(True)
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    chosen.reset()
    turn_off_hub()
    prepare_console()
    raise_on_termination()
    try:
        from modpkg.cli.redirect import repair_redirect

        arguments = repair_redirect(arguments)
        with ended_in_time():
            status: Any = cli.main(arguments, prog_name="modpkg", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except Terminated:
        _leave(143)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _leave(130)
    except click.ClickException as error:
        from modpkg.core.printable import printable
        from modpkg.core.redacted import redacted

        shown = io.StringIO()
        error.show(shown)
        click.echo(printable(redacted(shown.getvalue())), err=True, nl=False)
        sys.exit(error.exit_code)
    except ModpkgError as error:
        if chosen.debug:
            raise
        _fail(error, own)
    except BrokenPipeError:
        silence_output()
        sys.exit(1)
    except ImportError as error:
        from modpkg.core.extras import without_torch

        command = next((text for text in own if text in COMMANDS), "")
        refusal = without_torch(error, f"modpkg {command}".rstrip())
        if chosen.debug or refusal is None:
            raise
        _fail(refusal, own)
    except OSError as error:
        if chosen.debug:
            raise
        from modpkg.core.files import refusal_of

        _fail(refusal_of(error), own)
    except UnicodeEncodeError as error:  # a path in a record
        if chosen.debug:
            raise
        from modpkg.core.files import not_text

        _fail(not_text(error.object), own)


def _fail(error: ModpkgError, arguments: list[str]) -> NoReturn:
    from modpkg.cli.output import show_error

    show_error(error, as_json="--json" in arguments)
    sys.exit(2 if _is_usage(error, arguments) else 1)


def _is_usage(error: ModpkgError, arguments: list[str]) -> bool:
    """Return whether the command was used wrongly: a value that was typed is malformed."""
    from modpkg.core.errors import InvalidValue, UsageError

    if isinstance(error, InvalidValue):
        typed = [text.strip("'…") for text in map(str, error.values.values()) if text.strip("'…")]
        return any(text in argument for text in typed for argument in arguments)
    return isinstance(error, UsageError)


def _leave(status: int) -> NoReturn:
    from modpkg.core.system_signals import tell

    tell(status)
    requests = sys.modules.get("modpkg.registry.requests")
    if requests is not None and requests.any_abandoned():
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)  # a thread that is in a request must not come back to an interpreter
    sys.exit(status)
