"""Checking and publishing a module project against what a registry has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from packaging.version import Version

from modpkg.community.evaluate.builds import built_release
from modpkg.community.evaluate.project_tests import check_report
from modpkg.community.modules.project import module_table
from modpkg.community.modules.reference import find_line, parse_reference, parse_release
from modpkg.community.modules.view import view_of_build, view_of_project, view_of_release
from modpkg.community.semver.check import Check, check
from modpkg.core.decoding import check_reason
from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.errors import (
    IntegrityError,
    ModpkgError,
    NotFound,
    PublishError,
    TestError,
    TrustError,
    UsageError,
)
from modpkg.core.filenames import DIST, REGISTRY_INFO, REPORT
from modpkg.core.files import check_no_links, human_bytes, shown
from modpkg.core.names import parse_version
from modpkg.core.oidc_identity import OidcIdentity
from modpkg.core.records import IndexLine
from modpkg.core.version import __version__
from modpkg.environment.models import manifest_of
from modpkg.environment.registries import Registries
from modpkg.environment.workspace import Workspace
from modpkg.registry.left_unsigned import left_unsigned
from modpkg.registry.opening import writable_place
from modpkg.registry.place import Place, is_registry, registry_at
from modpkg.registry.reader import Registry
from modpkg.registry.select import earlier_release
from modpkg.registry.server_place import ServerPlace
from modpkg.registry.server_writer import NewModule, writer_at
from modpkg.registry.writer import RegistryWriter
from modpkg.release.build import with_reason
from modpkg.trust.bundle import Signer, StatementSigner, sign_statement, verify_bundle
from modpkg.trust.public_key import PublicKey
from modpkg.trust.signatures import is_signer, signers_of
from modpkg.trust.statement import release_statement
from modpkg.trust.successors import check_may_publish


def check_project(project: Workspace, against: str | None = None) -> Check:
    """Check a module project against an earlier release.

    Args:
        project: Its workspace.
        against: ``NAME==VERSION``; by default the release before the project's version.

    Raises:
        NotFound: There is no release ``against``.
        What reading project and registry can raise.
    """
    manifest, registries, progress = project.manifest, project.registries, project.progress
    module = module_table(manifest)
    line: IndexLine | None
    if against is not None:
        line = named_line(against, registries)
    else:
        try:
            lines = registries.of(module.name).index(module.name)
        except NotFound as error:  # there is no registry yet: publishing creates it
            progress.warn(str(error))
            lines = []
        line = earlier_release(lines, module.version, itself=True)
    progress.stage(f"Reading {module.name}")
    after = view_of_project(manifest, progress.advance)
    before = None if line is None else view_of_release(line, project)
    stale = ""
    if before is not None and REPORT in before.files and REPORT in after.files:
        stale = _stale(project)
    progress.stage("Comparing")
    with project.store.lock():
        return check(
            before,
            after,
            published=published_versions(registries),
            progress=progress.advance,
            stale=stale,
        )


def _stale(project: Workspace) -> str:
    """Return why a project's report is out of date; "" if it is not."""
    with project.store.lock(), built_release(project) as release:
        try:
            check_report(project, release)
        except TestError as error:
            if error.code != "M711":
                raise
            return (
                f"tests were not compared: {error} Only weights, interface and manifest were "
                "compared."
            )
    return ""


def check_build(project: Workspace, dist: Registry, line: IndexLine, target: Place) -> Check:
    """Check a built release against the release before it in the registry that it goes to.

    Args:
        project: The workspace of the module project.
        dist: The registry tree that the build wrote.
        line: The release in it.
        target: The place of the registry.

    Raises:
        What reading either can raise.
    """
    registries = Registries(project.manifest, project.open_registries, default=target.source.url)
    lines = registries.of(line.name).index(line.name) if is_registry(target) else []
    earlier = earlier_release(lines, _version(line))
    before = None if earlier is None else view_of_release(earlier, project, registries)
    with tempfile.TemporaryDirectory(prefix="modpkg-check-") as spool, project.store.lock():
        after = view_of_build(line, dist, target, Path(spool))
        return check(before, after, published=published_versions(registries), count=False)


class Publication(Struct, frozen=True):
    """What was published."""

    line: IndexLine
    registry: str
    """Its address."""
    already: bool
    """Whether it had the release."""
    elsewhere: list[str]
    """Where the weights are that were not uploaded."""
    copied: int = 0
    """Bytes of it that the registry had elsewhere, and has itself now."""
    signed: str = ""
    """Who has signed it now, and had not before."""


