"""``registry audit`` and ``registry witness``: whether a registry's log can be believed."""

from __future__ import annotations

import time
from functools import partial

import click
from msgspec import Struct

from modpkg.cli.options import json_option, with_workspace
from modpkg.cli.output import counted, good, print_json, say, tell
from modpkg.cli.registry_address import (
    locked_log,
    locked_releases,
    registry_alone,
    storage_of,
)
from modpkg.core.errors import UsageError
from modpkg.environment.workspace import Workspace


class WitnessedLog(Struct, frozen=True, kw_only=True):
    """A log's checkpoint with the signature of a witness."""

    registry: str
    origin: str
    """What the log calls itself."""
    entries: int
    witness: str
    """What the witness calls itself."""
    signer: str
    """Its key."""
    checkpoint: str
    """The file, with this signature."""
    written: bool
    """Whether it is the registry's now."""


@click.command("audit")
@click.argument("address", metavar="URL")
@click.option(
    "--void",
    metavar="KEY",
    help="With the log's key: say in the log that releases count no more which the index lacks.",
)
@json_option
@with_workspace
def audit_log_command(workspace: Workspace, address: str, void: str | None, as_json: bool) -> None:
    """Compare the whole log of the registry at URL with its index, and name each difference.

    The root of the log's tree is worked out again from its entries, and has to be the one that is
    signed, and to continue what was seen of the log before. Exit status 1 if anything differs.

    With --void, URL is the storage, and nobody may publish meanwhile. A release that was logged,
    and whose publisher was killed then, is no difference any more, but listed by each audit: unless
    your project's lock has it. Publish it again only as it was, or under another version.
    """
    from modpkg.trust.log.audit import audit_log
    from modpkg.trust.log.memory import LogMemory

    registry = registry_alone(workspace, address)
    audit = partial(
        audit_log,
        lambda: registry_alone(workspace, address),
        LogMemory(registry.source.url),
        workspace.progress,
        locked=locked_log(workspace, registry),
        locked_releases=locked_releases(workspace, registry),
        logged_in=workspace.settings.of(registry.source.url).login is not None,
    )
    if void is None:
        found = audit()
    else:
        from modpkg.trust.log.appending import open_log
        from modpkg.trust.log.voiding import void_missing

        place = storage_of(workspace, address)
        log = open_log(place, void)  # before all is read
        found = audit()
        if void_missing(place, log, found.differences):
            found = audit()
    if as_json:
        print_json(found)
    else:
        for one in found.differences:
            say(one.message)
        for gone in found.void:
            what = f"{gone.name} {gone.version}" if gone.version else f"A successor for {gone.name}"
            say(
                f"{what} was logged (entry {gone.entry}), and is void (entry {gone.void}): who "
                "runs the registry says that nobody was shown it."
            )
        entries = counted(found.entries, "entry", "entries")
        releases = counted(found.releases, "release")
        tell(
            f"{'Read' if found.differences else good('Right:')} {entries} of the log of "
            f"{found.registry}, and {releases} of {counted(found.modules, 'module')}: "
            f"{counted(len(found.differences), 'difference')}."
        )
    if found.differences:
        raise SystemExit(1)


@click.command("witness")
@click.argument("address", metavar="URL")
@click.option("--key", required=True, metavar="KEY", help="A key of 'modpkg key', or its file.")
@click.option("--name", required=True, help="What you sign as, such as witness.example.")
@click.option("--write", is_flag=True, help="Put it into the registry, which you can write to.")
@json_option
@with_workspace
def witness_command(
    workspace: Workspace, address: str, key: str, name: str, write: bool, as_json: bool
) -> None:
    """Sign that the log at URL continues what you saw of it before, and print its checkpoint.

    Whoever finds your signature under a checkpoint knows that you were shown the same. Run it again
    and again, such as each hour: it is refused once the log shows something else.
    """
    from modpkg.cli.key import open_signer
    from modpkg.trust.log.log_checkpoint import is_note_name
    from modpkg.trust.log.memory import LogMemory
    from modpkg.trust.log.witness import witnessed, write_witnessed

    if not is_note_name(name):
        raise UsageError("M901", message="--name has neither spaces nor a '+', nor is it empty.")
    place = storage_of(workspace, address) if write else None
    registry, signer = registry_alone(workspace, address), open_signer(key)
    checkpoint = witnessed(
        registry,
        LogMemory(registry.source.url),
        signer,
        name,
        int(time.time()),
        locked_log(workspace, registry),
    )
    if place is not None:
        checkpoint = write_witnessed(place, checkpoint)
    text = bytes(checkpoint).decode()
    if as_json:
        print_json(
            WitnessedLog(
                registry=registry.url,
                origin=checkpoint.origin,
                entries=checkpoint.size,
                witness=name,
                signer=str(signer.public),
                checkpoint=text,
                written=write,
            )
        )
    elif write:
        entries = counted(checkpoint.size, "entry", "entries")
        tell(f"{good('Signed')} {entries} of the log, as {name}.")
    else:
        say(text.rstrip("\n"))
