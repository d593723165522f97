"""What ``install``, ``add``, ``remove`` and ``update`` print with ``--json``."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from modpkg.community.bisect.search import HeldModule, SkippedMix
from modpkg.environment.licences import ModuleLicense
from modpkg.environment.plan import InstallPlan, VersionChange
from modpkg.environment.trust_news import TrustNews


class LockedRow(Struct, frozen=True):
    """A module of the lock."""

    name: str
    version: str
    kind: str
    registry: str
    """The registry's name."""
    fetch: int
    """Bytes to fetch, of what the store did not have."""


class LicenceVerdicts(Struct, frozen=True):
    """The licences of the lock's modules."""

    modules: tuple[ModuleLicense, ...]


class InstallDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an install did, or with ``dry_run`` would do."""

    changes: tuple[VersionChange, ...]
    generation: int | UnsetType | None = UNSET
    """The environment's generation now; left out of a dry run."""
    dry_run: bool | UnsetType = UNSET
    """True for a dry run, else left out."""
    modules: list[LockedRow] | UnsetType = UNSET
    """Left out, like all below, if there was nothing to do."""
    fits: dict[str, str] | UnsetType = UNSET
    """By module and base, how it fits."""
    licenses: LicenceVerdicts | UnsetType = UNSET
    news: tuple[TrustNews, ...] | UnsetType = UNSET
    """What is new in the lock in terms of trust; left out if nothing is."""
    fetch: int | UnsetType = UNSET
    """Bytes to fetch."""
    of_hub: int | UnsetType = UNSET
    """Bytes that came of hubs while it was planned, to tell the digests of new commits."""
    here: int | UnsetType = UNSET
    """Bytes that the store had."""
    compose: int | UnsetType = UNSET
    """Bytes to compose."""
    disk: int | UnsetType = UNSET
    """Bytes that it needs on disk."""
    compose_memory: int | UnsetType = UNSET
    """Bytes of memory that composing needs at most."""
    models: list[str] | UnsetType = UNSET
    held: list[HeldModule] | UnsetType = UNSET
    """Of ``update --test``: modules that stay below their newest version. Else left out, like what
    follows."""
    skipped: list[SkippedMix] | UnsetType = UNSET
    runs: int | UnsetType = UNSET
    """Number of runs of the test."""


def plan_document(plan: InstallPlan) -> InstallDocument:
    """Return what a plan does."""
    return InstallDocument(
        changes=plan.changes,
        modules=[
            LockedRow(
                module.name,
                module.version,
                module.kind,
                module.registry,
                plan.transfer.missing_of(module.name),
            )
            for module in plan.lock.module
        ],
        fits={f"{fit.module} on {fit.base} {fit.base_version}": fit.text() for fit in plan.fits},
        licenses=LicenceVerdicts(plan.licences),
        news=plan.news or UNSET,
        fetch=plan.transfer.missing,
        of_hub=plan.workspace.open_registries.fetched_of_hub,
        here=plan.transfer.here,
        compose=plan.compose_bytes,
        disk=plan.disk,
        compose_memory=plan.compose_memory,
        models=[recipe.name for recipe in plan.recipes],
    )
