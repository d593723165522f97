"""``registry trust``: who signs a registry's index."""

from __future__ import annotations

import datetime
import shutil
from contextlib import suppress
from pathlib import Path

import click
from msgspec import Struct

from modpkg.cli.key import open_signer
from modpkg.cli.options import json_option, with_workspace
from modpkg.cli.output import counted, good, print_json, say, table, tell, warn
from modpkg.cli.registry_address import registry_alone, storage_of
from modpkg.cli.registry_root import RootOptions, next_root, sign_root_command
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ModpkgError, TrustError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.files import write_atomically
from modpkg.environment.signed_registries import verify_index, without_seen
from modpkg.environment.workspace import Workspace
from modpkg.registry.opening import open_place
from modpkg.registry.place import Place
from modpkg.registry.recorded_address import recorded_address, same_place
from modpkg.registry.source import FileMissing
from modpkg.resolve.lock import format_lock
from modpkg.trust.bins import MOST_BITS
from modpkg.trust.bundle import Signer
from modpkg.trust.known_registry import remembered_folder
from modpkg.trust.lives import YEAR, Lives
from modpkg.trust.log.memory import LogMemory
from modpkg.trust.metadata import RootMetadata, key_of, metadata_key
from modpkg.trust.metadata_writer import MetadataWriter
from modpkg.trust.root_metadata import (
    ROOT_WARNING,
    name_root,
    no_root,
    roots_at,
    write_root,
)
from modpkg.trust.signed_index import SignedIndex
from modpkg.trust.stored_metadata import TIMESTAMP, StoredMetadata
from modpkg.trust.trusted_metadata import TrustedMetadata


class SignedRegistryDocument(Struct, frozen=True, kw_only=True):
    """Who signs a registry's index, and how far it has come."""

    address: str
    root: str
    """Digest of its first root, which says which registry it is."""
    root_version: int
    root_expires: str
    threshold: int
    """How many of ``people`` have to sign the next root."""
    people: list[str]
    """Public keys."""
    online: list[str]
    """Public keys that sign the index itself."""
    snapshot: int
    timestamp_expires: str
    expired: bool = False
    """Whether readers refuse it, since the root, the snapshot or the timestamp has expired."""


class SignedAgain(Struct, frozen=True):
    """A registry whose index was signed as it is."""

    address: str
    modules: int
    """Index files."""


class Forgotten(Struct, frozen=True):
    """A registry of whose signed index, or log, nothing is remembered any more."""

    address: str
    was_known: bool


_life = click.option(
    "--days",
    type=click.IntRange(1, YEAR.days),
    default=30,
    show_default=True,
    help="For how long readers take it without its being signed again.",
)
_online = click.option(
    "--online-key", required=True, metavar="KEY", help="The key that signs the index."
)
_people = click.option(
    "--root-key",
    "people",
    multiple=True,
    metavar="KEY",
    help="A key that signs roots (of yours, a file, or agent=KEY), or its public part; repeat it.",
)
_threshold = click.option(
    "--threshold",
    type=click.IntRange(1, 64),
    help="How many of the root keys have to sign a root. [default: as many as before, or 1]",
)
_root_file = click.option(
    "--root-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the root is, or is written, while people sign it by turns: see 'sign-root'.",
)
_root_days = click.option(
    "--root-days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="For how long the root holds.",
)


@click.group("trust")
def registry_trust_command() -> None:
    """Sign a registry's index, so that nobody can show an older or another one.

    \b
      modpkg registry trust init /srv/models --root-key alice --online-key /etc/modpkg/online.pem
      modpkg registry serve /srv/models --tuf-keys /etc/modpkg
      modpkg registry trust show https://models.acme.example
    """


registry_trust_command.add_command(sign_root_command)


