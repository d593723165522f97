"""``registry``: where modules come from, and looking after a registry."""

from __future__ import annotations

import datetime
from collections import Counter

import click
from msgspec import Struct

from modpkg.cli.options import json_option, project_options, span_option, with_workspace
from modpkg.cli.output import counted, good, note, print_json, say, strong, table, tell
from modpkg.cli.registry_address import location_of, registry_alone, storage_of, warn_if_unsigned
from modpkg.cli.registry_advisory import advisory_command
from modpkg.cli.registry_log import audit_log_command, witness_command
from modpkg.cli.registry_remove import remove_release_command
from modpkg.cli.registry_trust import registry_trust_command
from modpkg.cli.registry_verify import verify_command
from modpkg.cli.search import search_command
from modpkg.cli.serve import admin_command, rebuild_command, serve_command
from modpkg.core.errors import PublishError, UsageError
from modpkg.core.filenames import LOCK_NAME
from modpkg.core.files import human_bytes
from modpkg.core.redacted import redacted
from modpkg.environment.workspace import Workspace
from modpkg.manifest.dependencies import DEFAULT
from modpkg.manifest.normal_address import normal_address
from modpkg.registry.advisories import copy_advisories
from modpkg.registry.bucket_place import BucketPlace
from modpkg.registry.copying import Copied, copy_releases
from modpkg.registry.identity import set_cool_down
from modpkg.registry.location import Location, alias_location, default_location
from modpkg.registry.names import check_name
from modpkg.registry.opening import open_place
from modpkg.registry.place import is_registry, registry_at
from modpkg.registry.probe import probe
from modpkg.registry.reader import Registry
from modpkg.registry.server_place import ServerPlace
from modpkg.registry.server_writer import writer_at
from modpkg.registry.unnamed import Freed, private_address, remove_unnamed
from modpkg.registry.upkeep import all_names, needed_releases, open_alone
from modpkg.registry.writer import RegistryWriter

DAY = 24 * 60 * 60


class RegistryUse(Struct, frozen=True):
    """A registry, and what comes from it."""

    alias: str
    address: str
    """A URL, with ``***`` in place of secrets, or the absolute path of a folder."""
    origin: str
    """What named it."""
    modules: list[str]
    """The locked modules that come from it."""


class RegistriesDocument(Struct, frozen=True):
    """Where the modules of a project come from."""

    registries: list[RegistryUse]


class MadeRegistry(Struct, frozen=True):
    """A registry that can be published to."""

    address: str
    name: str
    made: bool
    """Whether it was not one before."""
    cool_down: str | None = None
    """How old its releases have to be before others lock them."""


class RegistryContents(Struct, frozen=True, kw_only=True):
    """What a registry has."""

    address: str
    name: str
    modules: int
    kinds: dict[str, int]
    """How many modules there are of each kind, by their newest releases."""
    releases: int
    yanked: int
    """How many of these are yanked."""
    size: int
    """Bytes that the releases have added to it, each when it was published."""
    newest: str
    """When the last release was published; empty if that is not known."""
    searchable: bool
    """Whether it has ``modules.jsonl``, by which readers also see what has changed."""
    private: int
    """How many modules the tree of private ones has, where it can be read beside the other."""


class RegistryCopied(Copied, frozen=True, kw_only=True):
    """What was copied from one registry to another."""

    source: str
    target: str
    signed: bool
    """Whether the index of the target is signed; the source's metadata and log are not copied."""
    lacks: list[str]
    """What the source has and the target has not: ``signed index``, ``log``. Whoever reads the
    target by itself trusts who keeps it; whoever reads it as a mirror asks the source for them."""


class RegistryFreed(Freed, frozen=True, kw_only=True):
    """What was removed of a registry."""

    address: str
    dry_run: bool


@click.group("registry")
def registry_command() -> None:
    """Show where modules come from; make, copy and look after registries.

    A registry is named by a folder, a URL or an alias, as with --registry.

    \b
      modpkg registry init s3://models/team
      modpkg registry copy https://models.acme.example /srv/mirror
      modpkg registry verify /srv/mirror
    """


