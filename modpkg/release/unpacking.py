"""What tensors unpack to: a few bytes of a registry can stand for a full disk.

A tensor is backed by what is fetched for it, and by the tensor that it is decoded on. A change of
one element of a tensor that is here is honest, and takes as much disk again; a tensor of zeros that
is packed into nothing, the thousandth variant of one tensor, or a pack whose tensors overlap are
bounded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from modpkg.core.ranges import Span, length, merge
from modpkg.core.records import TensorEntry
from modpkg.core.tensors import byte_length

RATIO = 16
"""How much smaller a packed tensor is for a good reason."""


def unbacked(entries: Iterable[TensorEntry]) -> Counter[str]:
    """Return, by digest, the bytes that tensors of one release have beyond what backs them."""
    found: Counter[str] = Counter()
    bases: set[str] = set()
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    last: dict[str, str] = {}
    for entry in entries:
        size, encoding = byte_length(entry), entry.encoding
        if encoding is None:
            spans[entry.pack].append((entry.offset, entry.offset + entry.length))
            last[entry.pack] = entry.digest
        elif encoding.base is not None and encoding.base not in bases:
            bases.add(encoding.base)
        else:
            found[entry.digest] += max(0, size - RATIO * entry.length)
    for pack, taken in spans.items():
        total = sum(stop - start for start, stop in taken)
        found[last[pack]] += total - length(merge(taken))
    return +found
