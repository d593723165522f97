"""The root that ``registry trust init`` and ``rotate`` write, and ``sign-root``: by turns too."""

from __future__ import annotations

import datetime
from pathlib import Path

import click
from click.core import ParameterSource
from msgspec import Struct

from modpkg.cli.key import open_signer
from modpkg.cli.options import json_option
from modpkg.cli.output import counted, print_json, say, table, tell, warn
from modpkg.core import bounds, system
from modpkg.core.errors import TrustError, UsageError
from modpkg.core.files import shown, write_atomically
from modpkg.core.names import listed
from modpkg.core.regular_file import read_file
from modpkg.registry.place import Place
from modpkg.trust.bundle import Signer
from modpkg.trust.lives import check_next_root
from modpkg.trust.metadata import RootMetadata, key_of, metadata_key
from modpkg.trust.public_key import PublicKey, parse_key
from modpkg.trust.root_draft import RootDraft, read_draft
from modpkg.trust.root_metadata import new_root


class RootOptions(Struct, frozen=True):
    """What the command line says of the next root of a registry."""

    people: tuple[str, ...]
    others: tuple[str, ...]
    threshold: int | None
    days: int
    file: Path | None


class RootToSign(Struct, frozen=True, kw_only=True):
    """A root that people sign by turns: it counts for nobody yet."""

    file: str
    root_version: int
    root_expires: str
    threshold: int
    """How many of ``people`` have to sign it, and the next one."""
    people: list[str]
    """Public keys."""
    online: str
    """The public key that signs the index itself."""
    signed: list[str]
    """Whose signatures it has, of ``people``."""


@click.command("sign-root")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--root-key",
    "people",
    multiple=True,
    metavar="KEY",
    help="Your key: its name, its file, or agent=KEY. Without one, FILE is shown alone.",
)
@json_option
def sign_root_command(file: Path, people: tuple[str, ...], as_json: bool) -> None:
    """Sign the root in FILE, which 'init' or 'rotate' has left there with --root-file.

    Compare what it says with what your registry is to have: whoever holds these keys says from then
    on who signs. Then send FILE to the next one, or back to who runs the registry.
    """
    draft = _read(file)
    signers = [open_signer(text) for text in people]
    if signers:
        draft = draft.signed_with(signers)
        write_atomically(file, draft.data())
    _show(file, draft, as_json=as_json)
    for signer in signers:
        if signer.public not in draft.people:
            warn(f"{signer.public} is no root key from now on; it counts if it was one before.")


def next_root(
    place: Place,
    given: RootOptions,
    online: PublicKey,
    before: RootMetadata | None,
    *,
    as_json: bool,
) -> bytes | None:
    """Return the file of the next root; None if it was left for others to sign, and shown.

    Raises:
        TrustError: Too few can sign it, and there is no file to leave it in; or what is there is
            another root.
        UsageError: No keys are named, or some that never hold.
    """
    file, version = given.file, 1 if before is None else before.version + 1
    keys, signers = _keys(given.people)
    signers += [open_signer(one) for one in given.others]
    if file is not None and file.exists():
        draft = _read(file)
        _check_next(place.url, file, draft, version, online)
        threshold = draft.root.roles["root"].threshold
        if (keys and {*keys} != {*draft.people}) or given.threshold not in (None, threshold):
            message = f"{shown(file)} has other root keys, or another threshold, than are named."
            raise UsageError("M901", message=message)
    else:
        if not keys:
            raise UsageError("M901", message="Name who signs roots: --root-key KEY.")
        draft = RootDraft(_new(given, keys, version, online, before))
        source = click.get_current_context().get_parameter_source("root_days")
        if before is not None and source is ParameterSource.DEFAULT:
            check_next_root(place.url, before, draft.root, _now())
    draft = draft.signed_with([one for one in signers if _may_sign(one, draft.root, before)])
    try:
        draft.check_enough(place.url, before)
    except TrustError:
        if file is None:
            raise
        write_atomically(file, draft.data())
        _show(file, draft, as_json=as_json)
        if not as_json:
            _tell_next(place.url, file, draft, before)
        return None
    return draft.data(before, is_whole=True)


