"""Searching registries for modules, by what their names and ``modules.jsonl`` say.

Nobody signs ``modules.jsonl``. So of a registry that signs its index, it only says what may be
shown: what is shown of it is read from the index and from release records. A module is left out
where these are not what was signed; offline, where they were not read before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from msgspec import Struct

from modpkg.core.errors import (
    InstallError,
    IntegrityError,
    ModpkgError,
    RegistryError,
    TrustError,
)
from modpkg.core.names import listed
from modpkg.core.records import IndexLine, ModuleLine
from modpkg.environment.workspace import Workspace
from modpkg.registry.module_lines import module_line, shown_release
from modpkg.registry.mutable_files import NOT_KEPT
from modpkg.registry.reader import Registry
from modpkg.registry.standing import is_removed
from modpkg.registry.upkeep import AT_ONCE, fetch_indexes
from modpkg.trust.signed_index import NOT_SIGNED


class FoundModule(Struct, frozen=True, kw_only=True):
    """A module that a search found."""

    name: str
    version: str
    """The newest release that was not yanked; what follows is about it."""
    kind: str
    summary: str
    license: str
    task: str
    """The kind of its task; empty if it declares none."""
    bases: list[str]
    """What it acts on."""
    published: str
    yanked: str | None
    """Why the release was yanked, if all were."""
    deprecated: str | None = None
    """Why it should not be used any more, if it should not; may be empty."""
    successor: str = ""
    """What to use instead of a deprecated release, as a requirement."""
    registry: str
    """The address of its registry."""


class LeftOutModule(Struct, frozen=True, kw_only=True):
    """A module whose files in its registry are not what was signed, or are damaged."""

    name: str
    code: str
    reason: str
    """Why, as a sentence."""
    registry: str
    """The address of its registry."""


def as_left_out(name: str, registry: Registry, error: ModpkgError) -> LeftOutModule:
    """Return a module that is left out, and why."""
    return LeftOutModule(name=name, code=error.code, reason=str(error), registry=registry.url)


class SearchResult(Struct, frozen=True):
    """What a search found."""

    modules: list[FoundModule]
    """Best first: names before other texts."""
    total: int
    """How many there are; ``modules`` has at most as many as ``--limit`` says."""
    left_out: list[LeftOutModule] = []
    """Those that may fit, and are not among them."""


def search(
    workspace: Workspace, words: Sequence[str], *, kind: str | None = None, most: int
) -> SearchResult:
    """Return the modules in which each of the words is found, in any of the texts about them.

    All registries of the manifest and of ``config.toml`` are searched, or only the one of
    ``--registry``. With several, one that cannot be searched is left out with a warning, and so is
    a module that is not what was signed, where others are found.

    Raises:
        TrustError, IntegrityError: Nothing that may fit is what was signed.
        RegistryError: The registry cannot be searched.
        NotFound, RegistryUnreachable, InstallError: The registry cannot be read.
    """
    wanted = [word.casefold() for word in words]
    found: list[tuple[int, ModuleLine, Registry]] = []
    signed: list[Registry] = []
    left_out = _LeftOut()
    failures: list[ModpkgError] = []
    searched = workspace.registries.searched()
    for registry in searched:
        try:
            matches = [
                (rank, line, registry)
                for line in _lines(registry, wanted, most, left_out)
                if (rank := found_at(line.name, texts_about(line), wanted)) is not None
                and kind in (None, line.kind)
                and line.removed is None
            ]
            if matches and registry.info.tuf is not None:
                signed.append(registry)
        except ModpkgError as error:
            failures.append(error)
            continue
        found += matches
    if len(failures) == len(searched):
        raise failures[0]
    for failure in failures:
        workspace.progress.warn(str(failure))
    found.sort(key=lambda item: (item[0], item[1].name, item[2].url))
    first = [(line, registry) for _, line, registry in found[:most]]
    shown = _as_signed(first, signed, left_out)
    total = len(found) - len(first) + len(shown)
    if not total:
        for refused in left_out.refused.values():
            raise refused
    left_out.warn(workspace.progress.warn)
    return SearchResult([_found(*one) for one in shown], total, left_out.modules())


class _LeftOut:
    """What a search leaves out: what is not what was signed, and offline what was not read."""

    def __init__(self) -> None:
        self.refused: dict[tuple[Registry, str], ModpkgError] = {}
        self._not_kept: Counter[Registry] = Counter()

    @contextmanager
    def noted(self, registry: Registry, name: str) -> Iterator[None]:
        """Note why a module cannot be shown, in place of raising that, if others may be."""
        try:
            yield
        except InstallError as error:
            if error.code not in NOT_KEPT:
                raise
            self._not_kept[registry] += 1
        except TrustError as error:
            if error.code != NOT_SIGNED:
                raise
            self.refused[registry, name] = error
        except IntegrityError as error:
            self.refused[registry, name] = error

    def modules(self) -> list[LeftOutModule]:
        """Return what is not what was signed."""
        return [as_left_out(name, one, error) for (one, name), error in self.refused.items()]

    def warn(self, warn: Callable[[str], None]) -> None:
        """Call ``warn`` with a sentence for each registry of which something was left out."""
        names: dict[Registry, list[str]] = {}
        for registry, name in self.refused:
            names.setdefault(registry, []).append(name)
        for registry, own in names.items():
            is_are = "is" if len(own) == 1 else "are"
            why = self.refused[registry, min(own)]
            warn(f"{registry.shown}: {listed(own, 3)} may fit and {is_are} not shown. {why}")
        for registry, count in self._not_kept.items():
            warn(
                f"{registry.shown}: {count} more may fit and {'is' if count == 1 else 'are'} not "
                "shown, as what its maintainers have signed of that was not read here yet; run the "
                "same command once without --offline"
            )


def _as_signed(
    found: Sequence[tuple[ModuleLine, Registry]], signed: Iterable[Registry], left_out: _LeftOut
) -> list[tuple[ModuleLine, Registry]]:
    """Return modules as the index has them where that is signed; without what it does not have.

    Args:
        found: What lists say of them.
        signed: The registries that sign their index.
        left_out: Is added to.

    Raises:
        TrustError: What says what is signed is not what it has to be.
        RegistryUnreachable, RegistryError: It cannot be read.
    """
    own = {one: [line.name for line, registry in found if registry is one] for one in signed}
    newest: dict[tuple[Registry, str], IndexLine] = {}
    for registry, names in own.items():
        fetch_indexes(registry, names)
        for name in names:
            with left_out.noted(registry, name):
                release = shown_release(registry.index(name))
                if release is not None and not is_removed(release):
                    newest[registry, name] = release
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (registry, _), release in newest.items():
            registry.prefetch_blob(release.release, "a release record", pool)
    shown: list[tuple[ModuleLine, Registry]] = []
    for line, registry in found:
        if registry not in own:
            shown.append((line, registry))
        elif (index_line := newest.get((registry, line.name))) is not None:
            with left_out.noted(registry, line.name):
                shown.append((module_line(index_line, registry.record), registry))
    return shown


def _lines(
    registry: Registry, words: Sequence[str], most: int, left_out: _LeftOut
) -> Iterable[ModuleLine]:
    """Return what a registry says of its modules.

    If it has no ``modules.jsonl`` but can list its files, only names are searched, and what else is
    known of the first modules is read from their releases.
    """
    known = registry.modules()
    if known is not None:
        return known.values()
    names = registry.names()
    if names is None:
        raise RegistryError("M806", registry=registry.shown)
    lines: list[ModuleLine] = []
    for name in [name for name in names if all(_in_name(word, name) for word in words)][:most]:
        with left_out.noted(registry, name):
            if (line := shown_release(registry.index(name))) is not None:
                lines.append(module_line(line, registry.record))
    return lines


def _in_name(word: str, name: str) -> bool:
    return word.replace("_", "-").replace(".", "-") in name


def texts_about(line: ModuleLine) -> str:
    """Return what a registry says of a module, for `found_at`."""
    return "\n".join([line.summary, line.kind, line.task, line.license, *line.bases]).casefold()


def found_at(name: str, about: str, words: Sequence[str]) -> int | None:
    """Return how well a module is found, 0 for best; None if a word is not found.

    Args:
        name: The module's.
        about: What `texts_about` returns of it.
        words: Case-folded.
    """
    rank = 0
    for word in words:
        if _in_name(word, name):
            rank += 0 if word == name else 1 if name.startswith(word) else 2
        elif word in about:
            rank += 3
        else:
            return None
    return rank


def _found(line: ModuleLine, registry: Registry) -> FoundModule:
    return FoundModule(
        name=line.name,
        version=line.version,
        kind=line.kind,
        summary=line.summary,
        license=line.license,
        task=line.task,
        bases=line.bases,
        published=line.published,
        yanked=line.yanked,
        deprecated=line.deprecated,
        successor=line.successor,
        registry=registry.url,
    )
