"""The checker of a registry, built on the package's reader."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from modpkg.core.digests import Digest, blob_path, digest_bytes, digest_file, parse_digest
from modpkg.core.errors import IntegrityError, ModpkgError, RecordError
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.leftovers import TEMPORARY
from modpkg.core.names import module_name, parse_requirement
from modpkg.core.records import RESTORE, IndexLine, canonical_json
from modpkg.core.tree import BlobTree
from modpkg.registry.module_lines import format_module_lines, parse_module_lines
from modpkg.registry.reader import Registry
from modpkg.registry.source import FileMissing
from modpkg.registry.standing import is_removed
from registry_spec.releases import check_release

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_PLACE = re.compile(r"index/[^/:]+\.jsonl:\d+")


class NamesNeeded(Exception):
    """The registry cannot list its modules, and no name was given."""


class Problem(Struct, frozen=True):
    """One problem of a registry."""

    where: str
    code: str
    message: str


class Report(Struct):
    """The result of a check."""

    registry: str
    modules: int = 0
    releases: int = 0
    blobs: int = 0
    problems: list[Problem] = []

    def summary(self) -> str:
        """Return the last line of a report."""
        counts = f"{self.modules} modules, {self.releases} releases, {self.blobs} blobs"
        if self.problems:
            return f"{self.registry} has {len(self.problems)} problem(s) ({counts})."
        return f"{self.registry} is sound ({counts})."

    def json(self) -> str:
        """Return the report as one JSON object."""
        return msgspec.json.encode(self).decode()


def check(address: str, names: Sequence[str] = ()) -> Report:
    """Return all problems of the registry at a folder or URL.

    Raises:
        NamesNeeded: It cannot list its modules, and ``names`` is empty.
        InvalidValue: One of ``names`` is not a module name.
    """
    wanted = [module_name(name) for name in names]
    with tempfile.TemporaryDirectory() as work:
        return _Check(address, Path(work)).run(wanted)


class _Check:
    """One check of one registry."""

    def __init__(self, address: str, work: Path) -> None:
        self.warnings: list[str] = []
        self.registry = Registry(address, warn=self.warnings.append)
        self.local = BlobTree(work)
        self.report = Report(registry=address)
        self.seen: set[str] = set()

    def run(self, names: Sequence[str]) -> Report:
        with self._problems("registry.json"):
            data = self.registry.source.read("registry.json") if self._info() else b""
            _check_canonical(data.removesuffix(b"\n"), "registry.json")
            if not self.registry.name.strip():
                raise _bad("registry.json", "it has an empty name")
        if self.report.problems:
            return self.report
        listed = self.registry.names()
        if not names and listed is None:
            raise NamesNeeded("this registry cannot list its modules; name those to check")
        pending = list(names or listed or [])
        queued = set(pending)
        while pending:
            for name in self._module(pending.pop(0)):
                # With given names, required modules are checked too, if the registry has them.
                if names and name not in queued and self.registry.index(name):
                    queued.add(name)
                    pending.append(name)
        if self.registry.folder is not None and not names:
            self._stray_blobs(self.registry.folder)
        self._skipped_lines()
        with self._problems(REGISTRY_MODULES):
            self._module_lines()
        self.report.blobs = len(self.seen)
        return self.report

    def _info(self) -> bool:
        return self.registry.info is not None

    @contextlib.contextmanager
    def _problems(self, where: str) -> Iterator[None]:
        try:
            yield
        except ModpkgError as error:
            problem = Problem(where, error.code, " ".join(str(error).split()))
            if problem not in self.report.problems:
                self.report.problems.append(problem)

    def _module(self, name: str) -> list[str]:
        """Check an index file and its releases; return the names that they require."""
        path = f"index/{name}.jsonl"
        self.report.modules += 1
        required: list[str] = []
        lines: list[IndexLine] = []
        with self._problems(path):
            if module_name(name) != name:
                raise _bad(path, "its name is not in normal form")
            lines = self.registry.index(name)
            if not lines and not self.warnings:
                raise _bad(path, "it has no release")
        self._skipped_lines()
        for line in lines:
            where = f"{name} {line.version}"
            self.report.releases += 1
            with self._problems(where):
                required += self._line(line, name)
            if is_removed(line):
                continue
            for step in check_release(self.registry, line, self.file):
                with self._problems(where):
                    step()
        return required

    def _skipped_lines(self) -> None:
        """Report the index lines that the reader left out with a warning."""
        for warning in self.warnings:
            place = _PLACE.search(warning)
            where = place[0] if place else "index"
            self.report.problems.append(Problem(where, "M209", warning))
        self.warnings.clear()

    def _module_lines(self) -> None:
        """Check the form of ``modules.jsonl``, which may be missing, or behind the index."""
        try:
            data = self.registry.source.read(REGISTRY_MODULES)
        except FileMissing:
            return
        skipped: list[str] = []
        lines = parse_module_lines(data, REGISTRY_MODULES, skipped.append)
        if skipped:
            raise _bad(REGISTRY_MODULES, "it has lines that are malformed or of a newer version")
        if format_module_lines(lines) != data:
            raise _bad(REGISTRY_MODULES, "its lines are not canonical JSON, sorted by name")
        listed = {f"index/{name}.jsonl": line.index for name, line in lines.items()}
        listed[REGISTRY_INFO] = next((line.registry for line in lines.values()), None)
        for path in [path for path, digest in listed.items() if digest is not None]:
            try:
                actual = digest_bytes(self.registry.source.read(path))
            except FileMissing:
                actual = None
            if listed[path] != actual:
                raise _bad(REGISTRY_MODULES, f"it has another digest of {path} than that file has")

    def _line(self, line: IndexLine, name: str) -> list[str]:
        what = f"the index line of {line.name} {line.version}"
        if line.name != name:
            raise _bad(what, f"its name {line.name!r} is not in normal form")
        if line.published and not _TIME.fullmatch(line.published):
            raise _bad(what, f"{line.published!r} is not a time like 2026-01-01T00:00:00Z")
        requirements = [parse_requirement(text) for text in line.requires]
        names = [requirement.name for requirement in requirements]
        for extra, group in line.extras.items():
            if module_name(extra) != extra:
                raise _bad(what, f"extra {extra!r} is not in normal form")
            requirements += [parse_requirement(text) for text in group]
        for base in line.expects:
            if base not in names:
                raise _bad(what, f"it expects something of {base!r}, which it does not require")
        return [requirement.name for requirement in requirements]

    @contextlib.contextmanager
    def file(self, digest: Digest, what: str) -> Iterator[Path]:
        """Return a blob as a file with a verified digest; a download is removed afterwards."""
        self.seen.add(digest)
        path = self.registry.local_path(digest)
        if path is None:
            self.local.add_stream(
                self.registry.stream(digest, what), digest, what, self.registry.url
            )
            path = self.local.path(digest)
            try:
                yield path
            finally:
                path.unlink()
            return
        source = self.registry.folder
        if not path.is_file():
            raise IntegrityError("M306", what=what, digest=digest, source=source)
        actual = digest_file(path)
        if actual != digest:
            raise IntegrityError("M305", what=what, expected=digest, actual=actual, source=source)
        yield path

    def _stray_blobs(self, folder: Path) -> None:
        """Check the blobs that no release names: an aborted upload may leave valid ones."""
        for path in sorted((folder / "blobs").rglob("*")):
            if path.is_dir() or path.name.startswith(TEMPORARY):
                continue
            shown = path.relative_to(folder).as_posix()
            with self._problems(shown):
                digest = parse_digest(f"sha256:{path.name}")
                if shown != blob_path(digest):
                    raise _bad(shown, "it is not in the folder of its first two digits")
                if digest not in self.seen:
                    with self.file(digest, "a blob that no release names"):
                        pass


def _check_canonical(data: bytes, what: str) -> None:
    if canonical_json(msgspec.json.decode(data)) != data:
        raise _bad(what, "it is not canonical JSON")


def _bad(what: str, reason: str) -> RecordError:
    return RecordError("M209", what=what, kind="part of a registry", reason=reason, remedy=RESTORE)
