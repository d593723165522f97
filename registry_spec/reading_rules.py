"""Rules for everybody who lets a registry be read: a folder, a bucket, any server of files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from modpkg.core.digests import Digest, blob_path, digest_bytes, parse_digest
from modpkg.core.elsewhere import FOLDER, read_places
from modpkg.core.errors import NotFound
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing, RangesUnsupported
from modpkg.registry.standing import without_removed
from registry_spec.check import Problem, Report, check
from registry_spec.rules import RuleBroken, Rules, RuleUntested, require

UNKNOWN = "conformance-of-nobody"
"""A name that no registry has."""
_MOST = 1 << 28
_NO_NAMES = "it cannot list its modules; name some"


def read_rules(
    rules: Rules, address: str, names: Sequence[str], modules: Sequence[str] | None
) -> None:
    """Try the rules of a registry that is only read.

    Args:
        rules: Where the results go.
        address: The registry's.
        names: Modules to check; all that it lists if empty.
        modules: The modules that it lists; None if it cannot.
    """
    wanted = list(names or modules or ())
    report = check(address, wanted) if wanted or modules is not None else None
    _whole(rules, report)
    registry = Registry(address)
    with rules.rule("registry.md#index-files", "lines are in the order of their versions"):
        _in_order(registry, wanted)
    with rules.rule("registry.md#index-files", "a name that is unknown has no index file"):
        _unknown(registry)
    with rules.rule("registry.md#blobs-that-are-elsewhere", "documents list places"):
        _elsewhere(registry)
    with rules.rule("registry.md#over-http", "a part of a blob can be asked for"):
        _part(registry, wanted)
    with rules.rule("registry.md#over-http", "a file is not sent again if it is as it was"):
        _unchanged(registry)


def _whole(rules: Rules, report: Report | None) -> None:
    """Try what `check` verifies, each part of the tree a rule."""
    parts: tuple[tuple[str, str, Callable[[Problem], bool]], ...] = (
        ("registry.md#registryjson", "it is canonical, with a name", _is_of(REGISTRY_INFO)),
        ("registry.md#index-files", "each line can be read", _is_of("index")),
        ("registry.md#modulesjsonl", "it agrees with the index", _is_of(REGISTRY_MODULES)),
        ("release.md#the-record", "each release is there, whole and valid", _is_release),
    )
    for section, rule, belongs in parts:
        with rules.rule(section, rule):
            if report is None:
                raise RuleUntested(_NO_NAMES)
            found = [problem for problem in report.problems if belongs(problem)]
            if found:
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                raise RuleBroken(f"{found[0].where}: [{found[0].code}] {found[0].message}{more}")
    with rules.rule("registry.md#writing", "blobs that nothing names are whole"):
        if report is None:
            raise RuleUntested(_NO_NAMES)
        strays = [problem for problem in report.problems if _is_of("blobs")(problem)]
        require(not strays, ", ".join(problem.where for problem in strays[:3]))


def _is_of(part: str) -> Callable[[Problem], bool]:
    return lambda problem: problem.where.split("/")[0] == part


def _is_release(problem: Problem) -> bool:
    others = (REGISTRY_INFO, "index", REGISTRY_MODULES, "blobs")
    return problem.where.split("/")[0] not in others


def _in_order(registry: Registry, names: Sequence[str]) -> None:
    if not names:
        raise RuleUntested(_NO_NAMES)
    for name in names:
        versions = [parse_version(line.version) for line in registry.index(name)]
        require(versions == sorted(versions), f"index/{name}.jsonl has {versions}")


def _unknown(registry: Registry) -> None:
    with contextlib.suppress(FileMissing):
        registry.source.read(f"index/{UNKNOWN}.jsonl")
        raise RuleBroken(f"there is an index/{UNKNOWN}.jsonl")
    with contextlib.suppress(FileMissing):
        registry.source.read(blob_path(digest_bytes(UNKNOWN.encode())))
        raise RuleBroken("there is a blob of a digest that nothing has")
    with contextlib.suppress(NotFound):
        require(not registry.index(UNKNOWN), f"{UNKNOWN} has releases")


def _elsewhere(registry: Registry) -> None:
    if (folder := registry.folder) is None:
        raise RuleUntested("its files cannot be listed")
    documents = sorted(folder.glob(f"{FOLDER}/*/*.json"))
    if not documents:
        raise RuleUntested("all blobs are here")
    for path in documents:
        require(bool(read_places(path.read_bytes(), str(path))), f"{path} lists no place")


def _part(registry: Registry, names: Sequence[str]) -> None:
    found = first_release(registry, names)
    if found is None:
        raise RuleUntested("it has no release")
    digest = parse_digest(found.release)
    path = blob_path(digest)
    whole = b"".join(registry.source.stream(path))
    require(digest_bytes(whole) == digest, f"{path} has another digest")
    try:
        for start, stop in ((0, 1), (3, 17), (len(whole) - 5, len(whole))):
            part = b"".join(registry.source.stream(path, start, stop))
            require(part == whole[start:stop], f"bytes {start} to {stop} of {path} are others")
        rest = b"".join(registry.source.stream(path, 7))
        require(rest == whole[7:], f"the bytes of {path} from 7 on are others")
    except RangesUnsupported:
        raise RuleUntested("it sends whole files only, which readers bear") from None


def _unchanged(registry: Registry) -> None:
    first = registry.source.read_changed(REGISTRY_INFO, None, _MOST)
    require(first is not None, f"{REGISTRY_INFO} is said to be unchanged")
    if first is None or first.validator is None:
        raise RuleUntested("its files have neither ETag nor Last-Modified")
    again = registry.source.read_changed(REGISTRY_INFO, first.validator, _MOST)
    require(again is None, f"{REGISTRY_INFO} is sent again, though it is as it was")


def first_release(registry: Registry, names: Sequence[str]) -> IndexLine | None:
    """Return a release of a registry; None if it has none of these modules."""
    return next((line for name in names for line in without_removed(registry.index(name))), None)


def read_whole(registry: Registry, digest: Digest, what: str) -> bytes:
    """Return a blob, verified.

    Raises:
        RuleBroken: It has another digest.
        IntegrityError: The registry does not have it.
    """
    data = b"".join(registry.stream(digest, what))
    require(digest_bytes(data) == digest, f"{what} has another digest")
    return data
