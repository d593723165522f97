"""``store``: info, verify, gc and clear."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click
from msgspec import Struct

from modpkg.cli.options import json_option, offline_option, span_option, with_workspace
from modpkg.cli.output import counted, good, print_json, say, strong, table, tell
from modpkg.core.errors import InstallError, UsageError
from modpkg.core.files import human_bytes, parse_bytes, shown
from modpkg.environment.hub_modules import remove_unused
from modpkg.environment.repair import repair
from modpkg.environment.workspace import Workspace
from modpkg.store.contents import scan_store
from modpkg.store.corruption import Corruption, find_corruption
from modpkg.store.garbage import clear, collect_garbage


@click.group("store")
def store_command() -> None:
    """Manage the local store: tensors and files of all releases on this machine, each once.

    Environments hard-link what they use, so they keep working whatever is removed here.
    """


class Total(Struct, frozen=True):
    """How much there is of one kind."""

    count: int
    size: int
    """Bytes."""


class StoreDocument(Struct, frozen=True, kw_only=True):
    """The store's contents."""

    folder: str
    size: int
    """Bytes."""
    releases: int
    packs: Total
    files: Total
    composed: Total
    tested: Total
    indexes: Total
    """Index files of registries: for ``--offline``, and to tell what an index takes back."""
    unfinished: Total
    """Downloads that were interrupted, and what killed commands have left."""
    projects: list[str]
    """Paths of the lock files that use it."""


class GarbageDocument(Struct, frozen=True, kw_only=True):
    """What was removed from the store."""

    freed: int
    """Bytes."""
    left: int
    """Bytes that stay."""
    releases: tuple[str, ...]
    """Digests, like those below."""
    composed: tuple[str, ...]
    tested: tuple[str, ...]
    dry_run: bool


class ClearDocument(Struct, frozen=True):
    """How much was removed from the store."""

    freed: int
    """Bytes."""


class VerifyDocument(Struct, frozen=True):
    """What is damaged in the store."""

    bytes: int
    """Bytes that were verified."""
    damaged: list[Corruption]
    repaired: int


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    size = parse_bytes(text)
    if size is None:
        raise UsageError("M901", message=f"{text!r} is not a size; write it as '10 GB'.")
    return size


@store_command.command("info")
@json_option
@with_workspace
def info_command(workspace: Workspace, as_json: bool) -> None:
    """Show the store's folder, contents and projects."""
    store = workspace.store
    with store.lock():
        contents = scan_store(store)
        projects = list(store.projects.known().values())
    document = StoreDocument(
        folder=str(store.root),
        size=contents.size,
        releases=len(contents.releases),
        packs=_total(contents.packs),
        files=_total(contents.blobs),
        composed=_total(contents.composed),
        tested=_total(contents.tested),
        indexes=_total(contents.indexes),
        unfinished=_total({**contents.partial, **contents.left}),
        projects=[project.lock for project in projects],
    )
    if as_json:
        print_json(document)
        return
    size = human_bytes(contents.size)
    say(f"{strong(str(store.root))}: {size}, {counted(len(contents.releases), 'release')}")
    rows = [
        [what, str(total.count), human_bytes(total.size)]
        for total, what in (
            (document.packs, "packs of tensors"),
            (document.files, "files and records"),
            (document.composed, "composed results"),
            (document.tested, "test results"),
            (document.indexes, "index files of registries"),
            (document.unfinished, "unfinished files"),
        )
    ]
    table(rows, ["What", "Count", "Size"])
    say(f"\nUsed by {counted(len(projects), 'project')}{':' if projects else '.'}")
    for project in projects:
        say(f"  {project.lock}")


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


def _total(items: Mapping[Any, _Sized]) -> Total:
    return Total(len(items), sum(item.size for item in items.values()))


@store_command.command("gc")
@click.option(
    "--older-than",
    "age",
    metavar="SPAN",
    default="30 days",
    show_default=True,
    callback=span_option,
    help="Remove entries not used for SPAN.",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=_size,
    help="Then remove the least recently used entries, down to SIZE. [default: from config.toml]",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@json_option
@with_workspace
def gc_command(
    workspace: Workspace, age: float, max_size: int | None, dry_run: bool, as_json: bool
) -> None:
    """Remove entries that no known project's lock needs, by age and size."""
    workspace.progress.stage("Scanning the store")
    cap = max_size if max_size is not None else workspace.settings.max_size
    garbage = collect_garbage(
        workspace.store,
        now=time.time(),
        age=age,
        max_size=cap,
        warn=workspace.progress.warn,
        dry_run=dry_run,
    )
    if not dry_run:
        remove_unused(age, now=time.time())
    if as_json:
        print_json(
            GarbageDocument(
                freed=garbage.freed,
                left=garbage.left,
                releases=garbage.releases,
                composed=garbage.composed,
                tested=garbage.tested,
                dry_run=dry_run,
            )
        )
        return
    verb = "Would free" if dry_run else "Freed"
    say(
        f"{good(verb)} {human_bytes(garbage.freed)} ({counted(len(garbage.releases), 'release')}, "
        f"{counted(len(garbage.composed), 'composed result')}); {human_bytes(garbage.left)} left."
    )
    if cap is not None and garbage.left > cap:
        say(f"That is more than {human_bytes(cap)}: the locks of known projects need it.")


@store_command.command("clear")
@json_option
@with_workspace
def clear_command(workspace: Workspace, as_json: bool) -> None:
    """Remove everything from the store.

    Environments keep working; later installs fetch their modules again.
    """
    store = workspace.store
    with store.lock(exclusive=True):
        size = scan_store(store).size
        clear(store)
    if as_json:
        print_json(ClearDocument(size))
    else:
        tell(f"{good('Freed')} {human_bytes(size)}.")


@store_command.command("verify")
@click.option("--no-repair", is_flag=True, help="Only report corruption.")
@offline_option
@json_option
@with_workspace
def verify_command(workspace: Workspace, no_repair: bool, as_json: bool) -> int:
    """Verify the hashes of everything in the store, and repair what is corrupt.

    Corrupt entries are fetched or composed again for the projects that use them, and overwritten in
    place, so that their environments are repaired too. Exit status 1: something is left corrupt.
    """
    store, progress = workspace.store, workspace.progress
    with store.lock():
        contents = scan_store(store)
        progress.stage("Verifying")
        progress.total(contents.size)
        damaged = find_corruption(store, contents, progress.advance)
    repaired = [] if no_repair or not damaged else _repaired(workspace, damaged)
    left = [item for item in damaged if item not in repaired]
    if as_json:
        print_json(VerifyDocument(contents.size, damaged, len(repaired)))
    else:
        for item in damaged:
            done = good("repaired") if item in repaired else strong("corrupt")
            say(f"{done} {item.kind} {item.digest} in {shown(Path(item.path))}: {item.reason}")
        count = f"{len(damaged)} corrupt, {len(repaired)} repaired" if damaged else "no corruption"
        tell(f"{good('Verified')} {human_bytes(contents.size)}: {count}.")
    return 1 if left else 0


def _repaired(workspace: Workspace, damaged: list[Corruption]) -> list[Corruption]:
    """Repair what can be, and return it; that the store is read-only is said beside the damage."""
    try:
        return repair(workspace, damaged)
    except InstallError as error:
        if error.code != "M510":
            raise
        workspace.progress.warn(str(error))
        return []