@registry_command.command("list")
@project_options
@with_workspace
def list_registries(workspace: Workspace, as_json: bool) -> None:
    """List the project's registries, what named each, and the locked modules that come from it."""
    manifest, lock = workspace.manifest, workspace.lock
    default = default_location(manifest, workspace.options.registry, lambda: workspace.settings)
    places: dict[str, Location] = {DEFAULT: default}
    for alias in manifest.registries:
        if alias != DEFAULT:
            places[alias] = alias_location(manifest, alias)
    modules: dict[str, list[str]] = {alias: [] for alias in places}
    for module in lock.module if lock is not None else ():
        modules[workspace.registries.alias(module.name)].append(str(module.name))
    locked = workspace.registries.of_lock_alone if modules[DEFAULT] else {}
    rows = [
        RegistryUse(DEFAULT, redacted(address), f"from {LOCK_NAME}", names)
        for address, all_names in locked.items()
        if (names := [name for name in all_names if name in modules[DEFAULT]])
    ]
    listed = {name for row in rows for name in row.modules}
    for alias, place in places.items():
        names = [name for name in modules[alias] if alias != DEFAULT or name not in listed]
        if names or alias != DEFAULT or not rows:
            rows.append(RegistryUse(alias, redacted(place.address), place.origin, names))
    if as_json:
        print_json(RegistriesDocument(rows))
        return
    table(
        [[row.alias, row.address, row.origin, ", ".join(row.modules) or "-"] for row in rows],
        ["Alias", "Address", "Named", "Modules"],
    )


@registry_command.command("init")
@click.argument("address", metavar="URL")
@click.option("--name", metavar="NAME", help="What a new registry calls itself; for ever.")
@click.option(
    "--cool-down",
    metavar="SPAN",
    callback=span_option,
    help="How old a release has to be before others lock it; '0 days' for any age.",
)
@json_option
@with_workspace
def init_registry(
    workspace: Workspace, address: str, name: str | None, cool_down: float | None, as_json: bool
) -> None:
    """Make a registry at URL, and check that it can be published to.

    Of an object store it is checked that it heeds the conditions that keep publishers from
    overwriting each other's releases. At URL may be a registry already: it is checked, its list of
    modules is written again, and what --cool-down says is changed.
    """
    if name is not None:
        check_name(name)
    place = storage_of(workspace, address)
    if isinstance(place, BucketPlace) and (ignored := probe(place)):
        raise PublishError("M848", url=place.url, ignored=" and ".join(ignored))
    made = not is_registry(place)
    place.prepare(name)
    actual = registry_at(place).name
    if name is not None and actual != name:
        raise UsageError(
            "M901",
            message=f"The registry at {place.url} calls itself {actual!r}, and that never changes.",
        )
    RegistryWriter(place).describe_all()
    if cool_down is not None:
        set_cool_down(place, datetime.timedelta(seconds=cool_down))
        if not made:
            warn_if_unsigned(place)
    if as_json:
        print_json(MadeRegistry(place.url, actual, made, registry_at(place).info.cool_down))
    elif made:
        tell(f"{good('Made')} the registry {strong(actual)} at {place.url}.")
        tell(f"Publish to it: modpkg publish FOLDER --registry {place.url}")
    else:
        tell(f"{place.url} is the registry {strong(actual)} already, and can be published to.")


@registry_command.command("info")
@click.argument("address", metavar="URL")
@json_option
@with_workspace
def registry_info(workspace: Workspace, address: str, as_json: bool) -> None:
    """Show what the registry at URL has: modules, releases, bytes."""
    registry = registry_alone(workspace, address)
    workspace.progress.stage("Reading")
    names = all_names(registry)
    lines = {name: registry.index(name) for name in names}
    every = [line for of_one in lines.values() for line in of_one]
    contents = RegistryContents(
        address=registry.url,
        name=registry.name,
        modules=sum(map(bool, lines.values())),
        kinds=dict(sorted(Counter(of_one[-1].kind for of_one in lines.values() if of_one).items())),
        releases=len(every),
        yanked=sum(line.yanked is not None for line in every),
        size=sum(line.size for line in every),
        newest=max((line.published for line in every), default=""),
        searchable=registry.modules() is not None,
        private=len(_private_names(registry, workspace)),
    )
    if as_json:
        print_json(contents)
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in contents.kinds.items())
    yanked = f", {contents.yanked} yanked" if contents.yanked else ""
    say(f"{strong(contents.name)} at {contents.address}")
    rows = [
        ["Modules", f"{contents.modules}{f' ({kinds})' if kinds else ''}"],
        ["Releases", f"{contents.releases}{yanked}"],
        ["Size", human_bytes(contents.size)],
        ["Newest", contents.newest or "-"],
    ]
    table(rows, ["What", "It has"])
    if contents.private:
        say(f"{counted(contents.private, 'private module')} not counted: see 'private' in it.")
    if not contents.searchable:
        say(f"It has no modules.jsonl: 'modpkg registry init {contents.address}' writes it.")


