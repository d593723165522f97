"""``key``: the keys that releases are signed with."""

from __future__ import annotations

import os
import warnings
from getpass import GetPassWarning
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import counted, good, print_json, say, table, tell
from modpkg.cli.registry_address import warn_if_unsigned
from modpkg.core import bounds
from modpkg.core.errors import ModpkgError, TrustError, UsageError
from modpkg.core.files import shown
from modpkg.core.names import module_name
from modpkg.core.oidc_identity import SCHEME as OIDC_SCHEME
from modpkg.core.oidc_identity import OidcIdentity, parse_identity
from modpkg.core.regular_file import read_text
from modpkg.registry.opening import existing_registry
from modpkg.registry.place import registry_at
from modpkg.trust.agent import AGENT, agent_key
from modpkg.trust.ambient import OIDC, AmbientIdentity
from modpkg.trust.bundle import sign_statement, verify_bundle
from modpkg.trust.private_key import PASSPHRASE, key_path, keys_folder, new_key, no_key, read_key
from modpkg.trust.public_key import Algorithm, PublicKey, parse_key
from modpkg.trust.signatures import is_signer, parse_signer
from modpkg.trust.statement import keys_of_module, succession_statement
from modpkg.trust.successors import check_may_name, signed_so_far, successions_of

if TYPE_CHECKING:
    from modpkg.trust.bundle import Signer, StatementSigner


_PUBLIC_BYTES = 4096


class KeyDocument(Struct, frozen=True):
    """A key to sign releases with."""

    name: str
    path: str
    public: str
    """The signer, as locks and ``[trust]`` write it; empty if its passphrase was not given."""


class KeysDocument(Struct, frozen=True):
    """The keys of this user."""

    keys: list[KeyDocument]


class Succession(Struct, frozen=True):
    """A key that signs a module in the place of another."""

    module: str
    before: str
    after: str
    releases: list[str]
    """What the key has signed until now, as package URLs; it signs no other ones."""
    left_out: int
    """How many older ones it has signed beside these, more than can be named."""


@click.group("key")
def key_command() -> None:
    """Make and list the keys that releases are signed with.

    \b
      modpkg key new release
      modpkg publish --sign release
    """


@key_command.command("new")
@click.argument("name", default="default")
@click.option(
    "--algorithm",
    type=click.Choice(["ed25519", "ecdsa-p256"]),
    default="ed25519",
    show_default=True,
)
@click.option("--no-passphrase", is_flag=True, help="Keep it as it is, for machines.")
@json_option
def new_command(name: str, algorithm: Algorithm, no_passphrase: bool, as_json: bool) -> None:
    """Make the key NAME, and print its public part."""
    path = key_path(name) if name.endswith(".pem") else key_path(str(module_name(name)))
    passphrase = None if no_passphrase else _passphrase("Passphrase for the new key", new=True)
    public = new_key(path, algorithm, passphrase)
    _write_public(path, str(public))
    if as_json:
        print_json(KeyDocument(name, str(path), str(public)))
        return
    tell(f"{good('Made')} {shown(path)}. Keep a copy where nobody else can read it.")
    tell(str(public))


