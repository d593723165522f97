"""``registry verify``."""

from __future__ import annotations

import contextlib

import click
from msgspec.structs import replace

from modpkg.cli.options import json_option, with_workspace
from modpkg.cli.output import counted, good, print_json, say, strong, tell
from modpkg.cli.registry_address import registry_alone, storage_of
from modpkg.core.errors import ModpkgError
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.files import human_bytes
from modpkg.core.names import ModuleName, listed, module_name
from modpkg.environment.index_report import IndexReport
from modpkg.environment.workspace import Workspace
from modpkg.manifest.normal_address import normal_address
from modpkg.registry.damage import Damage, Mending, Verification, Verified, mend_all, without_others
from modpkg.registry.opening import open_place
from modpkg.registry.reader import Registry
from modpkg.registry.unnamed import PRIVATE_TREE, private_address
from modpkg.registry.upkeep import all_names, open_alone
from modpkg.registry.writer import RegistryWriter
from modpkg.trust.signed_index import SignedIndex


class RegistryVerified(Verified, frozen=True, kw_only=True):
    """What was verified of a registry, and what is damaged in it."""

    address: str
    mended: int
    """How many of the damaged files were mended."""
    private: int
    """How many of the releases are of private modules, in a tree of their own."""


@click.command("verify")
@click.argument("address", metavar="URL")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Verify N releases, drawn at random."
)
@click.option("--mend", "mends", is_flag=True, help="Replace what is damaged by what is not.")
@json_option
@with_workspace
def verify_command(
    workspace: Workspace,
    address: str,
    names: tuple[str, ...],
    sample: int | None,
    mends: bool,
    as_json: bool,
) -> int:
    """Verify the files of the registry at URL by their digests: of all modules, or of each NAME.

    For each damaged file it is said which releases need it, and where it is undamaged: in a
    registry of the project or of config.toml, in a mirror, or in the store. The private modules of
    a server are verified where its storage is named, with a sample of their own. Exit status 1:
    something is left damaged.
    """
    if mends:
        storage_of(workspace, address)  # who names where it is read learns that before all is read
    registry = registry_alone(workspace, address)
    trees = [registry]
    if (inner := private_address(registry)) is not None:
        trees.append(open_alone(inner, workspace.settings, workspace.progress.warn))
    _report_index(trees)
    wanted = _wanted(trees, [*dict.fromkeys(map(module_name, names))])
    found = [
        _verified(workspace, trees, tree, of_tree, sample, mends=mends, quiet=as_json)
        for tree, of_tree in wanted
    ]
    every = [mending.verified for mending in found]
    left = [damage for mending in found for damage in mending.left]
    document = RegistryVerified(
        sum(one.releases for one in every),
        sum(one.files for one in every),
        sum(one.bytes for one in every),
        [damage for one in every for damage in one.damaged],
        address=registry.url,
        mended=sum(len(one.verified.damaged) - len(one.left) for one in found),
        private=sum(
            one.releases
            for one, (tree, _) in zip(every, wanted, strict=True)
            if tree is not registry
        ),
    )
    if as_json:
        print_json(document)
    else:
        _show(document, left)
    return 1 if left else 0


def _report_index(trees: list[Registry]) -> None:
    """Let what is not as it is signed be reported with all other damage, if anything is signed."""
    signed = trees[0].files.checks
    if isinstance(signed, SignedIndex):
        for tree in trees:
            tree.files.checks = IndexReport(signed, private=tree is not trees[0])


def _wanted(
    trees: list[Registry], names: list[ModuleName]
) -> list[tuple[Registry, list[ModuleName] | list[str]]]:
    """Return what is verified of each tree: all of it, or what it has of some names.

    Raises:
        NotFound: None has a name.
    """
    if not names:
        return [(tree, all_names(tree)) for tree in trees]
    known = [(tree, [name for name in names if tree.knows(name)]) for tree in trees]
    for name in names:
        if not any(name in of_tree for _, of_tree in known):
            raise trees[0].not_found(name, "any")
    return [(tree, of_tree) for tree, of_tree in known if of_tree]


