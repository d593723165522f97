"""Whether a new module can have a name, by the modules that there are."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modpkg.core.errors import ModpkgError, PublishError
from modpkg.core.look_alike import NEEDED, nearest, skeleton
from modpkg.core.names import ModuleName, module_name
from modpkg.server.clock import now
from modpkg.server.state import Server
from modpkg.server.tables import DownloadCount, Module

POPULAR = 1000
"""How many names count as popular."""
POPULAR_DAYS = 90


def check_free_name(
    db: Session, name: str, confirmed: bool = False, popular: Sequence[str] = ()
) -> ModuleName:
    """Check that a module that does not exist yet can have a name, and return its normal form.

    ``popular`` are names that many modules need (see `needed_names`), beside those that are
    downloaded most.

    Raises:
        PublishError: It looks like an existing one, or is nearly a popular one and not confirmed.
        InvalidValue: It is not a name.
    """
    alike = skeleton(module_name(name))
    existing = [*db.scalars(select(Module.name).where(Module.skeleton == alike))]
    return check_new_name(name, existing, [*popular, *popular_names(db)], confirmed)


def needed_names(server: Server) -> list[str]:
    """Return the public modules that many others require, the most needed first.

    Of a list of modules that cannot be read, none: a publisher has nothing to do with that.
    """
    with contextlib.suppress(ModpkgError):
        return server.catalogue.most_needed(NEEDED, POPULAR)
    return []


def popular_names(db: Session) -> list[str]:
    """Return the public modules that were downloaded most of late, the most popular first."""
    since = (now() - datetime.timedelta(days=POPULAR_DAYS)).date().isoformat()
    query = (
        select(DownloadCount.module)
        .join(Module, Module.name == DownloadCount.module)
        .where(DownloadCount.day >= since, Module.is_private.is_(False))
        .group_by(DownloadCount.module)
        .order_by(func.sum(DownloadCount.count).desc(), DownloadCount.module)
        .limit(POPULAR)
    )
    return [*db.scalars(query)]


def check_new_name(
    name: str, existing: Collection[str], popular: Iterable[str], confirmed: bool = False
) -> ModuleName:
    """Check that a module that does not exist yet can have a name, and return its normal form.

    Args:
        name: The name.
        existing: The names of modules; of them, those with its `skeleton` are enough.
        popular: Names that people type most, the most popular first.
        confirmed: Whether the publisher says that the name is meant as it is.

    Raises:
        PublishError: It looks like an existing one, or is one edit from a popular one and not
            confirmed.
        InvalidValue: It is not a name.
    """
    normal = module_name(name)
    alike = skeleton(normal)
    for other in existing:
        if other != normal and skeleton(other) == alike:
            raise PublishError("M444", name=normal, other=other)
    if not confirmed and (near := nearest(normal, popular)) is not None:
        raise PublishError("M445", name=normal, other=near)
    return normal