@key_command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List your keys, with what locks and [trust] write of them."""
    rows = []
    folder = keys_folder()
    for path in sorted(folder.glob("*.pem")) if folder.is_dir() else ():
        public = path.with_suffix(".pub")
        text = read_text(public, _PUBLIC_BYTES).strip() if public.is_file() else ""
        rows.append(KeyDocument(path.stem, str(path), text))
    if as_json:
        print_json(KeysDocument(rows))
    elif not rows:
        tell("No keys; 'modpkg key new' makes one.")
    else:
        table([[row.name, row.public or "-"] for row in rows], ["Name", "Signer"])


@key_command.command("export")
@click.argument("name", default="default")
def export_command(name: str) -> None:
    """Print the public part of the key NAME in PEM, for other tools; or of key:ALGORITHM:…"""
    text = name
    if not name.startswith("key:"):
        public = key_path(name).with_suffix(".pub")
        try:
            text = read_text(public, _PUBLIC_BYTES).strip()
        except FileNotFoundError:
            raise no_key(key_path(name)) from None
    say(parse_key(text).pem().decode().rstrip())


def _write_public(path: Path, public: str) -> None:
    from modpkg.core.files import write_atomically

    write_atomically(path.with_suffix(".pub"), f"{public}\n".encode())


def _passphrase(text: str, *, new: bool = False) -> str:
    """Return a passphrase, of the environment or of whoever sits there.

    ``new`` is whether it is that of a new key, which is asked for twice, and need not have one.

    Raises:
        UsageError: There is nobody to ask.
    """
    if (given := os.environ.get(PASSPHRASE)) is not None:
        return given
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # it would be shown as it is typed
            answer: str = click.prompt(text, hide_input=True, confirmation_prompt=new, err=True)
    except (click.Abort, GetPassWarning):
        message = f"A passphrase is needed, and there is no terminal to ask on; set {PASSPHRASE}"
        end = ", or use --no-passphrase." if new else "."
        raise UsageError("M901", message=message + end) from None
    return answer


def open_release_signer(text: str) -> Signer | StatementSigner:
    """Return what ``--sign`` names of those that sign releases: `open_signer`'s, or an identity.

    Raises:
        TrustError: There is no such key or identity, or it cannot be used.
        MissingExtra: Identities need a package that is not installed.
    """
    return AmbientIdentity() if text == OIDC else open_signer(text)


def open_signer(text: str) -> Signer:
    """Return what ``--sign`` names: a key of this user, a file, or one of the ssh agent.

    Raises:
        TrustError: There is no such key, or it cannot be used.
    """
    kind, _, wanted = text.partition("=")
    if kind == AGENT:
        return agent_key(wanted or None)
    try:
        is_path = os.sep in text or text.endswith(".pem")
        path = key_path(text if is_path else str(module_name(text)))
    except ModpkgError:
        path = Path(text)
    return read_key(path, lambda: _passphrase(f"Passphrase of {shown(path)}"))


@key_command.command("succeed")
@click.argument("name")
@click.option(
    "--from",
    "old",
    required=True,
    metavar="KEY",
    help="The key that has signed so far; or the identity (oidc:…) of the CI job that runs.",
)
@click.option("--to", "new", required=True, metavar="SIGNER", help="The one that signs from now.")
@registry_option
@json_option
def succeed_command(name: str, old: str, new: str, registry: str | None, as_json: bool) -> None:
    """Let another key sign the module NAME in the place of yours.

    Whoever has a release locked that your key signed takes those of the other one from now on, and
    of yours only what it has signed until now. Remove first what somebody else has signed with it.
    """
    module, successor = module_name(name), parse_signer(new)
    before: PublicKey | OidcIdentity
    signer: Signer | StatementSigner
    if old.startswith(OIDC_SCHEME):
        before, signer = parse_identity(old), AmbientIdentity()
    else:
        signer = open_signer(old)
        before = signer.public
    if isinstance(successor, PublicKey):
        successor.opened()
    writer = existing_registry(registry)
    if not (found := registry_at(writer.place)).knows(module):
        raise found.not_found(module, "any")
    successions = successions_of(found, module)
    check_may_name(successions, module, before, successor)
    signed = signed_so_far(found, module, str(before))
    named = signed[: bounds.SUCCEEDED_RELEASES]
    statement = succession_statement(keys_of_module(module), successor, named)
    bundle = sign_statement(statement, signer)
    by = verify_bundle(bundle).signer
    if not is_signer(str(before), by):
        raise TrustError("M547", what=f"{by}, who runs here,", reason=f"it is not {before}")
    if not signed and not any(is_signer(one.after, before) for one in successions.named):
        reason = "it has signed none of its releases"
        raise TrustError("M572", name=module, old=before, new=successor, reason=reason)
    check_may_name(successions, module, by, successor)  # of which --from may say less
    writer.succeed(module, bundle)
    warn_if_unsigned(writer.place)
    left = len(signed) - len(named)
    if as_json:
        names = [one.name for one in named]
        print_json(Succession(str(module), str(before), str(successor), names, left))
        return
    tell(f"{good('Signed')}: {successor} signs {module} from now on.")
    tell(f"It names {counted(len(named), 'release')} that {before} has signed; no other counts.")
    if left:
        tell(f"Sign the {counted(left, 'older one')} with {successor} ('modpkg publish --sign').")