def _tell_next(url: str, file: Path, draft: RootDraft, before: RootMetadata | None) -> None:
    """Say who has still to sign."""
    signed = draft.signers(before)
    tell(f"\nToo few have signed it, so {url} is as it was.")
    for one in (draft.root,) if before is None else (before, draft.root):
        role = one.roles["root"]
        missing = [key_of(one.keys[each]) for each in role.keyids if each not in signed]
        count = role.threshold - len(role.keyids) + len(missing)
        if count > 0:
            whose = "so far" if one is before else "from now on"
            tell(f"Of the root keys {whose}, {count} more: of {listed(missing)}.")
    command = f"modpkg registry trust sign-root {system.shell_word(file.name)} --root-key KEY"
    tell(f"They sign {shown(file)} by '{command}'; then run this command again.")


def _new(
    given: RootOptions,
    keys: list[PublicKey],
    version: int,
    online: PublicKey,
    before: RootMetadata | None,
) -> RootMetadata:
    known = 1 if before is None else before.roles["root"].threshold
    threshold = known if given.threshold is None else given.threshold
    if threshold > len(set(keys)):
        message = f"--threshold {threshold} of {counted(len(set(keys)), 'root key')} never holds."
        if given.threshold is None:
            message = (
                f"So far {threshold} root keys have to sign, and {counted(len(set(keys)), 'key')} "
                "never can: name more with --root-key, or say --threshold."
            )
        raise UsageError("M901", message=message)
    if online in keys:
        message = "--online-key is a root key too; make another one with 'modpkg key new'."
        raise UsageError("M901", message=message)
    return new_root(version, keys, threshold, online, _now() + datetime.timedelta(given.days))


def _check_next(url: str, file: Path, draft: RootDraft, version: int, online: PublicKey) -> None:
    if draft.root.version != version:
        reason = f"{shown(file)} is root {draft.root.version}, and the next one is {version}"
    elif draft.online != online:
        reason = f"{shown(file)} has the online key {draft.online}, and --online-key is {online}"
    elif draft.until <= _now():
        reason = f"the root in {shown(file)} has expired; remove it, and begin it again"
    else:
        return
    raise TrustError("M568", url=url, reason=reason)


def _may_sign(signer: Signer, root: RootMetadata, before: RootMetadata | None) -> bool:
    keyid = metadata_key(signer.public)[0]
    roots = (root,) if before is None else (before, root)
    return any(keyid in one.roles["root"].keyids for one in roots)


def _keys(texts: tuple[str, ...]) -> tuple[list[PublicKey], list[Signer]]:
    """Return the keys that are named, and those of them that can sign."""
    signers = {text: open_signer(text) for text in texts if not text.startswith("key:")}
    keys = [signers[text].public if text in signers else parse_key(text) for text in texts]
    for one in keys:
        one.opened()
    return keys, [*signers.values()]


def _read(file: Path) -> RootDraft:
    return read_draft(read_file(file, bounds.TUF_ROOT_BYTES), shown(file))


def _show(file: Path, draft: RootDraft, *, as_json: bool) -> None:
    root, signed = draft.root, draft.signers()
    people = {key_of(root.keys[one]): one in signed for one in root.roles["root"].keyids}
    document = RootToSign(
        file=shown(file),
        root_version=root.version,
        root_expires=root.expires,
        threshold=root.roles["root"].threshold,
        people=[*people],
        online=str(draft.online),
        signed=[key for key, has_signed in people.items() if has_signed],
    )
    if as_json:
        print_json(document)
        return
    of = f"{document.threshold} of {len(people)}"
    say(document.file)
    rows = [
        ["Root", f"version {root.version}, until {root.expires}, {of} sign it"],
        *(["", key + (", signed" if has else "")] for key, has in people.items()),
        ["Online key", document.online],
    ]
    table(rows, ["What", "To be signed"])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
