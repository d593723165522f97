"""``[constraints]``, ``[overrides]`` and ``[resolution]``: how a project is resolved.

They apply only to the project that has them: those of a dependency are ignored.
"""

from __future__ import annotations

from datetime import date
from typing import cast, get_args

from modpkg.core.errors import InvalidValue
from modpkg.core.names import ModuleName, Requirement, module_name, specifier_text
from modpkg.manifest.cutoff import Cutoff, parse_cutoff
from modpkg.manifest.keys import RESOLUTION_KEYS
from modpkg.manifest.schema import Dependency, FitPolicy, ResolutionTable, Strategy
from modpkg.manifest.values import manifest_specifier
from modpkg.toml.node import Node

STRATEGIES: tuple[str, ...] = get_args(Strategy)
FITS: tuple[str, ...] = get_args(FitPolicy)


def read_bounds(node: Node | None) -> tuple[Dependency, ...]:
    """Return ``[constraints]`` or ``[overrides]``, sorted by name."""
    bounds: dict[ModuleName, Dependency] = {}
    for entry in node.entries().values() if node else ():
        name = entry.key_parsed(module_name)
        if name in bounds:
            raise entry.fail(f"is the same module as one before it ({name}); keep one of them")
        if not isinstance(entry.value, str):
            raise entry.wrong_type('a version specifier like "<2"')
        requirement = Requirement(name, (), entry.parsed(manifest_specifier))
        bounds[name] = Dependency(requirement, where=entry.where)
    return tuple(bounds[name] for name in sorted(bounds))


def read_resolution(node: Node | None) -> ResolutionTable:
    """Return ``[resolution]``."""
    if node is None:
        return ResolutionTable()
    table = node.table(RESOLUTION_KEYS)
    strategy, prereleases = table.get("strategy"), table.get("prereleases")
    newer, fit, strict = table.get("exclude-newer"), table.get("fit"), table.get("strict")
    signed = table.get("require-signed")
    return ResolutionTable(
        strategy=read_strategy(strategy) if strategy else "highest",
        prereleases=tuple(sorted({item.parsed(module_name) for item in prereleases.items()}))
        if prereleases
        else (),
        fit=cast(FitPolicy, fit.choice(FITS, "policy for fit")) if fit else "exact-first",
        strict=strict.boolean() if strict else False,
        require_signed=signed.boolean() if signed else False,
        exclude_newer=_cutoff(newer) if newer else None,
        exclude_newer_package=_exemptions(table.get("exclude-newer-package")),
    )


def read_strategy(node: Node) -> Strategy:
    return cast(Strategy, node.choice(STRATEGIES, "strategy"))


def _cutoff(node: Node) -> Cutoff:
    """Return a cut-off: a string, or a TOML date or time."""
    text = node.value.isoformat() if isinstance(node.value, date) else node.text()
    return node.parse_text(parse_cutoff, text)


def _exemptions(node: Node | None) -> dict[ModuleName, Cutoff | None]:
    """Return the cut-offs of single names; None exempts a name."""
    cutoffs: dict[ModuleName, Cutoff | None] = {}
    for entry in node.entries().values() if node else ():
        name = entry.key_parsed(module_name)
        if name in cutoffs:
            raise entry.fail(f"is the same module as one before it ({name}); keep one of them")
        if entry.value is False:
            cutoffs[name] = None
            continue
        if isinstance(entry.value, bool) or not isinstance(entry.value, str | date):
            raise entry.wrong_type('a date like "2026-01-01", or false')
        cutoff = cutoffs[name] = _cutoff(entry)
        if cutoff.moment is None:
            raise entry.fail("is a span; give one name a date, or false for no cut-off")
    return dict(sorted(cutoffs.items()))


def engine_specifier(text: str) -> str:
    """Return ``requires-modpkg`` in its normal spelling.

    Raises:
        InvalidValue: `text` is not a specifier, or allows any version.
    """
    specifier = specifier_text(manifest_specifier(text))
    if not specifier:
        raise InvalidValue("M108", specifier=text, reason=" (for any version, leave the key out)")
    return specifier
