"""``store``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from modpkg.cli.options import json_option, offline_option
from modpkg.cli.output import TerminalProgress, good, print_json, say, strong, table
from modpkg.core.errors import UsageError
from modpkg.core.files import human_bytes, parse_bytes, shown
from modpkg.core.home import store_folder
from modpkg.store.store import Store


@click.group("store")
def store_command() -> None:
    """See to the store: the tensors and files of all releases on this machine, each once.

    Environments hard-link what they need, so they run on whatever is removed here.
    """


def _size(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    size = parse_bytes(text)
    if size is None:
        raise UsageError("M901", message=f"{text!r} is not a size; write it like '10 GB'.")
    return size


def _span(context: click.Context, option: click.Parameter, text: str) -> float:
    from modpkg.core.errors import InvalidValue
    from modpkg.manifest.cutoff import parse_cutoff

    try:
        span = parse_cutoff(text).span
    except InvalidValue:
        span = None
    if span is None:
        raise UsageError(
            "M901", message=f"{text!r} is not a span of time; write it like '30 days'."
        )
    return span.total_seconds()


@store_command.command("info")
@json_option
def info_command(as_json: bool) -> None:
    """Say where the store is, what is in it, and for which projects."""
    from modpkg.store.contents import scan_store

    store = Store(store_folder())
    with store.lock():
        contents = scan_store(store)
        projects = list(store.projects.known().values())
    document = {
        "folder": str(store.root),
        "size": contents.size,
        "releases": len(contents.releases),
        "packs": _counted(contents.packs),
        "files": _counted(contents.blobs),
        "composed": _counted(contents.composed),
        "tested": _counted(contents.tested),
        "unfinished": _counted(contents.partial),
        "projects": [project.lock for project in projects],
    }
    if as_json:
        print_json(document)
        return
    size = human_bytes(contents.size)
    say(f"{strong(str(store.root))}: {size}, {len(contents.releases)} releases")
    rows = [
        [what, str(document[key]["count"]), human_bytes(document[key]["size"])]  # type: ignore[index]
        for key, what in (
            ("packs", "packs of tensors"),
            ("files", "files and records"),
            ("composed", "composed results"),
            ("tested", "outcomes of tests"),
            ("unfinished", "unfinished fetches"),
        )
    ]
    table(rows, ["What", "Count", "Size"])
    say(f"\nKept for {len(projects)} project(s){':' if projects else '.'}")
    for project in projects:
        say(f"  {project.lock}")


def _counted(items: Any) -> dict[str, int]:
    return {"count": len(items), "size": sum(item.size for item in items.values())}


@store_command.command("gc")
@click.option(
    "--older-than",
    "age",
    metavar="SPAN",
    default="30 days",
    show_default=True,
    callback=_span,
    help="Remove what was not used for so long.",
)
@click.option(
    "--max-size",
    metavar="SIZE",
    callback=_size,
    help="Then remove what was not used the longest, down to this. [default: config.toml's]",
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@json_option
def gc_command(age: float, max_size: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove what no known project's lock needs, by age and size."""
    from modpkg.manifest.config import read_settings
    from modpkg.store.garbage import collect_garbage

    store = Store(store_folder())
    with TerminalProgress() as progress:
        progress.stage("Looking through the store")
        cap = max_size if max_size is not None else read_settings(progress.warn).max_size
        garbage = collect_garbage(
            store, now=time.time(), age=age, max_size=cap, warn=progress.warn, dry_run=dry_run
        )
    if as_json:
        print_json(
            {
                "freed": garbage.freed,
                "left": garbage.left,
                "releases": garbage.releases,
                "composed": garbage.composed,
                "tested": garbage.tested,
                "dry_run": dry_run,
            }
        )
        return
    verb = "Would free" if dry_run else "Freed"
    say(
        f"{good(verb)} {human_bytes(garbage.freed)} ({len(garbage.releases)} releases, "
        f"{len(garbage.composed)} composed results); {human_bytes(garbage.left)} stay."
    )
    if cap is not None and garbage.left > cap:
        say(f"That is over {human_bytes(cap)}: the locks of known projects need it.")


@store_command.command("clear")
@json_option
def clear_command(as_json: bool) -> None:
    """Remove everything. Environments go on running; what is installed next is fetched again."""
    from modpkg.store.contents import scan_store
    from modpkg.store.garbage import clear

    store = Store(store_folder())
    with store.lock(exclusive=True):
        size = scan_store(store).size
        clear(store)
    if as_json:
        print_json({"freed": size})
    else:
        say(f"{good('Freed')} {human_bytes(size)}.")


@store_command.command("verify")
@click.option("--no-repair", is_flag=True, help="Only say what is damaged.")
@offline_option
@json_option
def verify_command(no_repair: bool, offline: bool, as_json: bool) -> None:
    """Hash everything in the store, and put right what is damaged.

    What is damaged is fetched or composed anew for the projects that use it, and written in its
    place, also in their environments. Exits with 1 if anything stays damaged.
    """
    from modpkg.environment.repair import repair
    from modpkg.store.contents import scan_store
    from modpkg.store.corruption import find_corruption

    store = Store(store_folder())
    with TerminalProgress() as progress:
        with store.lock():
            contents = scan_store(store)
            progress.stage("Verifying")
            progress.total(contents.size)
            damaged = find_corruption(store, contents, progress.advance)
        repaired = [] if no_repair else repair(store, damaged, progress, offline=offline)
    left = [item for item in damaged if item not in repaired]
    if as_json:
        print_json({"bytes": contents.size, "damaged": damaged, "repaired": len(repaired)})
    else:
        for item in damaged:
            done = good("repaired") if item in repaired else strong("damaged")
            say(f"{done} {item.kind} {item.digest} in {shown(Path(item.path))}: {item.reason}")
        say(
            f"{good('Verified')} {human_bytes(contents.size)}: "
            + (f"{len(damaged)} damaged, {len(repaired)} repaired." if damaged else "all sound.")
        )
    raise SystemExit(1 if left else 0)