@registry_trust_command.command("init")
@click.argument("address", metavar="STORAGE")
@_people
@_threshold
@_root_file
@_online
@click.option(
    "--bins",
    type=click.Choice([str(1 << bits) for bits in range(1, MOST_BITS + 1)]),
    help="Over how many files the names are spread. [default: by how many there are]",
)
@_root_days
@_life
@json_option
@with_workspace
def init_command(
    workspace: Workspace,
    address: str,
    people: tuple[str, ...],
    threshold: int | None,
    root_file: Path | None,
    online_key: str,
    bins: str | None,
    root_days: int,
    days: int,
    as_json: bool,
) -> None:
    """Begin to sign the index in STORAGE, a folder or an object store.

    Root keys stay with people, who sign who may sign: keep them off the server. The online key
    signs what is published. From now on readers refuse what is not signed.

    With fewer root keys here than have to sign, name a --root-file: the root is written there, for
    'sign-root', and the same command with it finishes once enough have signed.
    """
    place = storage_of(workspace, address)
    place.prepare()
    roots = roots_at(place)
    online = open_signer(online_key)
    if roots is None:
        given = RootOptions(people, (), threshold, root_days, root_file)
        signed = next_root(place, given, online.public, None, as_json=as_json)
        if signed is None:
            return
        data = signed
        write_root(place, data, None)
    else:  # whoever began was killed
        data, trusted = roots[0][0], roots[1]
        if trusted.root.version > 1 or _is_signed(place):
            raise TrustError("M568", url=place.url, reason="it is signed already")
    name_root(place, data)
    writer = _writer(place, online, days)
    bits = writer.bits() if bins is None else int(bins).bit_length() - 1
    count = writer.sign_all(bits=bits)
    if as_json:
        print_json(SignedAgain(place.url, count))
        return
    tell(f"{good('Signed')} {counted(count, 'index file')} of {place.url}.")
    tell(f"Its first root, for those who want to compare it: {digest_bytes(data)}")


@registry_trust_command.command("sign")
@click.argument("address", metavar="STORAGE")
@_online
@_life
@click.option("--fresh", is_flag=True, help="Leave aside what is signed so far, if it is damaged.")
@json_option
@with_workspace
def sign_command(
    workspace: Workspace, address: str, online_key: str, days: int, fresh: bool, as_json: bool
) -> None:
    """Sign the index in STORAGE as it is now: look at it before.

    Nobody may publish meanwhile. A server with the key signs by itself what it publishes.
    """
    place = storage_of(workspace, address)
    writer = _writer(place, open_signer(online_key), days)
    count = writer.sign_all(bits=writer.bits() if fresh else None)
    _warn_of_root(place)
    if as_json:
        print_json(SignedAgain(place.url, count))
    else:
        tell(f"{good('Signed')} {counted(count, 'index file')} of {place.url}.")


@registry_trust_command.command("rotate")
@click.argument("address", metavar="STORAGE")
@_people
@click.option(
    "--sign-with",
    "others",
    multiple=True,
    metavar="KEY",
    help="A root key that signs this root, and is none any more; repeat it.",
)
@_threshold
@_root_file
@_online
@_root_days
@_life
@json_option
@with_workspace
def rotate_command(
    workspace: Workspace,
    address: str,
    people: tuple[str, ...],
    others: tuple[str, ...],
    threshold: int | None,
    root_file: Path | None,
    online_key: str,
    root_days: int,
    days: int,
    as_json: bool,
) -> None:
    """Write the next root in STORAGE: with other keys, or with the same ones for another year.

    As many of the root keys so far as have to, and of the new ones, sign it, here or by turns with
    a --root-file, as for 'init'. With another online key, the index is signed as it is now: look at
    it before, if the key was stolen.
    """
    place = storage_of(workspace, address)
    roots = roots_at(place)
    if roots is None:
        raise no_root(place)
    trusted, before = roots[1], roots[1].root
    online = open_signer(online_key)
    given = RootOptions(people, others, threshold, root_days, root_file)
    data = next_root(place, given, online.public, before, as_json=as_json)
    if data is None:
        return
    writer = _writer(place, online, days)
    if metadata_key(online.public)[0] in _online_keys(before):
        writer.check_clock()
    bits = writer.bits()
    write_root(place, data, trusted)
    if _online_keys(before) != _online_keys(trusted.root):
        writer.sign_all(bits=bits)
    else:
        writer.renew(thoroughly=True, at_once=True)
    current = StoredMetadata(place).current()
    _show(_document(place.url, digest_bytes(roots[0][0]), current), as_json=as_json)


@registry_trust_command.command("show")
@click.argument("address", metavar="URL")
@json_option
@with_workspace
def show_command(workspace: Workspace, address: str, as_json: bool) -> None:
    """Show who signs the index of the registry at URL, as its readers verify it.

    What has expired is shown too, and what is refused here for another reason, which is said.
    """
    registry = registry_alone(workspace, address)
    files = registry.files
    signed = SignedIndex(files.source, files.home, files.info, now=lambda: None)
    trusted = signed.metadata()
    seen = signed.seen()
    if trusted is None or seen is None:
        _ = registry.info
        raise TrustError("M579", url=signed.url)
    _show(_document(signed.url, seen.root, trusted), as_json=as_json)
    try:
        _ = registry.info
    except TrustError as refusal:
        if refusal.code != "M561":
            warn(f"it is refused here: {refusal}")


