"""``modules.jsonl``: a line for each module of a registry, by which modules are searched.

It says nothing that the index and the release records do not say. It lets one read find the modules
of a registry that cannot list its files, and tells which copies of its index files are current.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.decoding import clean_texts
from modpkg.core.errors import RegistryError
from modpkg.core.filenames import REGISTRY_MODULES
from modpkg.core.files import human_bytes
from modpkg.core.names import module_name, parse_version
from modpkg.core.records import SPEC, IndexLine, ModuleLine, ReleaseRecord, canonical_json
from modpkg.registry.select import newest_release
from modpkg.registry.standing import is_removed


class _AnyTexts(ModuleLine, kw_only=True, gc=False):
    """A line with any texts, be they such that they can be shown or not.

    Of what a line has besides, nothing is decoded: that would take 25 times as much memory.
    """

    summary: str = ""
    license: str = ""
    task: str = ""
    bases: list[str] = field(default_factory=list)
    published: str = ""
    yanked: str | None = None
    deprecated: str | None = None
    successor: str = ""
    removed: str | None = None


class _ListSpec(Struct):
    spec: int


_DECODER = msgspec.json.Decoder(ModuleLine)
_ANY_TEXTS = msgspec.json.Decoder(_AnyTexts)
_SPEC = msgspec.json.Decoder(_ListSpec)
"""Made before threads use them."""
_STANDING = ("yanked", "deprecated", "successor", "removed")
_SHOWN = ("summary", "license", "task", "bases", "published", *_STANDING)


def shown_release(lines: Iterable[IndexLine]) -> IndexLine | None:
    """Return the release that describes a module: the newest to use.

    If all were yanked, it is one of these, and if all were removed the last line.
    """
    lines = list(lines)
    return newest_release(lines, or_yanked=True) or (lines[-1] if lines else None)


def task_kind(record: ReleaseRecord) -> str:
    """Return the kind of a release's task; "" if it declares none."""
    task = record.manifest.get("task")
    kind = task.get("kind") if isinstance(task, dict) else None
    return kind if isinstance(kind, str) else ""


def module_line(line: IndexLine, record_of: Callable[[IndexLine], ReleaseRecord]) -> ModuleLine:
    """Return what a search needs of a module, by the release that describes it.

    ``record_of`` returns its record; it is not asked for that of a removed release.
    """
    record = None if is_removed(line) else record_of(line)
    return ModuleLine(
        name=line.name,
        version=line.version,
        kind=line.kind,
        summary="" if record is None else record.summary,
        license="" if record is None else record.license,
        task="" if record is None else task_kind(record),
        bases=sorted(line.expects),
        published=line.published,
        yanked=line.yanked,
        deprecated=None if line.deprecated is UNSET else line.deprecated,
        successor=line.successor or "",
        removed=None if line.removed is UNSET else line.removed,
    )


def check_bounds(data: bytes, url: str) -> None:
    """Check that a file has no more bytes, lines and values than a registry's has.

    Raises:
        RegistryError: It is.
    """
    if (most := exceeded(data)) is not None:
        raise RegistryError("M327", url=url, path=REGISTRY_MODULES, most=most)


def exceeded(data: bytes) -> str | None:
    """Return the bound that a file is over, as it is shown; None if there is none."""
    if len(data) > bounds.MODULES_BYTES:
        return human_bytes(bounds.MODULES_BYTES)
    if data.count(b"\n") > bounds.MODULES_LINES:
        return f"{bounds.MODULES_LINES:,} lines"
    if data.count(b",") > bounds.MODULES_VALUES:
        return f"{bounds.MODULES_VALUES:,} values"
    return None


def parse_module_lines(
    data: bytes, source: str, warn: Callable[[str], None] | None = None
) -> dict[str, ModuleLine]:
    """Return the lines by name; those that are malformed are skipped, with one warning."""
    lines: dict[str, ModuleLine] = {}
    skipped = 0
    for raw in io.BytesIO(data):
        if raw.isspace():
            continue
        try:
            line = _valid(raw)
        except Exception:
            skipped += 1
        else:
            lines[line.name] = line
    if skipped and warn is not None:
        lines_are = "1 line that is" if skipped == 1 else f"{skipped} lines that are"
        warn(f"{source}: skipped {lines_are} malformed or of a newer version")
    return lines


def malformed_lines(data: bytes) -> int:
    """Return how many lines are malformed; those of a newer version are not."""
    return sum(not raw.isspace() and _is_malformed(raw) for raw in io.BytesIO(data))


def _is_malformed(raw: bytes) -> bool:
    try:
        _valid(raw)
    except Exception:
        try:
            return _SPEC.decode(raw).spec <= SPEC
        except Exception:
            return True
    return False


def _valid(raw: bytes) -> ModuleLine:
    """Return a line.

    Raises:
        Exception: It is malformed, or of a newer version.
    """
    line = _decoded(raw)
    if line.spec > SPEC or module_name(line.name) != line.name:
        raise ValueError(line.name)
    parse_version(line.version)
    return line


def _decoded(raw: bytes) -> ModuleLine:
    """Return a line; its texts are made such that they can be shown."""
    try:
        return _DECODER.decode(raw)
    except msgspec.ValidationError:
        record = msgspec.to_builtins(_ANY_TEXTS.decode(raw))
        if clean_texts(record, _SHOWN) is None:
            raise
        return msgspec.convert(record, ModuleLine)


def format_module_lines(lines: Mapping[str, ModuleLine], registry: str | None = None) -> bytes:
    """Return the file of these lines, sorted by name.

    The first gets the digest of ``registry.json``, and no other has it; with None, they stay as
    they are.
    """
    ordered = [line for _, line in sorted(lines.items())]
    if registry is not None:
        own = [registry, *[None] * len(ordered)]
        ordered = [
            line if line.registry == digest else replace(line, registry=digest)
            for line, digest in zip(ordered, own, strict=False)
        ]
    return b"".join(canonical_json(line) + b"\n" for line in ordered)
