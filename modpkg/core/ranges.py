"""Byte ranges: arithmetic on half-open spans."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from msgspec import Struct

Span = tuple[int, int]
"""``(start, stop)``, with ``start <= stop``."""


def merge(spans: Iterable[Span], gap: int = 0) -> list[Span]:
    """Return the spans in order, merging those that are at most ``gap`` bytes apart.

    >>> merge([(8, 9), (0, 4), (4, 5)], gap=2), merge([(8, 9), (0, 4), (4, 5)], gap=3)
    ([(0, 5), (8, 9)], [(0, 9)])
    """
    merged: list[Span] = []
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if merged and start - merged[-1][1] <= gap:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def left_of(span: Span, done: Sequence[Span]) -> list[Span]:
    """Return the parts of a span that are not in ``done``, which is as `merge` returns it.

    It takes time for the spans of ``done`` within this one, and not for all of them.

    >>> left_of((0, 10), [(2, 3), (8, 20)]), left_of((9, 10), [(2, 3), (8, 20)])
    ([(0, 2), (3, 8)], [])
    """
    start, stop = span
    left: list[Span] = []
    at = bisect_right(done, start, key=itemgetter(1))
    while start < stop and at < len(done) and done[at][0] < stop:
        if start < done[at][0]:
            left.append((start, done[at][0]))
        start, at = done[at][1], at + 1
    return [*left, (start, stop)] if start < stop else left


def subtract(spans: Iterable[Span], done: Iterable[Span]) -> list[Span]:
    """Return the parts of ``spans`` that are not in ``done``.

    >>> subtract([(0, 10)], [(2, 3), (8, 20)])
    [(0, 2), (3, 8)]
    """
    left: list[Span] = []
    gone = merge(done)
    at = 0
    for start, stop in merge(spans):
        while at < len(gone) and gone[at][1] <= start:
            at += 1
        probe = at
        while probe < len(gone) and gone[probe][0] < stop:
            if start < gone[probe][0]:
                left.append((start, gone[probe][0]))
            start = max(start, gone[probe][1])
            probe += 1
        if start < stop:
            left.append((start, stop))
    return left


def split(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """Yield the spans in parts of at most ``size`` bytes.

    >>> list(split([(0, 5), (7, 9)], 4))
    [(0, 4), (4, 5), (7, 9)]
    """
    for start, stop in spans:
        for begin in range(start, stop, size):
            yield begin, min(begin + size, stop)


def length(spans: Iterable[Span]) -> int:
    """Return the total number of bytes of spans that do not overlap."""
    return sum(stop - start for start, stop in spans)


class Segment(Struct, frozen=True, order=True):
    """Bytes ``start`` to before ``stop`` of a registry's pack, and where to write them."""

    start: int
    stop: int
    target: int
    """Number of the tensor."""
    position: int
    """Offset at which the first byte is written."""


def pieces_of(segments: Iterable[Segment], gap: int, size: int) -> list[tuple[Span, list[Segment]]]:
    """Return the pieces to fetch: spans of at most ``size`` bytes, each with its segments.

    Every byte of every segment is in exactly one piece; bytes of overlapping segments are written
    to each of them. Up to ``gap`` bytes between two segments are fetched and dropped, which is
    faster than another request.
    """
    ordered = sorted(segment for segment in segments if segment.start < segment.stop)
    spans = list(split(merge(((s.start, s.stop) for s in ordered), gap), size))
    starts = [start for start, _ in spans]
    pieces: list[tuple[Span, list[Segment]]] = [(span, []) for span in spans]
    for segment in ordered:
        begin = segment.start
        at = bisect_right(starts, begin) - 1
        while begin < segment.stop:
            stop = min(segment.stop, spans[at][1])
            position = segment.position + begin - segment.start
            pieces[at][1].append(Segment(begin, stop, segment.target, position))
            begin, at = stop, at + 1
    return pieces
