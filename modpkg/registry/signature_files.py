"""The files of a registry that have signatures: bundles, one a line, beside what they are about.

``signatures/<aa>/<hex>.jsonl`` is about the release with that digest, and
``successors/<name>.jsonl`` about the keys of a module. Both are only added to; what they say is
for `modpkg.trust` to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from modpkg.core import bounds
from modpkg.core.digests import Digest, blob_path, parse_digest
from modpkg.core.errors import PublishError
from modpkg.core.filenames import SUCCESSIONS
from modpkg.core.files import human_bytes
from modpkg.core.records import IndexLine
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.source import FileMissing

if TYPE_CHECKING:
    from modpkg.registry.place import RegistryChange
    from modpkg.registry.reader import Registry

T = TypeVar("T")


def signatures_path(release: Digest) -> str:
    """Return the path of a release's signatures.

    >>> signatures_path(Digest("sha256:" + "ab" * 32))[:18]
    'signatures/ab/abab'
    """
    return f"signatures/{blob_path(release).removeprefix('blobs/sha256/')}.jsonl"


def successors_path(name: str) -> str:
    """Return the path of what a module's keys say of the ones after them."""
    return f"{SUCCESSIONS}{name}.jsonl"


def most_of(path: str) -> int:
    """Return how many bytes a file of bundles may have."""
    return bounds.SUCCESSORS_BYTES if path.startswith(SUCCESSIONS) else bounds.SIGNATURES_BYTES


def bundles_in(data: bytes) -> list[bytes]:
    """Return the bundles of a file, as many as it may have."""
    return [line for line in data.split(b"\n") if line][: bounds.SIGNATURES]


def add_bundles(change: RegistryChange, path: str, bundles: list[bytes]) -> None:
    """Add bundles to a file of them, but for those that it has.

    Raises:
        PublishError: It has as many as it may have, or would be too long.
    """
    before = change.read(path, most := most_of(path)) or b""
    lines = bundles_in(before)
    wanted = list(dict.fromkeys([*lines, *bundles]))
    if wanted == lines:
        return
    if len(wanted) > bounds.SIGNATURES:
        raise PublishError("M546", path=path, most=bounds.SIGNATURES)
    data = b"\n".join(wanted) + b"\n"
    if len(data) > most:  # nobody could read it
        raise PublishError("M599", path=path, most=human_bytes(most))
    change.replace(path, data)


def signed_line(change: RegistryChange, line: IndexLine, bundles: list[bytes]) -> IndexLine:
    """Add bundles to those of a release, and return its line: another one if it had none before.

    Raises:
        PublishError: It has as many as it may have.
    """
    if not bundles:
        return line
    add_bundles(change, signatures_path(parse_digest(line.release)), bundles)
    return line if line.signed is True else replace(line, signed=True)


def signature_files(
    registry: Registry, lines: Sequence[IndexLine]
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the signatures of releases of one module, and of its keys' successors, by path."""
    signed = [signatures_path(parse_digest(one.release)) for one in lines if one.signed is True]
    for path in [*signed, *([successors_path(lines[0].name)] if signed else [])]:
        with suppress(FileMissing):
            yield path, bundles_in(registry.files.own(path, most_of(path)))


def asked_at_once(
    questions: Sequence[Callable[[], T]], *, is_remote: bool | Sequence[bool]
) -> list[T]:
    """Return the answers to questions to registries, which remote ones are asked together.

    ``is_remote`` may tell for each question whether a request is waited for: a thread for one that
    has come would take longer than the answer.
    """
    waits = [is_remote] * len(questions) if isinstance(is_remote, bool) else is_remote
    if sum(waits) < 2:
        return [question() for question in questions]
    with fetch_pool() as pool:
        begun = [
            pool.submit(question) if is_waited_for else None
            for question, is_waited_for in zip(questions, waits, strict=True)
        ]
        return [
            question() if future is None else future.result()
            for question, future in zip(questions, begun, strict=True)
        ]