def _verified(
    workspace: Workspace,
    trees: list[Registry],
    tree: Registry,
    names: list[ModuleName] | list[str],
    sample: int | None,
    *,
    mends: bool,
    quiet: bool,
) -> Mending:
    """Verify a tree, and mend it; paths of what is damaged are those in the first one."""
    prefix = "" if tree is trees[0] else f"{PRIVATE_TREE}/"

    def report_mended(path: str) -> None:
        if not quiet:
            tell(f"{good('Mended')} {prefix}{path}.")

    verification = Verification(tree, workspace.progress)
    verified = _with_refused(verification.run(names, sample), tree)
    done = mend_all(
        verification,
        verified,
        _others(workspace, trees, tree) if verified.damaged else [],
        (lambda: open_place(tree.source.url, workspace.settings)) if mends else None,
        report_mended,
    )
    if not verification.listed and tree.names():
        if mends:
            RegistryWriter(open_place(tree.source.url, workspace.settings)).describe_all()
        if mends and not quiet:
            tell(f"{good('Wrote')} {prefix}{REGISTRY_MODULES}, which it did not have.")
        elif not quiet:
            path = f"{prefix}{REGISTRY_MODULES}"
            tell(f"It has no {path}: 'modpkg registry init {tree.url}' writes it.")
    damaged, left = (
        [_within(prefix, one) for one in of] for of in (done.verified.damaged, done.left)
    )
    return Mending(replace(done.verified, damaged=damaged), left)


def _with_refused(verified: Verified, tree: Registry) -> Verified:
    """Return what was verified of a tree, with what its readers refuse as it is not signed."""
    report = tree.files.checks
    if not isinstance(report, IndexReport):
        return verified
    known = {damage.path for damage in verified.damaged}
    refused = [
        Damage(path=path, releases=_named_by(path), code=error.code, reason=str(error))
        for path, error in sorted(report.refused.items())
        if path not in known
    ]
    return replace(verified, damaged=[*verified.damaged, *refused])


def _named_by(path: str) -> list[str]:
    folder, _, file = path.partition("/")
    return [file.removesuffix(".jsonl")] if folder == "index" else []


def _within(prefix: str, damage: Damage) -> Damage:
    return replace(damage, path=f"{prefix}{damage.path}")


def _show(verified: RegistryVerified, left: list[Damage]) -> None:
    for damage in left:
        say(f"{strong('damaged')} {damage.path} [{damage.code}]: {damage.reason}")
        if damage.releases:
            say(f"  needed by {listed(damage.releases, 5)}")
        places = listed(damage.mended_from, 3)
        if damage.mended_from or damage.path.endswith(REGISTRY_MODULES):
            where = f" from {places}" if places else ""
            say(f"  mend it{where}: modpkg registry verify {verified.address} --mend")
        else:
            say(f"  nothing that is known has it undamaged: {without_others(damage)}")
    private = f" ({verified.private} of private modules)" if verified.private else ""
    what = f"{counted(verified.releases, 'release')}{private}, {human_bytes(verified.bytes)}"
    mended = f" ({verified.mended} mended)" if verified.mended else ""
    count = len(verified.damaged)
    tell(
        f"{good('Verified') if not left else 'Verified'} {what}: "
        + (f"{counted(count, 'damaged file')}{mended}." if count else "no damage.")
    )


def _others(workspace: Workspace, trees: list[Registry], tree: Registry) -> list[Registry]:
    """Return where files of a tree may be undamaged: its mirrors, other registries, the store.

    Blobs of private modules may be in the tree of the public ones too, which are nobody's secret;
    nothing private is put among those.
    """
    settings, own = workspace.settings, normal_address(tree.source.url)
    addresses = [*settings.of(tree.source.url).mirrors]
    with contextlib.suppress(ModpkgError):
        addresses += [one.source.url for one in workspace.registries.searched()]
    if tree is not trees[0]:
        addresses.append(trees[0].source.url)
    found: dict[str, Registry] = {}
    for address in addresses:
        if normal_address(address) != own:
            with contextlib.suppress(ModpkgError):
                found.setdefault(normal_address(address), open_alone(address, settings))
    if workspace.store.root.is_dir():
        found[str(workspace.store.root)] = Registry(str(workspace.store.root))
    return [*found.values()]
