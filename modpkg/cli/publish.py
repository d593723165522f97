"""``init``, ``build``, ``publish`` and ``yank``: the side of those who make modules."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import msgspec
from msgspec import UNSET

from modpkg.cli.options import json_option, offline_option, registry_option
from modpkg.cli.output import TerminalProgress, good, print_json, say, strong
from modpkg.core.errors import ManifestError, PublishError, UsageError
from modpkg.core.filenames import MANIFEST, REGISTRY_INFO, REPORT
from modpkg.core.files import human_bytes, shown, write_atomically
from modpkg.core.home import store_folder
from modpkg.core.names import module_name, parse_version
from modpkg.core.progress import Progress
from modpkg.core.records import KINDS, IndexLine, ReleaseRecord
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import RegistryOptions as Wishes
from modpkg.manifest import Manifest, ModuleTable, find_manifest, new_manifest, read_manifest
from modpkg.registry.base import find_base
from modpkg.registry.known import KnownTensors, known_tensors
from modpkg.registry.location import writable_folder
from modpkg.registry.origins import find_origins
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import acts_on_base, build, with_reason
from modpkg.store.store import Store

DIST = "dist"


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--kind", type=click.Choice(KINDS), help="Kind of module. [default: an app]")
@click.option("--name", help="Name. [default: the folder's]")
def init_command(folder: Path, kind: str | None, name: str | None) -> None:
    """Begin a module (--kind) or an app: write a modpkg.toml with comments to fill in."""
    path = folder / MANIFEST
    if path.exists():
        raise UsageError("M901", message=f"{path} exists; 'modpkg init' does not replace it.")
    chosen = module_name(name or folder.resolve().name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, new_manifest(kind or "app", chosen).encode())
    say(f"{good('Wrote')} {path}, {'a ' + kind if kind else 'an app'} named {chosen}.")


def module_project(folder: Path) -> tuple[Manifest, ModuleTable]:
    """Return the manifest of the module project around a folder.

    Raises:
        ManifestError. ManifestError: it is an app's.
    """
    path = find_manifest(folder.absolute())
    if path is None:
        raise ManifestError("M111", folder=folder)
    manifest = read_manifest(path)
    if manifest.module is None:
        raise ManifestError(
            "M112",
            path=path,
            found="an app",
            needed="a module",
            remedy="name the folder of a module ('modpkg init --kind adapter' begins one).",
        )
    return manifest, manifest.module


@click.command("build")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option("--against", metavar="VERSION", help="Version of the base it was made for.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to. [default: dist/]")
@click.option("--no-deltas", is_flag=True, help="Write changed tensors whole.")
@registry_option
@offline_option
@json_option
def build_command(
    folder: Path,
    against: str | None,
    out: Path | None,
    no_deltas: bool,
    registry: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Build the release of the module in FOLDER: digests, tensor table and interface included.

    An adapter, head or patch is bound to the newest release of its base that its requirement
    allows (or the one that --against names), so the registry of the base is read. Tensors that
    the registry to publish to has already are referred to, and those that changed since the
    release before are written as changes.
    """
    manifest, module = module_project(folder)
    with TerminalProgress() as progress:
        base = None
        registries = Registries(
            manifest,
            Store(store_folder()).blobs,
            default=registry,
            offline=offline,
            warn=progress.warn,
        )
        origins = find_origins(manifest, registries.of)
        if acts_on_base(manifest):
            by_name: dict[str, Registry] = {
                item.name: registries.of(item.name) for item in manifest.dependencies
            }
            base = find_base(manifest, by_name, against)
        progress.stage(f"Building {module.name}")
        target = out if out is not None else manifest.folder / DIST
        built = build(
            manifest,
            module,
            target,
            base=base,
            origins=origins,
            known=_known(manifest, module, registry),
            deltas=not no_deltas,
            progress=progress.advance,
            accept=partial(_accept, manifest, progress, Wishes(registry, offline)),
        )
    line, tally = built.line, built.tally
    if as_json:
        print_json({**msgspec.to_builtins(line), "weights": tally})
        return
    say(f"{good('Built')} {strong(line.name)} {line.version} ({line.kind}) in {shown(target)}/")
    say(f"  release  {line.release}")
    if tally.tensors:
        known = [f"{tally.unchanged} unchanged"] if tally.unchanged else []
        known += [f"{tally.changes} as changes"] if tally.changes else []
        total = human_bytes(tally.bytes)
        known += [f"{human_bytes(tally.new_bytes)} new of {total}" if known else total]
        say(f"  weights  {', '.join([f'{tally.tensors} tensors', *known])}")
    size = sum(entry.size for entry in built.record.files.values())
    say(f"  files    {len(built.record.files)}, {human_bytes(size)}")
    for origin in built.record.provenance.built_from:
        how = "against " if origin.relation is UNSET else f"{origin.relation} from"
        say(f"  {how} {origin.name} {origin.version}")


