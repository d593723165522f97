"""Composing an installed model again, out of everybody's sight, to compare it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modpkg.compose.memory import scratch_bytes
from modpkg.core import system
from modpkg.core.leftovers import discard, temporary_sibling
from modpkg.environment.install import counted, fetch_plan
from modpkg.environment.plan import InstallPlan
from modpkg.transfer.fetch import check_space

if TYPE_CHECKING:
    from modpkg.compose.executor import ComposedModel


@contextmanager
def recomposed(plan: InstallPlan, name: str) -> Iterator[ComposedModel]:
    """Compose a model of a plan from its modules' weights, and yield the result while it is there.

    What was composed before is not looked at. The caller uses the store.

    Raises:
        ModpkgError: Weights cannot be fetched, the disk is too small, or composing failed.
    """
    from modpkg.compose.executor import compose

    store, progress = plan.workspace.store, plan.workspace.progress
    composition = plan.compositions[name]
    fetch_plan(plan)
    scratch = temporary_sibling(store.root / "recomposed")
    size = composition.bytes_to_write(scratch)
    check_space(store.root, size + scratch_bytes(composition, system.available_cores()))
    progress.stage(f"Composing {name} again")
    try:
        yield compose(
            composition, scratch, progress=counted(progress), device=plan.workspace.device
        )
    finally:
        discard(scratch)
