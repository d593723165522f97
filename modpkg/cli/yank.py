"""``yank``."""

from __future__ import annotations

import click

from modpkg.cli.key import open_release_signer
from modpkg.cli.module_names import known_names
from modpkg.cli.options import check_reason_option, json_option, registry_option
from modpkg.cli.output import good, print_json, tell, warn
from modpkg.cli.registry_address import warn_if_unsigned
from modpkg.community.modules.reference import parse_release
from modpkg.registry.opening import existing_registry
from modpkg.registry.place import registry_at
from modpkg.trust.bundle import verify_bundle
from modpkg.trust.successors import check_may_yank, release_before, sign_yank


@click.command("yank")
@click.argument("release", metavar="NAME==VERSION", shell_complete=known_names)
@click.option("--reason", default="", help="Why, for those who have it locked.")
@click.option("--undo", is_flag=True, help="Undo the yank.")
@click.option(
    "--sign",
    metavar="KEY",
    help="Sign this as you sign releases, with a key or as the CI job that runs ('oidc').",
)
@registry_option
@json_option
def yank_command(
    release: str, reason: str, undo: bool, sign: str | None, registry: str | None, as_json: bool
) -> None:
    """Exclude a release from new resolutions; existing locks and pins keep it.

    A registry alone can't take back what is locked: of a module that is signed, an update goes back
    to an older release only from a yank that is signed too (--sign), or when its user accepts it.
    The release before is signed with it, if another key that named yours has signed that alone.
    """
    check_reason_option(reason)
    name, version = parse_release(release)
    writer = existing_registry(registry)
    said, bundle, earlier = None if undo else reason, None, None
    if sign is not None:
        found, signer = registry_at(writer.place), open_release_signer(sign)
        before = found.line(name, version)
        bundle = sign_yank(found, before, said, signer)
        by = verify_bundle(bundle).signer
        if (only := check_may_yank(found, before, by)) is not None:
            warn(only)
        earlier = None if undo else release_before(found, before, by)
        if earlier is not None:
            from modpkg.community.semver.releases import signature_of  # slow to import

            signature = signature_of(found, earlier, signer)
            writer.yank(earlier.name, earlier.version, None, signature)
    line = writer.yank(name, version, said, bundle)
    warn_if_unsigned(writer.place)
    if as_json:
        print_json(line)
    elif undo:
        tell(f"{good('Unyanked')} {line.name} {line.version}.")
    else:
        tell(f"{good('Yanked')} {line.name} {line.version}.")
        if earlier is not None:
            tell(f"{good('Signed')} {earlier.version}, of a key before, which takes its place.")
        if line.signed is True and sign is None:
            tell("It is signed, and this is not: who has it locked is asked. --sign KEY signs it.")