@registry_trust_command.command("forget")
@click.argument("address", metavar="URL")
@click.option("--log", is_flag=True, help="Forget its log instead: its key, and how far it came.")
@json_option
@with_workspace
def forget_command(workspace: Workspace, address: str, log: bool, as_json: bool) -> None:
    """Forget that the registry at URL is signed, and by whom, here and in the project's lock.

    The next command believes what it finds there, as the first one did: ask who runs it before.
    """
    signed = _signed(workspace, address)
    if log:
        known = LogMemory(signed.address).forget()
        what = f"the log of {signed.url}"
    else:
        folder = remembered_folder(signed.address)
        known = folder.is_dir()
        shutil.rmtree(folder, ignore_errors=True)
        what = f"who signs {signed.url}"
    opened = workspace.open_registries.at(signed.address, Path.cwd())
    opened.files.forget(REGISTRY_INFO)  # or what it said would be believed again
    lock = None
    with suppress(ModpkgError):
        lock = workspace.lock
    if lock is not None and lock.registry:
        own, base = recorded_address(signed.address, workspace.manifest), workspace.manifest.folder
        kept = without_seen(lock, lambda where: same_place(where, own, base), log=log)
        if kept != lock:
            known = True
            write_atomically(workspace.project.lock_path, format_lock(kept).encode())
    if as_json:
        print_json(Forgotten(signed.url, known))
    else:
        tell(f"{good('Forgot')} {what}." if known else "Nothing was known of it.")


def _warn_of_root(place: Place) -> None:
    roots = roots_at(place)
    if roots is not None and roots[1].root.until - _now() < ROOT_WARNING:
        warn(
            f"the root of {place.url} expires at {roots[1].root.expires}, and nobody reads it "
            "then; people with root keys renew it by 'modpkg registry trust rotate'"
        )


def _signed(workspace: Workspace, text: str) -> SignedIndex:
    return verify_index(registry_alone(workspace, text).files)


def _writer(place: Place, online: Signer, days: int) -> MetadataWriter:
    from modpkg.registry.unnamed import PRIVATE_TREE

    life = datetime.timedelta(days)
    private = None
    if place.folder is not None and (place.folder / PRIVATE_TREE).is_dir():
        private = open_place(str(place.folder / PRIVATE_TREE))
    elif place.folder is None:
        private = open_place(f"{place.source.url.rstrip('/')}/{PRIVATE_TREE}")
    lives = Lives(life, life)
    return MetadataWriter(place, [online], lives=lives, private=private, now=lambda: _now())


def _is_signed(place: Place) -> bool:
    try:
        place.source.read(TIMESTAMP)
    except FileMissing:
        return False
    return True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _online_keys(root: RootMetadata) -> list[str]:
    return root.roles["timestamp"].keyids


def _document(url: str, first: str, trusted: TrustedMetadata) -> SignedRegistryDocument:
    root = trusted.root
    snapshot, stamp = trusted.snapshot, trusted.timestamp
    return SignedRegistryDocument(
        address=url,
        root=first,
        root_version=root.version,
        root_expires=root.expires,
        threshold=root.roles["root"].threshold,
        people=[key_of(root.keys[one]) for one in root.roles["root"].keyids],
        online=[key_of(root.keys[one]) for one in _online_keys(root)],
        snapshot=0 if snapshot is None else snapshot.version,
        timestamp_expires="" if stamp is None else stamp.expires,
        expired=any(one is not None and one.until <= _now() for one in (root, snapshot, stamp)),
    )


def _show(document: SignedRegistryDocument, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    say(document.address)
    of = f"{document.threshold} of {len(document.people)}"
    rows = [
        ["First root", document.root],
        ["Root", f"version {document.root_version}, until {document.root_expires}, {of} sign it"],
        *(["", one] for one in document.people),
        ["Index", f"snapshot {document.snapshot}, until {document.timestamp_expires or '-'}"],
        *(["", one] for one in document.online),
    ]
    table(rows, ["What", "Signed"])
    if document.expired:
        say("It has expired, and its readers refuse it.")
