"""``trust``: who has to have signed which modules."""

from __future__ import annotations

import click
from msgspec import Struct, structs

from modpkg.cli.module_names import locked_names
from modpkg.cli.options import accept_option, project_options, with_workspace
from modpkg.cli.output import counted, good, print_json, table, tell
from modpkg.core.errors import UsageError
from modpkg.core.files import shown, write_atomically
from modpkg.core.names import listed, module_name
from modpkg.environment.locking import resolve_lock, write_lock
from modpkg.environment.workspace import Workspace
from modpkg.manifest.edit import add_trust
from modpkg.manifest.trust import is_pattern
from modpkg.trust.rules import rule_of, rules_before
from modpkg.trust.signatures import parse_signer


class TrustedModule(Struct, frozen=True):
    """A locked module, and who signed it."""

    name: str
    version: str
    signer: str
    """Empty if nobody has."""
    rule: str
    """Where ``[trust]`` says who has to; empty where it does not."""


class TrustDocument(Struct, frozen=True):
    """Who signed what a project has locked."""

    modules: list[TrustedModule]


class NewRule(Struct, frozen=True):
    """A rule of ``[trust]`` that was added, or to which a signer was."""

    pattern: str
    signer: str
    signers: list[str]
    """All that may sign what the pattern names, of whom one is enough."""
    before: list[str]
    """Patterns of entries that stand before it, and hold for some of the names that it fits."""


@click.group("trust")
def trust_command() -> None:
    """Show and decide who has to have signed which modules.

    \b
      modpkg trust list
      modpkg trust add 'acme-*' key:ed25519:…
      modpkg trust add 'acme-*' 'oidc:https://gitlab.com repo=acme/models'
    """


@trust_command.command("list")
@project_options
@with_workspace
def list_command(workspace: Workspace, as_json: bool) -> None:
    """List the locked modules with their signers."""
    lock, rules = workspace.lock, workspace.manifest.trust
    rows = []
    for module in lock.module if lock is not None else ():
        rule = rule_of(rules, module.name)
        rows.append(
            TrustedModule(
                module.name, module.version, module.signer, "" if rule is None else rule.where
            )
        )
    if as_json:
        print_json(TrustDocument(rows))
        return
    table(
        [[row.name, row.version, row.signer or "nobody", row.rule or "-"] for row in rows],
        ["Module", "Version", "Signed by", "Rule"],
    )


@trust_command.command("add")
@click.argument("pattern")
@click.argument("signer")
@project_options
@with_workspace
def add_command(workspace: Workspace, pattern: str, signer: str, as_json: bool) -> None:
    """Let only SIGNER sign the modules that PATTERN names, such as 'acme-*', in this project.

    Whoever [trust] has for the same PATTERN already may still sign them. To let one sign no more,
    take it out of the manifest. A narrower PATTERN is written before a wider one: the first entry
    that fits a name holds.
    """
    key = str(parse_signer(signer))
    if not is_pattern(pattern):
        message = f"{pattern} is no name of a module in normal form, and no pattern like acme-*."
        raise UsageError("M901", message=message)
    path = workspace.manifest.path
    text = add_trust(workspace.project.text(), pattern, key)
    rules = workspace.project.parse(text).trust
    signers = next([*rule.signers] for rule in rules if rule.pattern == pattern)
    before = rules_before(rules, pattern)
    write_atomically(path, text.encode())
    if as_json:
        print_json(NewRule(pattern, key, signers, before))
        return
    tell(f"{good('Added')} to [trust] of {shown(path)}. What may sign {pattern}:")
    for one in signers:
        tell(one)
    if before:
        tell(f"Of the names that it fits, those hold that stand before it: {listed(before, 3)}.")


@trust_command.command("accept")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=locked_names)
@accept_option
@project_options
@with_workspace
def accept_command(workspace: Workspace, names: tuple[str, ...], as_json: bool) -> None:
    """Lock the newest versions of NAME... although somebody else has signed them, or nobody.

    Something has to require each NAME.
    """
    accepted = tuple(str(module_name(name)) for name in names)
    every = (*accepted, *workspace.options.accepted)
    workspace.options = structs.replace(workspace.options, accepted=every)
    previous = workspace.usable_lock()
    locked = resolve_lock(workspace, workspace.manifest, previous, upgrade=accepted)
    lock = locked.lock
    for name in accepted:
        if lock.find(name) is None:
            message = f"Nothing here requires {name}, so there is no signer of it to accept."
            raise UsageError("M901", message=message)
    write_lock(workspace, lock)
    if as_json:
        print_json(lock)
        return
    for name in accepted:
        module = lock.find(name)
        if module is not None:
            tell(f"{name} {module.version} is signed by {module.signer or 'nobody'}.")
    if locked.news:
        from modpkg.cli.install import show_news

        show_news(locked.news)
    tell(f"{good('Locked')} {counted(len(lock.module), 'module')}.")