def _private_names(registry: Registry, workspace: Workspace) -> list[str]:
    """Return the private modules of the registry's storage, where it is read as such."""
    address = private_address(registry)
    return [] if address is None else all_names(open_alone(address, workspace.settings))


@registry_command.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("requirements", metavar="[NAME]...", nargs=-1)
@json_option
@with_workspace
def copy_registry(
    workspace: Workspace,
    source: str,
    target: str,
    requirements: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy the releases of the registry FROM to the registry TO, which becomes a mirror of it.

    With NAME, or a range like 'NAME>=2', only these releases are copied, and what they need. What
    TO has already is not copied again, so that the same command brings it up to date, and goes on
    with what was interrupted. Times of publication and yanks travel along.

    What FROM has signed is verified, and copied is what follows of it. The copy has an index of its
    own: neither the signatures of FROM's index nor its log are copied.
    """
    origin = registry_alone(workspace, source)
    place = open_place(location_of(workspace, target).address, workspace.settings)
    if normal_address(place.source.url) == normal_address(origin.source.url):
        raise UsageError("M901", message="FROM and TO are one registry.")
    workspace.progress.stage("Reading")
    if requirements:
        releases = needed_releases(origin, requirements)
    else:
        releases = {name: origin.index(name) for name in all_names(origin)}
    writer = writer_at(place, origin.name)
    done = copy_releases(origin, writer, releases, workspace.progress)
    if not isinstance(place, ServerPlace):  # there, only administrators publish them
        copy_advisories(origin, place)
    own = registry_at(place).info
    signed = own.tuf is not None
    if signed and (done.releases or done.yanks):
        warn_if_unsigned(place)
    lacks = [
        *(["signed index"] if origin.info.tuf is not None and not signed else []),
        *(["log"] if origin.info.log is not None and own.log is None else []),
    ]
    if as_json:
        print_json(
            RegistryCopied(
                done.releases,
                done.yanks,
                done.already,
                source=origin.url,
                target=place.url,
                signed=signed,
                lacks=lacks,
            )
        )
        return
    yanks = f", {counted(done.yanks, 'yank')} changed" if done.yanks else ""
    tell(
        f"{good('Copied')} {counted(done.releases, 'release')} to {place.url}{yanks}; "
        f"{done.already} {'was' if done.already == 1 else 'were'} there."
    )
    if lacks:
        note(
            f"The copy has no {' and no '.join(lacks)}, as {origin.url} has: whoever reads it by "
            "itself trusts who keeps it, and whoever reads it as a mirror asks the other for them."
        )


@registry_command.command("gc")
@click.argument("address", metavar="URL")
@click.option(
    "--older-than",
    "age",
    metavar="SPAN",
    default="7 days",
    show_default=True,
    callback=span_option,
    help="Remove only what is older than SPAN, which is at least a day.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@json_option
@with_workspace
def collect_registry(
    workspace: Workspace, address: str, age: float, dry_run: bool, as_json: bool
) -> None:
    """Remove the files from the registry at URL that no release names, private ones included.

    Publishers that were interrupted leave them. Nothing is removed from a registry that is being
    written to: in a folder, this waits for publishers, and they for it; an object store must not
    have been written to for an hour.
    """
    if age < DAY:
        raise UsageError("M901", message="--older-than is at least '1 day'.")
    place = storage_of(workspace, address)
    freed = remove_unnamed(
        place,
        older_than=datetime.timedelta(seconds=age),
        now=datetime.datetime.now(datetime.timezone.utc),
        progress=workspace.progress,
        dry_run=dry_run,
    )
    if as_json:
        print_json(
            RegistryFreed(freed.files, freed.freed, freed.left, address=place.url, dry_run=dry_run)
        )
        return
    verb = "Would free" if dry_run else "Freed"
    say(
        f"{good(verb)} {human_bytes(freed.freed)} ({counted(freed.files, 'file')}) of {place.url}; "
        f"{counted(freed.left, 'file')} left."
    )


registry_command.add_command(search_command)
registry_command.add_command(verify_command)
registry_command.add_command(serve_command)
registry_command.add_command(admin_command)
registry_command.add_command(rebuild_command)
registry_command.add_command(remove_release_command)
registry_command.add_command(advisory_command)
registry_command.add_command(registry_trust_command)
registry_command.add_command(audit_log_command)
registry_command.add_command(witness_command)
