"""``completion``: the script with which a shell completes modpkg's command line."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from modpkg.cli.output import say

VARIABLE = "_MODPKG_COMPLETE"
"""Environment variable with which the script asks what can stand at the cursor."""
_SHELLS: dict[str, type[ShellComplete]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


@click.command("completion")
@click.argument("shell", type=click.Choice([*_SHELLS]))
def completion_command(shell: str) -> None:
    """Print the script that completes commands, options, module names and files in a shell.

    \b
      bash:  eval "$(modpkg completion bash)"        in ~/.bashrc
      zsh:   eval "$(modpkg completion zsh)"         in ~/.zshrc, after compinit
      fish:  modpkg completion fish > ~/.config/fish/completions/modpkg.fish

    Names are those of the lock, of registries in folders, and of registries that were used before;
    completing them never uses the network.
    """
    complete = _SHELLS[shell](click.Command("modpkg"), {}, "modpkg", VARIABLE)
    # Not complete.source(): for bash, that runs the bash that is found first, to ask its version.
    script = ShellComplete.source(complete).strip("\n")
    # Only the first comma of an answer ends its type; those after it are of its description.
    say(script.replace('string split ","', 'string split --max 1 ","'))
