"""``publish``."""

from __future__ import annotations

from pathlib import Path

import click

from modpkg.cli.build import DIST, module_project
from modpkg.cli.options import json_option, registry_option
from modpkg.cli.output import TerminalProgress, good, print_json, say, strong
from modpkg.core.errors import PublishError, UsageError
from modpkg.core.filenames import REGISTRY_INFO
from modpkg.core.files import human_bytes, shown
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine
from modpkg.manifest.schema import Manifest
from modpkg.registry.location import writable_folder
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import with_reason


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
