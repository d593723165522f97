"""What a lock takes in that is new in terms of trust, to be shown before anybody relies on it.

Nothing is asked for it: it is seen from index files that resolving has read, and from the list of
modules where a copy of it is here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

from modpkg.core.bounds import MODULES_HINT_BYTES
from modpkg.core.errors import InvalidValue, ModpkgError
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.lazy_pattern import lazy_pattern
from modpkg.core.look_alike import NEEDED, nearest, skeleton
from modpkg.core.names import ModuleName, listed
from modpkg.core.records import IndexLine, ModuleLine
from modpkg.core.regular_file import OversizedFile, read_file
from modpkg.environment.generations import ModuleState
from modpkg.manifest.cutoff import parse_moment
from modpkg.manifest.schema import Manifest
from modpkg.registry.cool_down import cool_down_of
from modpkg.registry.reader import Registry
from modpkg.registry.recorded_address import BUILT_IN
from modpkg.resolve.lock import Lock, LockedModule
from modpkg.resolve.resolve import Resolution
from modpkg.trust.rules import NOBODY, rule_of

FRESH = timedelta(days=7)
"""How old the first release of a name has to be for the name to be no news."""
_SHOWN = 5
_DIGITS = lazy_pattern("[0-9]+")


class TrustNews(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is new in a lock: who signs, or what nobody has relied on for long."""

    kind: Literal["signer", "first-release", "look-alike", "young"]
    """``signer``: nothing locked was signed by him so far. ``first-release``: the first one
    of its name is not a week old. ``look-alike``: its name can be taken for another. ``young``: it
    is younger than its registry's cool-down, which the manifest does not heed."""
    name: str
    version: str
    signer: str | None = None
    like: str | None = None
    """The name that it can be taken for."""
    published: str | None = None
    """Of ``first-release``, when the first one was published."""
    cool_down: str | None = None
    """The span of its registry."""


def trust_news(
    lock: Lock,
    previous: Lock | None,
    resolution: Resolution,
    manifest: Manifest,
    *,
    installed: Sequence[ModuleState] = (),
    now: datetime,
) -> list[TrustNews]:
    """Return what is new in a lock in terms of trust.

    Of candidates, models of a hub and releases of modpkg's own folder only signers are news: who
    tries, names or publishes these knows what they are.

    Args:
        lock: The new lock.
        previous: The one so far.
        resolution: What the new one is made of.
        manifest: The project's. Who is named in its rules is no news.
        installed: What the environment's generations have.
        now: The present time.
    """
    locked = () if previous is None else previous.module
    known: set[str] = {module.name for module in (*locked, *installed)}
    trusted = {module.signer for module in (*locked, *installed)} | {NOBODY}
    direct = {dependency.name for dependency in manifest.dependencies}
    popular: dict[Registry, list[str]] = {}
    news = []
    for module in lock.module:
        rule = rule_of(manifest.trust, module.name)
        if module.signer not in trusted and (rule is None or module.signer not in rule.signers):
            news.append(_news("signer", module, signer=module.signer))
        release = resolution.modules[ModuleName(module.name)].release
        registry, published = release.registry, release.line.published
        was = None if previous is None else previous.find(module.name)
        is_same = was is not None and was.release == module.release
        if is_same or module.candidate or registry.stands_for or module.address == BUILT_IN:
            continue
        if module.name not in known:
            first = first_published(registry.index(module.name))
            if _is_after(first, now - FRESH):
                news.append(_news("first-release", module, published=first))
            if module.name in direct:
                if registry not in popular:
                    popular[registry] = well_known(registry)
                like = taken_for(module.name, [*known, *popular[registry]])
                if like is not None:
                    news.append(_news("look-alike", module, like=like))
        span = cool_down_of(registry)
        if span is not None and _is_after(published, span.at(now)):
            news.append(_news("young", module, published=published, cool_down=span.text))
    return news


def first_published(lines: Iterable[IndexLine]) -> str:
    """Return when the first release of a module was published, whatever became of it; "" for never.

    However many releases follow at once, the name is as new as that.
    """
    times: dict[datetime, str] = {}
    for line in lines:
        with suppress(InvalidValue):
            times[parse_moment(line.published)] = line.published
    return times[min(times)] if times else ""


def well_known(registry: Registry) -> list[str]:
    """Return the names that many modules of a registry act on, as far as its list is here."""
    lines: Mapping[str, ModuleLine] | None = None
    with suppress(ModpkgError, OSError, OversizedFile):
        copy = registry.files.copy(REGISTRY_MODULES)
        if copy is not None:
            from modpkg.registry.module_lines import parse_module_lines

            lines = parse_module_lines(read_file(copy, MODULES_HINT_BYTES), str(copy))
        elif registry.folder is not None:
            lines = registry.modules(MODULES_HINT_BYTES)
    needed = Counter(base for line in (lines or {}).values() for base in line.bases)
    return [name for name, count in needed.most_common() if count >= NEEDED]


def taken_for(name: str, others: Collection[str]) -> str | None:
    """Return the first of some names that one can be taken for; None if it is one of them.

    Names that differ in numbers only are versions or sizes of one thing.

    >>> taken_for("sumarizer", ["words", "summarizer"]), taken_for("llama-3", ["llama-2"])
    ('summarizer', None)
    """
    if name in others:
        return None
    plain = _DIGITS.sub("", name)
    near = [other for other in others if _DIGITS.sub("", other) != plain]
    alike = skeleton(name)
    return next((other for other in near if skeleton(other) == alike), None) or nearest(name, near)


def shown_news(news: Sequence[TrustNews], now: datetime) -> str:
    """Return news as one line."""
    parts = [*_parts(news, now)]
    more = [f"and {len(parts) - _SHOWN} more"] if len(parts) > _SHOWN else []
    return f"New here: {'; '.join([*parts[:_SHOWN], *more])}."


def _parts(news: Iterable[TrustNews], now: datetime) -> Iterator[str]:
    signed: dict[str, list[str]] = {}
    for one in news:
        if one.signer is not None:
            signed.setdefault(one.signer, []).append(one.name)
    for signer, names in signed.items():
        yield f"{listed(names, 3)} signed by {signer}"
    for one in news:
        if one.kind == "look-alike":
            yield f"{one.name} is nearly called {one.like}"
        elif one.kind == "first-release":
            yield f"the first release of {one.name} is {_age(one, now)}"
        elif one.kind == "young":
            yield (
                f"{one.name} {one.version} is {_age(one, now)}, and its registry waits "
                f"{one.cool_down}"
            )


def _age(news: TrustNews, now: datetime) -> str:
    age = now - parse_moment(news.published or "")
    hours = max(int(age.total_seconds()) // 3600, 0)
    if hours == 0:
        return "less than an hour old"
    count, unit = (hours, "hour") if hours < 48 else (hours // 24, "day")
    return f"{count} {unit}{'s' * (count != 1)} old"


def _news(
    kind: Literal["signer", "first-release", "look-alike", "young"],
    module: LockedModule,
    **more: str,
) -> TrustNews:
    return TrustNews(kind=kind, name=module.name, version=module.version, **more)


def _is_after(published: str, moment: datetime) -> bool:
    with suppress(InvalidValue):
        return parse_moment(published) > moment
    return False