def publish_project(
    project: Workspace,
    reason: str | None = None,
    *,
    dry_run: bool = False,
    by_reference: bool | None = None,
    signer: Signer | StatementSigner | None = None,
    new: NewModule | None = None,
) -> Publication:
    """Publish what `modpkg build` wrote for a module project.

    Args:
        project: Its workspace.
        reason: Why a breaking change is published without a breaking version.
        dry_run: Only check what publishing would.
        by_reference: Whether weights stay where they were imported from, so that only that place is
            published; None for those that are still there.
        signer: What signs the release; None if nothing does.
        new: What becomes of a name that a server does not know yet.

    Raises:
        PublishError: This version was not built, its build is damaged, nothing can be published
            to the registry, it has another release of this version, or the version is too low.
        ReleaseError: Its recipe cannot be composed of the releases that resolve now.
        UsageError: The reason is empty, or more than one line.
        InvalidValue: It is too long.
    """
    with damage_of_build(project):
        prepared = prepare_release(
            project, reason, dry_run=dry_run, by_reference=by_reference, new=new
        )
        return _publish(project, prepared, dry_run=dry_run, signer=signer)


@contextmanager
def damage_of_build(project: Workspace) -> Iterator[None]:
    """Raise the error to show for what is damaged in the build of a module project.

    Raises:
        PublishError: Something is.
    """
    dist = project.manifest.folder / DIST
    try:
        yield
    except IntegrityError as error:
        raise _of_build(error, dist) from None


def _of_build(error: IntegrityError, dist: Path) -> ModpkgError:
    """Return the error to show: what is damaged in ``dist`` is built again by whoever has it."""
    source = Path(str(error.values.get("source", "")))
    if error.code not in ("M305", "M306") or not source.is_relative_to(dist.absolute()):
        return error
    is_missing = error.code == "M306"
    reason = f"{error.values['what']} " + ("is missing" if is_missing else "has other bytes")
    return PublishError("M329", folder=shown(dist), reason=reason)


class PreparedRelease(Struct, frozen=True, kw_only=True):
    """A built release that passed all checks that come before its bytes are verified."""

    place: Place
    writer: RegistryWriter
    built: Registry
    line: IndexLine
    elsewhere: Mapping[Digest, Sequence[str]]
    """By digest, where blobs are that are not uploaded."""
    already: bool
    """Whether the registry has the release."""
    result: Check | None
    """What comparing it with the release before says; None of a first release, and of a version
    that the registry has."""


def prepare_release(
    project: Workspace,
    reason: str | None = None,
    *,
    dry_run: bool = False,
    by_reference: bool | None = None,
    new: NewModule | None = None,
) -> PreparedRelease:
    """Return the release that `modpkg build` wrote for a module project, checked.

    Raises:
        What `publish_project` raises, with `IntegrityError` for a build that is damaged.
    """
    module, dist = module_table(project.manifest), project.manifest.folder / DIST
    check_no_links(dist)
    if not (dist / REGISTRY_INFO).exists():
        raise PublishError("M311", folder=shown(dist))
    built = Registry(str(dist.absolute()))
    lines = [line for line in built.index(module.name) if _version(line) == module.version]
    if not lines:
        raise PublishError("M311", folder=f"{shown(dist)} of {module.name} {module.version}")
    place = writable_place(project.manifest, project.options.registry, lambda: project.settings)
    writer = writer_at(place, new=new)
    if isinstance(place, ServerPlace):  # a server has the weights of what is published there
        if by_reference:
            names = {"name": module.name, "version": str(module.version)}
            raise PublishError("M887", reason="a server does not leave where they are", **names)
        by_reference = False
    line, result = line_to_publish(project, built, lines[0], place, reason, dry_run=dry_run)
    known, already = is_registry(place), _has(place, line)
    if not already and line.kind == "model":
        from modpkg.environment.foreseen import check_recipe

        check_recipe(project, manifest_of(built.record(line)))
    elsewhere = {}
    if by_reference is not False:
        from modpkg.registry.by_reference import kept_places

        project.progress.stage(f"Asking for {module.name}")
        elsewhere = kept_places(
            built,
            line,
            project.settings.place_hosts,
            project.progress.warn,
            lacks=lambda digest: not known or place.size(blob_path(digest)) is None,
            must=by_reference is True,
            target=place.url,
        )
    return PreparedRelease(
        place=place,
        writer=writer,
        built=Registry(str(dist.absolute())),  # the reason is in a separate record
        line=line,
        elsewhere=elsewhere,
        already=already,
        result=result,
    )


