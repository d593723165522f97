"""Whether a new module can have a name, by the modules that there are."""

from __future__ import annotations

import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from modpkg.core.names import ModuleName, module_name
from modpkg.server.clock import now
from modpkg.server.look_alike import check_new_name, skeleton
from modpkg.server.tables import DownloadCount, Module

POPULAR = 1000
"""How many names count as popular."""
POPULAR_DAYS = 90


def check_free_name(
    db: Session, name: str, confirmed: bool = False, popular: tuple[str, ...] = ()
) -> ModuleName:
    """Check that a module that does not exist yet can have a name, and return its normal form.

    ``popular`` are names that many modules need, beside those that are downloaded most.

    Raises:
        PublishError: It looks like an existing one, or is nearly a popular one and not confirmed.
        InvalidValue: It is not a name.
    """
    alike = skeleton(module_name(name))
    existing = [*db.scalars(select(Module.name).where(Module.skeleton == alike))]
    return check_new_name(name, existing, [*popular, *popular_names(db)], confirmed)


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
