"""The command line: parses, calls, prints. Each group of commands is imported when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from modpkg.core.version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "install": ("install", "Install modules, or what the lock file says."),
    "remove": ("install", "Take modules out of the manifest and the environment."),
    "lock": ("lock", "Resolve the manifest and write modpkg.lock."),
    "update": ("install", "Take newer versions, within what the manifest asks for."),
    "outdated": ("outdated", "List what there is a newer version of."),
    "compose": ("compose", "Compose the models into the store, here or on a cluster."),
    "rollback": ("install", "Return the environment to an earlier generation."),
    "run": ("run", "Run an installed model on a text."),
    "list": ("list", "List what is installed."),
    "show": ("list", "Show one installed module."),
    "tree": ("list", "Show what depends on what."),
    "why": ("list", "Show every path that leads to a module."),
    "why-not": ("outdated", "Say what forbids a version that is not chosen."),
    "test": ("test", "Run the tests of a module, an app or an installed model."),
    "licenses": ("licenses", "List licences, and which do not go together."),
    "vet": ("vet", "Compare a new release with the one before it, by tests."),
    "bisect": ("bisect", "Find the module versions that broke a command."),
    "diff": ("diff", "Show how far two sets of weights are apart."),
    "patch": ("patch", "Make a small module of what a fine-tuned copy changed."),
    "merge": ("merge", "Make one release of several patches or copies of a base."),
    "init": ("publish", "Begin a module or an app: write a modpkg.toml."),
    "check": ("check", "Say which version what changed asks for."),
    "changelog": ("check", "Write what changed between two releases, or locks."),
    "build": ("publish", "Build a module's release into dist/."),
    "publish": ("publish", "Publish what was built to a registry."),
    "fork": ("fork", "Begin a module of your own from a release."),
    "log": ("fork", "Show releases, and what each was made from."),
    "yank": ("publish", "Take a release out of new resolutions."),
    "store": ("store", "See to the store: info, verify, gc, clear."),
    "vendor": ("store", "Copy what modpkg.lock names into a folder, to take along."),
    "import": ("import_", "Make a module from what you have (hf, gguf, peft …)."),
    "export": ("import_", "Write an installed model as a directory other tools open."),
}
"""Every command: the file under ``modpkg/cli/`` that has it, and its line of help."""


class LazyGroup(click.Group):
    """A group that imports a command's file when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"modpkg.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="modpkg")
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """A package manager for models.

    Bases, adapters, heads and patches are versioned modules; modpkg resolves which versions fit
    together, fetches only what is new, and composes a model that runs.

    \b
      modpkg install "summarizer>=2.1"
      modpkg run summarizer article.txt
    """
    ctx.obj = {"debug": debug}


def main(argv: list[str] | None = None) -> None:
    """Run the command line: exit status 0 for success, 1 for failure, 2 for wrong usage."""
    from modpkg.core.errors import ModpkgError, UsageError

    arguments = list(sys.argv[1:] if argv is None else argv)
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in own
    if "--debug" in own[1:]:  # accepted before and after the command's name
        arguments.remove("--debug")
        arguments.insert(0, "--debug")
    try:
        from modpkg.cli.redirect import mend_redirect

        arguments = mend_redirect(arguments)
        status: Any = cli.main(arguments, prog_name="modpkg", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        _leave("Interrupted; nothing half-made is left.", 130)
    except KeyboardInterrupt:
        _leave("Interrupted; nothing half-made is left.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModpkgError as error:
        if debug:
            raise
        from modpkg.cli.output import show_error

        show_error(error, as_json="--json" in own)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _leave(f"error: {where}{error.strerror or error}. --debug shows where.", 1)


def _leave(message: str, status: int) -> None:
    print(message, file=sys.stderr)  # noqa: T201
    sys.exit(status)