def _accept(
    manifest: Manifest, progress: Progress, wishes: Wishes, tree: Path, record: ReleaseRecord
) -> None:
    """Refuse a release whose report.json is of something else."""
    if REPORT in record.files:
        from modpkg.community.evaluate.run import check_claim

        check_claim(tree, record, manifest, Store(store_folder()), progress, wishes)


def _known(manifest: Manifest, module: ModuleTable, registry: str | None) -> KnownTensors | None:
    """Return what the registry has that the release will be published to, if that is a folder."""
    try:
        folder = writable_folder(manifest, registry)
    except PublishError:
        return None
    return known_tensors(folder, module.name, module.version)


@click.command("publish")
@click.argument("folder", type=click.Path(exists=True, path_type=Path), default=".")
@click.option(
    "--allow-breaking",
    metavar="WHY",
    help="Publish although what changed asks for a higher version; why is recorded.",
)
@registry_option
@json_option
def publish_command(
    folder: Path, allow_breaking: str | None, registry: str | None, as_json: bool
) -> None:
    """Publish what 'modpkg build' left in FOLDER/dist to a registry; it is made if need be.

    A version, once published, is never replaced; publishing the same release again does nothing.
    A version lower than what changed asks for ('modpkg check') is refused.
    """
    manifest, module = module_project(folder)
    dist = manifest.folder / DIST
    if not (dist / REGISTRY_INFO).exists():
        raise PublishError("M311", folder=shown(dist))
    built = Registry(str(dist.absolute()))
    versions = [line.version for line in built.index(module.name)]
    if not any(parse_version(text) == module.version for text in versions):
        raise PublishError("M311", folder=f"{shown(dist)} of {module.name} {module.version}")
    line = built.line(module.name, str(module.version))
    writer = RegistryWriter(writable_folder(manifest, registry))
    with TerminalProgress() as progress:
        line = _allowed(manifest, built, line, writer.folder, allow_breaking, progress)
        built = Registry(str(dist.absolute()))
        progress.stage(f"Publishing {module.name}")
        progress.total(line.size)
        published = writer.publish(built, line, progress=progress.advance)
    if as_json:
        print_json(published)
        return
    say(
        f"{good('Published')} {strong(published.name)} {published.version} to {writer.folder} "
        f"({human_bytes(published.size)} new)."
    )


def _allowed(
    manifest: Manifest,
    built: Registry,
    line: IndexLine,
    registry: Path,
    reason: str | None,
    progress: TerminalProgress,
) -> IndexLine:
    """Return the line to publish, once its version is what changed asks for, or a reason is given.

    Raises:
        PublishError: it is not, and none is.
    """
    if reason is not None and (not reason.strip() or not reason.isprintable()):
        raise UsageError("M901", message="--allow-breaking needs a reason in words, on one line.")
    if not (registry / REGISTRY_INFO).exists():
        return line
    lines = Registry(str(registry.absolute())).index(line.name)
    versions = [parse_version(other.version) for other in lines]
    if parse_version(line.version) in versions or not versions:
        return line  # publishing tells whether it is the same release
    from modpkg.community.semver.releases import check_build, require_legal

    found = check_build(manifest, built, line, registry, progress)
    given = built.record(line).provenance.breaking or None
    if found.legal or (reason is None and given is not None):
        return line
    if reason is None:
        require_legal(found)
        return line
    return with_reason(Path(built.url), line, built.record(line), reason)


@click.command("yank")
@click.argument("release", metavar="NAME==VERSION")
@click.option("--reason", default="", help="Why, for those who have it locked.")
@click.option("--undo", is_flag=True, help="Take the yank back.")
@registry_option
@json_option
def yank_command(
    release: str, reason: str, undo: bool, registry: str | None, as_json: bool
) -> None:
    """Take a release out of new resolutions; whoever has it locked or pinned keeps it."""
    name, separator, version = release.partition("==")
    if not separator:
        name, separator, version = release.partition("@")
    if not separator:
        raise UsageError("M901", message=f"Name the version too: modpkg yank {name}==1.0.0")
    folder = writable_folder(None, registry)
    if not (folder / REGISTRY_INFO).exists():
        raise PublishError("M309", url=folder, reason="there is no registry")
    line = RegistryWriter(folder).yank(
        module_name(name), str(parse_version(version)), None if undo else reason
    )
    if as_json:
        print_json(line)
    elif undo:
        say(f"{good('Took back')} the yank of {line.name} {line.version}.")
    else:
        say(f"{good('Yanked')} {line.name} {line.version}.")