def _publish(
    project: Workspace,
    prepared: PreparedRelease,
    *,
    dry_run: bool,
    signer: Signer | StatementSigner | None,
) -> Publication:
    place, writer, built = prepared.place, prepared.writer, prepared.built
    line, elsewhere, already = prepared.line, prepared.elsewhere, prepared.already
    kept = [address for addresses in elsewhere.values() for address in addresses]
    if dry_run:
        if signer is None:
            warn_of_signer(project, place, line, lambda: None)
        elif not isinstance(signer, StatementSigner):
            warn_of_signer(project, place, line, lambda: signer.public)
        return Publication(writer.preview(built, line, elsewhere), place.url, already, kept)
    project.progress.stage(f"Publishing {line.name}")
    project.progress.total(line.size)
    bundle = None if signer is None else signature_of(built, line, signer)
    by = None if bundle is None else verify_bundle(bundle).signer
    warn_of_signer(project, place, line, lambda: by)
    before = signers_of(registry_at(place), line).found if already and by is not None else ()
    published = writer.publish(
        built, line, progress=project.progress.advance, elsewhere=elsewhere, bundle=bundle
    )
    if writer.restored:
        restored = human_bytes(writer.restored)
        lost = f"{restored} of {line.name} {line.version}"
        project.progress.warn(f"{place.url} had lost {lost}, and has them again")
    if (left := left_unsigned(place, line.name)) is not None:
        project.progress.warn(left)
    signed = "" if by is None or any(is_signer(str(by), one) for one in before) else str(by)
    return Publication(published, place.url, already, kept, writer.copied, signed)


def signature_of(built: Registry, line: IndexLine, signer: Signer | StatementSigner) -> bytes:
    """Return a signature of a built release, as its registry keeps it.

    Raises:
        TrustError: The signer cannot sign now.
    """
    statement = release_statement(built.record(line), parse_digest(line.release), __version__)
    return sign_statement(statement, signer)


def warn_of_signer(
    project: Workspace,
    place: Place,
    line: IndexLine,
    signer: Callable[[], PublicKey | OidcIdentity | None],
) -> None:
    """Warn where those who have a release of a module locked refuse another one for its signer.

    ``signer`` returns None where nobody signs it.
    """
    if not is_registry(place):
        return
    try:
        said = check_may_publish(registry_at(place), line, signer())
    except TrustError as error:
        said = str(error)
    if said is not None:
        project.progress.warn(said)


def _has(place: Place, line: IndexLine) -> bool:
    """Return whether a registry has a release already."""
    if not is_registry(place):
        return False
    lines = registry_at(place).index(line.name)
    return any(other.release == line.release for other in lines)


def line_to_publish(
    project: Workspace,
    dist: Registry,
    line: IndexLine,
    target: Place,
    reason: str | None,
    *,
    dry_run: bool = False,
) -> tuple[IndexLine, Check | None]:
    """Return the index line to publish, the built one or one that records ``reason``, and a check.

    A version that is lower than the changes require is published only with a reason, given now or
    when the release was refused before.

    Args:
        project: The workspace of the module project.
        dist: The registry tree that the build wrote.
        line: The release in it.
        target: The place of the registry.
        reason: Why a breaking change is published without a breaking version.
        dry_run: Whether the reason is left out, because it is recorded in ``dist``.

    Raises:
        PublishError: The version is too low, and there is no reason.
        UsageError: The reason is empty, or more than one line.
        InvalidValue: It is too long.
    """
    if reason is not None and (not reason.strip() or not reason.isprintable()):
        raise UsageError("M901", message="--allow-breaking needs a reason, in one line of text.")
    check_reason(reason or "")
    if not is_registry(target):
        return line, None
    versions = [_version(other) for other in registry_at(target).index(line.name)]
    if not versions or _version(line) in versions:
        return line, None  # publishing itself compares the two releases of one version
    result = check_build(project, dist, line, target)
    record = dist.record(line)
    if result.legal or (reason is None and record.provenance.breaking):
        return line, result
    if reason is None:
        raise version_too_low(result)
    if dry_run:
        return line, result
    return with_reason(Path(dist.url), line, record, reason), result


def version_too_low(result: Check) -> PublishError:
    """Return the error for a check whose version is too low: the facts, and the lowest version."""
    facts = [fact for fact in result.facts if fact.level == result.level]
    return PublishError(
        "M761",
        name=result.name,
        version=result.version,
        against=result.against,
        level=result.level,
        lowest=result.lowest,
        facts="".join(f"\n  {fact.about}: {fact.text}" for fact in facts[:10]),
    )


def named_line(text: str, registries: Registries) -> IndexLine:
    """Return the release that ``NAME==VERSION`` or ``NAME#7`` names.

    Raises:
        UsageError: `text` has no version.
        NotFound: The registry has no such release.
    """
    if parse_reference(text).candidate is not None:
        return find_line(text, registries)
    name, version = parse_release(text)
    return registries.of(name).line(name, version)


def _version(line: IndexLine) -> Version:
    return parse_version(line.version)


def published_versions(registries: Registries) -> Callable[[str], list[Version]]:
    """Return a function from a module's name to its published versions."""

    def published(name: str) -> list[Version]:
        try:
            return [_version(line) for line in registries.of(name).index(name)]
        except ModpkgError:
            return []  # the ranges themselves are still compared

    return published
