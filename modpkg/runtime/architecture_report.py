"""How a set of tensors and an architecture differ, as transformers reports it."""

from __future__ import annotations

from msgspec import Struct

from modpkg.core.errors import ReleaseError
from modpkg.core.names import listed


class LoadingReport(Struct, frozen=True):
    """How a set of tensors and an architecture differ."""

    missing: tuple[str, ...]
    """Parameters without a tensor, by their name in memory: transformers draws them at random."""
    unexpected: tuple[str, ...]
    """Tensors that the architecture does not have: transformers leaves them out."""
    mismatched: tuple[str, ...]
    """Parameters whose tensor has another shape, with both shapes."""
    tied: tuple[tuple[str, str], ...]
    """Pairs of tensors that the config makes one parameter, and that are both there."""
    architecture: str
    model_type: str
    """That of the architecture's config; ``config.json`` may say another."""


def check_complete(name: str, report: LoadingReport) -> None:
    """Check that every parameter gets a tensor of its shape.

    Raises:
        ReleaseError: One does not.
    """
    for names, what in (
        (report.missing, "has no value for"),
        (report.mismatched, "needs another shape for"),
    ):
        if names:
            raise ReleaseError(
                "M216",
                what=name,
                reason=f"{report.architecture} {what} {listed(names)}",
                remedy="fetch the weights again, or correct the sizes in config.json",
            )
