"""Which locked modules the advisories of their registries concern."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from modpkg.core.errors import TrustError
from modpkg.environment.search import LeftOutModule, as_left_out
from modpkg.environment.taken_back import yank_signed
from modpkg.environment.yanked import yanked_releases
from modpkg.manifest.schema import TrustRule
from modpkg.registry.advisories import read_advisories
from modpkg.registry.advisory import Advisory, concerns, severity_of
from modpkg.registry.reader import Registry
from modpkg.registry.standing import without_removed
from modpkg.registry.upkeep import fetch_indexes
from modpkg.resolve.lock import Lock
from modpkg.trust.rules import rule_of
from modpkg.trust.signed_index import NOT_SIGNED


class Finding(Struct, frozen=True, kw_only=True):
    """An advisory that concerns a locked module."""

    name: str
    version: str
    id: str
    """Of the advisory."""
    aliases: list[str]
    summary: str
    severity: str
    """In the words of the advisory, such as ``HIGH`` or a CVSS vector; may be empty."""
    fixed_in: list[str]
    """The versions that it is fixed in, lowest first; none if it is not."""
    url: str
    """Where more is said; may be empty."""
    registry: str
    """The address of the registry."""


class AuditedRegistry(Struct, frozen=True):
    """A registry of the lock."""

    address: str
    advisories: bool
    """Whether it publishes any."""


class AuditedYank(Struct, frozen=True):
    """A locked release that was yanked."""

    name: str
    version: str
    reason: str
    """Why; may be empty."""
    signed: bool | None
    """Whether who signs the module has signed that; null if nobody has to, or it is not known."""


class Audit(Struct, frozen=True, kw_only=True):
    """What the advisories of all registries of a lock say of it."""

    findings: list[Finding]
    ignored: list[Finding]
    """Those that were to be ignored."""
    registries: list[AuditedRegistry]
    modules: int
    """How many were looked at; models of hubs have no advisories."""
    yanked: list[AuditedYank]
    notes: list[str]
    """What the registries say of locked releases beside that: that one was yanked, removed or lost,
    or that a candidate became none."""
    left_out: list[LeftOutModule] = []
    """Those of whose yanks nothing is known; advisories about them are found."""


def audit(
    lock: Lock,
    by_name: Mapping[str, Registry],
    ignore: Collection[str] = (),
    rules: Sequence[TrustRule] = (),
) -> Audit:
    """Return which advisories concern the modules of a lock.

    Args:
        lock: The lock.
        by_name: The registry of each of its modules.
        ignore: IDs of advisories, or what others call them.
        rules: The project's, of who has to sign what.

    Raises:
        TrustError: Of no module of the lock the index is what was signed.
        RegistryUnreachable, RegistryError, InstallError: A registry cannot be read.
    """
    modules: dict[int, list[tuple[str, str]]] = {}
    registries: dict[int, Registry] = {}
    for module in lock.module:
        registry = by_name[module.name]
        if not registry.stands_for:
            registries[id(registry)] = registry
            modules.setdefault(id(registry), []).append((module.name, module.version))
    found: list[Finding] = []
    audited = []
    for key, registry in registries.items():
        own = modules[key]
        fetch_indexes(registry, [name for name, _ in own])
        advisories = read_advisories(registry, {name for name, _ in own})
        audited.append(AuditedRegistry(registry.url, advisories is not None))
        found += [
            finding
            for name, version in own
            for advisory in advisories or ()
            if (finding := _finding(advisory, name, version, registry)) is not None
        ]
    ignored = set(ignore)
    refused = {
        name: error
        for key, registry in registries.items()
        for name, _ in modules[key]
        if (error := _not_signed(registry, name)) is not None
    }
    if len(refused) == sum(map(len, modules.values())):
        for error in refused.values():
            raise error
    lock = replace(lock, module=[one for one in lock.module if one.name not in refused])
    yanked = [*_yanks(lock, by_name, rules)]
    return Audit(
        findings=[one for one in found if not ignored & {one.id, *one.aliases}],
        ignored=[one for one in found if ignored & {one.id, *one.aliases}],
        registries=audited,
        modules=sum(map(len, modules.values())),
        yanked=yanked,
        notes=yanked_releases(
            lock,
            by_name,
            consulted=lambda _: True,
            signed={one.name: one.signed for one in yanked},
        ),
        left_out=[as_left_out(name, by_name[name], error) for name, error in refused.items()],
    )


def _not_signed(registry: Registry, name: str) -> TrustError | None:
    """Return why the index of one module alone is not what was signed, if so."""
    try:
        _ = registry.index(name)
    except TrustError as error:
        if error.code != NOT_SIGNED:
            raise
        return error
    return None


def _yanks(
    lock: Lock, by_name: Mapping[str, Registry], rules: Sequence[TrustRule]
) -> Iterator[AuditedYank]:
    for module in lock.module:
        registry = by_name[module.name]
        for line in () if registry.stands_for else without_removed(registry.index(module.name)):
            if line.release == module.release and line.yanked is not None:
                signed = yank_signed(module, registry, line, rule_of(rules, module.name))
                yield AuditedYank(module.name, module.version, line.yanked, signed)


def _finding(advisory: Advisory, name: str, version: str, registry: Registry) -> Finding | None:
    if (concern := concerns(advisory, name, version)) is None:
        return None
    return Finding(
        name=name,
        version=version,
        id=advisory.id,
        aliases=advisory.aliases,
        summary=advisory.summary or advisory.details.partition("\n")[0][:200],
        severity=severity_of(advisory, concern),
        fixed_in=concern.fixed_in,
        url=next((one.url for one in advisory.references), ""),
        registry=registry.url,
    )
