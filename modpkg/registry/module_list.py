"""Keeping ``modules.jsonl`` right while index files are replaced.

A reader believes a copy of an index file to be current if the list has its digest. So the list must
never have the digest of a file that is another by now, whoever was killed, and when: before an
index file is replaced, its digest is taken out of the list, and the line gets a mark of its own for
the change; after that, the new digest is written, if the line still has that mark. Whoever replaces
an index file has read it before he marks the line. So of two who replace one file, the one who was
later either has marked the line after the other, who then leaves it to him, or makes the other's
replacement of the list fail, for it is replaced only as it was read. Who describes a file that he
has not replaced reads it after the list, for the same reason.

A change that nobody ends leaves a line without a digest: the file is asked for each time. Who
publishes next ends it, where nobody else can be at it: in a folder, whose lock he has, or after a
day.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Container, Iterable, Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import digest_bytes
from modpkg.core.errors import ModpkgError, PublishError, RegistryUnreachable, TrustError
from modpkg.core.filenames import REGISTRY_INFO, REGISTRY_MODULES
from modpkg.core.records import ModuleLine, ReleaseRecord
from modpkg.registry.index import parse_index
from modpkg.registry.module_lines import (
    check_bounds,
    exceeded,
    format_module_lines,
    module_line,
    parse_module_lines,
    shown_release,
)
from modpkg.registry.place import Place, RegistryChange, registry_at
from modpkg.registry.source import FileMissing

ABANDONED = datetime.timedelta(days=1)
"""After which a change that has not ended is nobody's any more; clocks may differ by hours."""
_SHORTER = "publish with a shorter summary, or ask who runs the registry to have its modules in two"
MENDED = 100
"""Lines of other modules that are mended with one change, each at two requests or so."""


class _LogOnly(Struct):
    """What of ``registry.json`` says that there is a log."""

    log: object = None


class ModuleList:
    """The list of a registry's modules, for one who changes index files."""

    def __init__(self, place: Place) -> None:
        self._place = place
        now = datetime.datetime.now(datetime.timezone.utc)
        self._mark = f"{now:%Y-%m-%dT%H:%M:%SZ} {secrets.token_hex(8)}"
        self._since = f"{now - ABANDONED:%Y-%m-%dT%H:%M:%SZ}"

    def begin(self, change: RegistryChange, name: str) -> None:
        """Take the digest of an index file out, which was read and is now replaced.

        Raises:
            PublishError: The list cannot be written, or would be longer than readers take.
            TrustError: The registry has a log, and this place no journal that writes it.
        """
        if self._place.journal is None and self._has_log():
            raise TrustError("M557", url=self._place.url)
        before, lines = self._read(change)
        listed = {*lines}
        if before is None:
            self._describe(lines, self._names())
        elif name not in lines:
            self._describe(lines, [name])
        if name in lines:
            lines[name] = replace(lines[name], index=None, changing=self._mark)
        if lines:
            try:
                self._write(change, before, lines, listed)
            except PermissionError as error:  # its readers would not see what is published
                reason = f"{REGISTRY_MODULES}: {error.strerror}"
                raise PublishError("M309", url=self._place.url, reason=reason) from None

    def end(
        self,
        change: RegistryChange,
        name: str,
        index: bytes | None = None,
        records: Mapping[str, ReleaseRecord] | None = None,
    ) -> None:
        """Describe a module by its index file.

        ``index`` is what it was replaced by; None if it is as it was. ``records`` are release
        records by their digests, as far as they are known.
        """
        before, lines = self._read(change)
        listed = {*lines}
        if before is None:
            self._describe(lines, [other for other in self._names() if other != name])
        own = lines.get(name)
        if own is None or (self._may_end(own) if index is None else own.changing == self._mark):
            self._describe(lines, [name], {} if index is None else {name: index}, records or {})
        if before is not None:
            self._describe(lines, self._to_mend(lines))
        with contextlib.suppress(PermissionError):  # a release is not refused for this
            self._write(change, before, lines, listed)

    def write_all(self, change: RegistryChange) -> None:
        """Write the list by all index files.

        Raises:
            PublishError: It would be longer than readers take.
        """
        before, listed = self._read(change)
        lines: dict[str, ModuleLine] = {}
        self._describe(lines, self._names())
        self._write(change, before, lines, listed)

    def _has_log(self) -> bool:
        info = self._place.source.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES)
        try:
            return msgspec.json.decode(info, type=_LogOnly).log is not None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False  # whoever reads the registry learns what is wrong with it

    def _read(self, change: RegistryChange) -> tuple[bytes | None, dict[str, ModuleLine]]:
        data = change.read(REGISTRY_MODULES, bounds.MODULES_BYTES)
        if data is None:
            return None, {}
        check_bounds(data, self._place.url)
        return data, parse_module_lines(data, f"{self._place.url}/{REGISTRY_MODULES}")

    def _write(
        self,
        change: RegistryChange,
        before: bytes | None,
        lines: Mapping[str, ModuleLine],
        listed: Container[str],
    ) -> None:
        """Write the list; where there is no room for all, that of the modules that it ``listed``.

        Nobody could publish any more after a longer one: who publishes reads it. A module that is
        not in the list is found by its index file.

        Raises:
            PublishError: There is no room for these.
        """
        info = digest_bytes(self._place.source.read(REGISTRY_INFO, bounds.REGISTRY_INFO_BYTES))
        data = format_module_lines(lines, info)
        if exceeded(data) is not None:
            if before is None:
                return  # readers know what to do without a list, and not with an empty one
            kept = {name: line for name, line in lines.items() if name in listed}
            data = format_module_lines(kept, info)
        if data == before:
            return
        if (most := exceeded(data)) is not None:
            raise PublishError("M593", path=REGISTRY_MODULES, most=most, remedy=_SHORTER)
        change.replace(REGISTRY_MODULES, data)

    def _may_end(self, line: ModuleLine) -> bool:
        """Return whether nobody else can be changing the index file of a line."""
        own = line.changing in ("", self._mark)
        return own or self._place.folder is not None or line.changing < self._since

    def _to_mend(self, lines: Mapping[str, ModuleLine]) -> list[str]:
        """Return modules whose lines lack a digest, or that lack a line, as far as it is known."""
        names = [n for n, line in lines.items() if line.index is None and self._may_end(line)]
        if self._place.folder is not None:
            names += [name for name in self._names() if name not in lines]
        return names[:MENDED]

    def _names(self) -> list[str]:
        return registry_at(self._place).names() or []

    def _describe(
        self,
        lines: dict[str, ModuleLine],
        names: Iterable[str],
        indexes: Mapping[str, bytes] = {},
        records: Mapping[str, ReleaseRecord] = {},
    ) -> None:
        """Replace the lines of modules, by their index files and records.

        Raises:
            RegistryUnreachable: One cannot be read now.
        """
        reader = registry_at(self._place)
        for name in names:
            lines.pop(name, None)
            try:
                data = indexes.get(name)
                if data is None:
                    data = self._place.source.read(f"index/{name}.jsonl", bounds.INDEX_BYTES)
                line = shown_release(parse_index(data, name, self._place.url))
                if line is not None:
                    made = module_line(line, lambda x: records.get(x.release) or reader.record(x))
                    lines[name] = replace(made, index=digest_bytes(data))
            except RegistryUnreachable:
                raise  # the disk failed: what it has is not left out
            except (FileMissing, ModpkgError):
                continue  # damaged: fetching it tells that
