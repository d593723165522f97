"""The conformance suite: what any registry has to do, whatever it lies in or is served by.

A registry that can be written to gets modules of the suite's own, whose names begin with
``conformance-``; they stay. So one that has other modules is only read, unless it is asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.errors import ModpkgError, RegistryError
from modpkg.registry.reader import Registry
from registry_spec.assembly_rules import assembly_rules
from registry_spec.http_rules import http_rules, is_http
from registry_spec.publishers import PlacePublisher, Publisher
from registry_spec.reading_rules import read_rules
from registry_spec.rules import Rules, TriedRule
from registry_spec.samples import BEGINNING, Samples
from registry_spec.session_publisher import SessionPublisher
from registry_spec.writing_rules import write_rules


class ConformanceReport(Struct, frozen=True, kw_only=True):
    """What the suite found."""

    registry: str
    rules: list[TriedRule]
    lock: str | None = None
    """Digest of the lock of the suite's assembly; from all registries the same."""
    composed: str | None = None
    """Digest of its composed weights; from all registries the same."""

    @property
    def broken(self) -> int:
        """How many rules are broken."""
        return sum(tried.outcome == "broken" for tried in self.rules)

    def summary(self) -> str:
        """Return the last lines of a report."""
        counts = {
            outcome: sum(tried.outcome == outcome for tried in self.rules)
            for outcome in ("holds", "broken", "untested")
        }
        counted = (
            f"{counts['holds']} hold, {counts['broken']} broken, {counts['untested']} untested"
        )
        lines = [f"{self.registry}: {counted}."]
        if self.composed is not None:
            lines += [f"lock      {self.lock}", f"composed  {self.composed}"]
        return "\n".join(lines)

    def json(self) -> str:
        """Return the report as one JSON object."""
        return msgspec.json.encode(self).decode()


def conform(
    address: str,
    names: Sequence[str] = (),
    *,
    token: str | None = None,
    read_only: bool = False,
    among_others: bool = False,
) -> ConformanceReport:
    """Try the rules of the registry spec on a registry.

    Args:
        address: A folder, or a URL.
        names: Modules to read; all that it lists if empty.
        token: Of the server's API, to publish there.
        read_only: Whether nothing is published.
        among_others: Whether the suite's modules may be published beside those of others.
    """
    rules = Rules()
    with tempfile.TemporaryDirectory(prefix="modpkg-conformance-") as scratch:
        work = Path(scratch)
        samples = Samples(work / "samples")
        publisher = None if read_only else _publisher(address, token)
        if publisher is not None and not among_others and _has_others(address):
            publisher = None
        if publisher is not None:
            write_rules(rules, address, publisher, samples)
        found = assembly_rules(rules, address, publisher, samples, work)
        read_rules(rules, address, names, _modules(address))
        if is_http(address):
            http_rules(rules, address, has_api=api_of(address) is not None)
    return ConformanceReport(
        registry=address,
        rules=rules.tried,
        lock=None if found is None else found.lock,
        composed=None if found is None else found.composed,
    )


def api_of(address: str) -> str | None:
    """Return the address of a registry's API; None if it has none."""
    info = Registry(address).info
    return None if info is None else info.api


def _publisher(address: str, token: str | None) -> Publisher | None:
    """Return who can publish to a registry; None if nobody can."""
    if not is_http(address):
        return PlacePublisher(address)
    api = None if token is None else api_of(address)
    return None if token is None or api is None else SessionPublisher(api, token)


def _modules(address: str) -> list[str] | None:
    """Return the modules that a registry lists; None if it cannot."""
    registry = Registry(address)
    if (names := registry.names()) is not None:
        return names
    modules = registry.modules()
    return None if modules is None else sorted(modules)


def _has_others(address: str) -> bool:
    """Return whether a registry has modules that are not the suite's."""
    try:
        modules = _modules(address)
    except RegistryError:
        return False  # there is none yet
    except ModpkgError:
        return True
    return any(not name.startswith(BEGINNING) for name in modules or ())
